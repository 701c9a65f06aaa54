"""Stages that make checkpoints, and the fields that all training shares."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, Protocol, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from edgevit import bounds
from edgevit.artifacts import ClassName, Frozen, Kind
from edgevit.configs.fields import (
    RANGE_OF_TENSORRT,
    Added,
    BatchSize,
    Beta,
    CalibratedBy,
    Calibrator,
    CheckpointRef,
    ClassCount,
    ClassOrder,
    Count,
    Degrees,
    Epochs,
    Fraction,
    ImageCount,
    LearnedFrom,
    ModelArgs,
    NamesOnly,
    NonNegative,
    Positive,
    Rate,
    Ratio,
    ReadsFile,
    Repeats,
    Seed,
    Share,
    Side,
    ValidatedOn,
)
from edgevit.configs.objectives import (
    AttentionTransfer,
    CrossEntropy,
    DecoupledDistillation,
    FeatureDistillation,
    HardDistillation,
    Objective,
    SoftDistillation,
)
from edgevit.configs.runtimes import QuantizedRuntime
from edgevit.configs.stage import Stage
from edgevit.errors import shortened

# AugReg's grid (Steiner et al. 2021): alpha of mixup, RandAugment's layers and magnitude.
AUGREG: dict[str, tuple[float, int, int]] = {
    "none": (0.0, 0, 0),
    "light1": (0.0, 2, 0),
    "light2": (0.2, 2, 10),
    "medium1": (0.2, 2, 15),
    "medium2": (0.5, 2, 15),
    "heavy1": (0.5, 2, 20),
    "heavy2": (0.8, 2, 20),
}
Preset = Literal["none", "light1", "light2", "medium1", "medium2", "heavy1", "heavy2"]


def _bounded_numbers(policy: str) -> str:
    for number in re.findall(r"\d+(?:\.\d+)?", policy):
        if float(number) not in bounds.POLICY_NUMBER:
            raise ValueError(f"numbers of a policy should be {bounds.POLICY_NUMBER}, got {shortened(number)}")
    return policy


class Augmentation(Frozen):
    """Random changes of training images. Each draw is a function of (seed, epoch, view, sample).

    A preset sets `mixup` and `auto_augment` if they are not given. It may be given alone, by its name.
    """

    preset: Preset | None = Field(None, description="Strength by its name in AugReg's grid.")
    scale: tuple[Fraction, Fraction] = Field(
        (0.6, 1.0), description="Smallest and largest area of the random crop, as a share of the image."
    )
    ratio: tuple[Ratio, Ratio] = Field(
        (0.75, 4 / 3), description="Smallest and largest aspect ratio of the random crop, width over height."
    )
    horizontal_flip: Fraction = Field(0.5, description="Probability that an image is mirrored.")
    color_jitter: NonNegative = Field(
        0.0, description="Strength of random changes of brightness, contrast and saturation; 0 is off."
    )
    auto_augment: Annotated[str, AfterValidator(_bounded_numbers)] | None = Field(
        None, description="Policy by its timm name, such as `rand-m9-mstd0.5-inc1`."
    )
    random_erasing: Fraction = Field(0.0, description="Probability that a rectangle of the image is erased.")
    rotate_degrees: Degrees = Field(0.0, description="Largest angle of a random rotation, either way, in degrees.")
    mixup: NonNegative = Field(0.0, description="Concentration α of mixup; 0 is off.")
    cutmix: NonNegative = Field(
        0.0, description="Concentration α of cutmix; 0 is off. With mixup too, each batch draws one of the two."
    )
    mix_probability: Fraction = Field(1.0, description="Share of the batches that are mixed, with mixup or cutmix.")
    repeats: Repeats = Field(
        1, description="Number of views of each image in a batch (repeated augmentation, Hoffer et al. 2020)."
    )

    @model_validator(mode="before")
    @classmethod
    def _from_preset(cls, fields: Any) -> Any:
        if isinstance(fields, str):
            fields = {"preset": fields}
        if not isinstance(fields, dict) or fields.get("preset") not in AUGREG:
            return fields
        mixup, layers, magnitude = AUGREG[fields["preset"]]
        # Magnitudes above 10 extend AutoAugment's ranges, as in AugReg's code. Each operation is always applied.
        policy = f"rand-m{magnitude}-n{layers}-mmax30-p1" if layers else None
        return {"mixup": mixup, "auto_augment": policy, **fields}

    @property
    def mixes(self) -> bool:
        """Whether images are mixed with each other."""
        return bool((self.mixup or self.cutmix) and self.mix_probability)


class ViewSpec(Frozen):
    """Views of each image in a batch. The other random changes are those of the stage's augmentation."""

    count: Count = Field(1, description="Number of such views.")
    size: Side | None = Field(None, description="Side of the views in pixels. By default, the model's own.")
    scale: tuple[Fraction, Fraction] = Field(
        (0.6, 1.0), description="Smallest and largest area of the random crop, as a share of the image."
    )


IMBALANCE_OPTIONS = ("class_weights", "sampling", "logit_adjustment")


class Training(Stage):
    """Base of the stages that train."""

    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2

    epochs: Epochs = Field(10, description="Number of epochs. An epoch has as many images as the first stream.")
    batch_size: BatchSize = Field(64, description="Number of images in a batch, over all processes.")
    accumulation: BatchSize = Field(
        1, description="Number of parts of a batch. They are computed one after another, which saves memory."
    )
    learning_rate: Rate = Field(5e-4, description="Largest learning rate, after the warm-up.")
    learning_rate_batch: BatchSize | None = Field(
        None,
        description="Batch size that `learning_rate` is meant for. The rate is scaled in proportion to `batch_size`.",
    )
    weight_decay: NonNegative = Field(0.05, description="Strength of the weight decay.")
    optimizer: str = Field("adamw", description="Optimizer by its timm name.")
    schedule: Literal["cosine", "constant", "tanh", "poly", "step", "multistep"] = Field(
        "cosine", description="Schedule of the learning rate by its timm name."
    )
    decay_epochs: tuple[Count, ...] = Field(
        (), description="Epochs at which the rate falls. `schedule: step` takes one number, the interval in epochs."
    )
    decay_rate: Fraction = Field(
        0.1, description="Factor of each fall of the rate, with `schedule: step` or `multistep`."
    )
    power: Positive = Field(
        1.0, description="Exponent of `schedule: poly`. The rate falls as (1 - share of the steps) to this power."
    )
    warmup_fraction: Fraction = Field(0.05, description="Share of the steps over which the learning rate rises from 0.")
    layer_decay: Share | None = Field(
        None, description="Factor of the learning rate from each layer to the layer before it, for fine-tuning."
    )
    freeze: Literal["backbone"] | Count | None = Field(
        None, description="Weights that are not trained: all but the classifier, or the first so many layers."
    )
    freeze_batch_norm: Annotated[bool, Added()] = Field(
        False,
        description="Whether batch normalization keeps its running statistics. A pretrained network loses much if few "
        "images replace them.",
    )
    clip_grad_norm: Positive | None = Field(None, description="Largest norm of the gradient. Longer ones are scaled.")
    dropout: Fraction = Field(0.0, description="Dropout rate before the classifier, timm's `drop_rate`.")
    drop_path_rate: Fraction = Field(0.0, description="Rate of stochastic depth, timm's `drop_path_rate`.")
    regularization: Fraction = Field(0.0, description="Value for both `dropout` and `drop_path_rate`, as in AugReg.")
    ema_decay: Fraction | None = Field(
        None, description="Decay of an exponential moving average of the weights, which becomes the result."
    )
    augmentation: Annotated[
        Augmentation, BeforeValidator(lambda given: given, json_schema_input_type=Preset | Augmentation)
    ] = Field(Augmentation(), description="Random changes of training images: a preset by its name, or single values.")
    precision: Literal["float32", "bfloat16", "float16", "auto"] = Field(
        "float32",
        description="Precision of autocast. auto: bfloat16 where it trains this model faster, and float32 elsewhere. A "
        "few timed steps decide on a CPU.",
    )
    channels_last: bool = Field(
        False, description="Whether memory is laid out channels-last. Convolutions are then faster on recent devices."
    )
    grad_checkpointing: bool = Field(
        False,
        description="Whether activations are computed again for the backward pass. It takes less memory and about a "
        "third more time. Batch normalization then counts a batch twice in its running statistics.",
    )
    compile: bool = Field(False, description="Whether `torch.compile` is used. It needs a C++ compiler.")
    seed: Seed = Field(0, description="Seed of the initial weights, the order of images and their augmentation.")

    @model_validator(mode="after")
    def _no_contradiction(self) -> Self:
        if self.regularization and (self.dropout or self.drop_path_rate):
            raise ValueError("'regularization' sets dropout and drop_path_rate: give one or the other")
        falls = {"step": (1, 1), "multistep": (1, 10**6)}.get(self.schedule, (0, 0))
        if not falls[0] <= len(self.decay_epochs) <= falls[1]:
            expected = {"step": "one number", "multistep": "one or more numbers"}.get(self.schedule, "none")
            raise ValueError(
                f"schedule '{self.schedule}' takes {expected} as decay_epochs, got {len(self.decay_epochs)}"
            )
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError(f"decay_epochs have to rise, got {', '.join(map(str, self.decay_epochs))}")
        for option, default, schedules in (("decay_rate", 0.1, ("step", "multistep")), ("power", 1.0, ("poly",))):
            if getattr(self, option) != default and self.schedule not in schedules:
                raise ValueError(f"'{option}' goes with schedule {' or '.join(schedules)}, not with '{self.schedule}'")
        return self

    @property
    def peak_learning_rate(self) -> float:
        """The learning rate, scaled in proportion to the batch size (Goyal et al. 2017)."""
        return self.learning_rate * (self.batch_size / (self.learning_rate_batch or self.batch_size))

    @property
    def model_rates(self) -> dict[str, float]:
        """timm's arguments for dropout and stochastic depth; rates of 0 are left out."""
        rates = {
            "drop_rate": self.dropout or self.regularization,
            "drop_path_rate": self.drop_path_rate or self.regularization,
        }
        return {name: rate for name, rate in rates.items() if rate}


class ClassifierTraining(Training):
    """Base of the stages that train a classifier."""

    label_smoothing: Fraction = Field(0.0, description="Share of the target that is spread evenly over all classes.")
    class_weights: Annotated[Literal["balanced", "effective_number"] | None, Added()] = Field(
        None,
        description="Weight of each class in the cross-entropy with labels: `balanced` is inverse to its number of "
        "training images, as in scikit-learn; `effective_number` to the effective number (Cui et al. 2019).",
    )
    class_weights_beta: Annotated[Beta, Added()] = Field(
        0.999,
        description="Value β of `class_weights: effective_number`. With 0, all weights are equal; close to 1, the "
        "weights are those of `balanced`.",
    )
    sampling: Annotated[Literal["shuffled", "balanced"], Added()] = Field(
        "shuffled",
        description="Order of the images of labelled streams: `shuffled` shows each image once in a pass; `balanced` "
        "shows each class equally often, so images of small classes come several times.",
    )
    logit_adjustment: Annotated[NonNegative, Added()] = Field(
        0.0,
        description="Strength τ of logit adjustment (Menon et al. 2021) in the cross-entropy with labels: classes with "
        "few training images need larger logits there. 1 aims at balanced accuracy; 0 is off.",
    )

    @model_validator(mode="after")
    def _one_correction_of_imbalance(self) -> Self:
        given = [name for name in IMBALANCE_OPTIONS if self.is_given(name)]
        if len(given) > 1:
            raise ValueError(f"'{given[0]}' and '{given[1]}' correct the same imbalance twice: give one of them")
        if self.is_given("class_weights_beta") and self.class_weights != "effective_number":
            raise ValueError("'class_weights_beta' goes with class_weights: effective_number")
        return self

    @property
    def corrects_imbalance(self) -> bool:
        """Whether an option corrects for classes of unequal size. All classes then count alike in a choice."""
        return any(map(self.is_given, IMBALANCE_OPTIONS))

    def is_given(self, option: str) -> bool:
        """Whether an option has another value than its default."""
        return bool(getattr(self, option) != type(self).model_fields[option].default)


View = Literal["flip", "zoom"]


def _no_view_twice(views: tuple[View, ...]) -> tuple[View, ...]:
    if len(set(views)) < len(views):
        raise ValueError(f"a view is named twice: {', '.join(views)}")
    return views


Views = Annotated[tuple[View, ...], AfterValidator(_no_view_twice)]


class Load(Stage):
    """Load a timm model with pretrained weights, with weights from a file, or with its initial random weights."""

    stage: Literal["load"]
    makes: ClassVar[Kind] = "checkpoint"
    version: ClassVar[int] = 2

    model: str = Field(description="Model by its timm name.")
    model_args: ModelArgs = Field({}, description="Arguments of timm's `create_model`.")
    pretrained: bool = Field(
        False, description="Whether pretrained weights are used: timm's, which are downloaded, or a body's."
    )
    weights: Annotated[str, ReadsFile()] | None = Field(
        None,
        description="File of weights, in place of timm's: .safetensors, or .pth that holds tensors only. Relative to "
        "the recipe. float16, bfloat16 and float64 become float32. If the classifier has another number of classes, a "
        "new one takes its place.",
    )
    weights_key: str | None = Field(
        None, description="Name of the weights in the file, such as `state_dict`. EMA weights by default, as in timm."
    )
    num_classes: ClassCount | None = Field(None, description="Number of classes, if they have no names.")
    classes: tuple[ClassName, ...] | None = Field(None, description="Class names in the order of the outputs.")
    classes_of: NamesOnly | None = Field(None, description="Data set whose class names the model gets.")
    class_order: ClassOrder | None = Field(
        None,
        description="Order of the class folders when the weights were trained, with `weights` and `classes_of`: "
        "`natural` (timm: 2 before 10) or `text` (torchvision: 10 before 2).",
    )
    image_size: Side | None = Field(None, description="Side of the input in pixels. By default, the model's own.")
    test_time_views: Views = Field(
        (), description="Views whose answers are averaged with the answer for the image. Each view costs one more pass."
    )

    @model_validator(mode="after")
    def _options_of_weights(self) -> Self:
        if self.num_classes is not None and (self.classes is not None or self.classes_of is not None):
            raise ValueError("'num_classes' goes without 'classes' and 'classes_of', which give the number too")
        for option in ("weights_key", "class_order"):
            if getattr(self, option) is not None and self.weights is None:
                raise ValueError(f"'{option}' goes with 'weights'")
        if self.class_order is not None and self.classes_of is None:
            raise ValueError("'class_order' goes with 'classes_of'; 'classes' are in the order of the outputs")
        return self


class _Started(Protocol):
    @property
    def model(self) -> str | None: ...
    @property
    def init(self) -> str | None: ...


def check_start(config: _Started) -> None:
    """Raise ValueError unless a stage starts from either a new model or a checkpoint."""
    if (config.model is None) == (config.init is None):
        raise ValueError("give either 'model' (a timm name) or 'init' (an earlier checkpoint)")
    fixed = [name for name in ("model_args", "distillation_token") if getattr(config, name, None)]
    if config.init is not None and fixed:
        raise ValueError(f"'{fixed[0]}' goes with 'model'; a checkpoint given as 'init' keeps its own")


class Train(ClassifierTraining):
    """Train a classifier on labelled images."""

    stage: Literal["train"]
    model: str | None = Field(None, description="Model by its timm name. Give `model` or `init`.")
    model_args: ModelArgs = Field({}, description="Arguments of timm's `create_model`.")
    init: CheckpointRef | None = Field(
        None, description="Checkpoint to start from. The classifier is new if the classes differ."
    )
    image_size: Side | None = Field(None, description="Side of the input in pixels. By default, the model's own.")
    data: LearnedFrom = Field(description="Labelled images to learn from.")
    val: ValidatedOn | None = Field(None, description="Labelled images to validate on after each epoch.")

    @model_validator(mode="after")
    def _one_start(self) -> Train:
        check_start(self)
        return self


class Stream(Frozen):
    """A source of training images."""

    data: LearnedFrom = Field(description="Images of the stream, with or without labels.")
    share: Share = Field(1.0, description="Share of each batch. The shares of all streams add up to 1.")


class WeightedTeacher(Frozen):
    """A teacher among several."""

    model: CheckpointRef = Field(description="The teacher.")
    weight: Positive = Field(1.0, description="Weight of its probabilities in the mean.")


class TeacherCache(Frozen):
    """Keep the teacher's answers to each view. Other students of the same views and teacher then need no teacher.

    With all answers in float32, the student is the same to the bit as without the cache, on the same CPU and versions.
    """

    top_k: Count | None = Field(
        None,
        description="Number of probabilities that are kept, the largest. The rest is spread evenly (TinyViT). All are "
        "kept by default.",
    )
    dtype: Literal["float32", "float16"] = Field("float32", description="Precision of the kept answers.")


class Distillation(ClassifierTraining):
    """Base of the stages that learn from teachers."""

    teacher: CheckpointRef | None = Field(None, description="Model that teaches.")
    teachers: tuple[WeightedTeacher, ...] = Field(
        (),
        description="Several teachers. The weighted mean of their probabilities teaches. Give `teacher` or `teachers`.",
    )
    teacher_cache: TeacherCache | None = Field(
        None, description="Keeps the teacher's answers for the next student of the same views. `{}` turns it on."
    )
    teacher_view: Literal["same", "plain"] = Field(
        "same",
        description="Image that the teacher sees: the student's view, or the plain image. The plain image is computed "
        "once, which suits a teacher that is slow beside the student; take a gentle augmentation then. For mixed "
        "images, its features are mixed in the same shares.",
    )
    streams: tuple[Stream, ...] = Field(min_length=1, description="Sources of training images.")
    objectives: tuple[Objective, ...] = Field(
        min_length=1, description="Terms of the loss, which is their weighted sum."
    )
    val: ValidatedOn | None = Field(None, description="Labelled images to validate on after each epoch.")

    @model_validator(mode="after")
    def _check_teaching(self) -> Self:
        total = sum(stream.share for stream in self.streams)
        if len(self.streams) > 1 and abs(total - 1) > 1e-6:
            raise ValueError(f"the shares of the streams must add up to 1, got {total:g}")
        self._check_terms()
        if self.teacher_view == "plain":
            self._check_plain_view()
        return self

    def _check_plain_view(self) -> None:
        if self.teacher_cache is not None:
            raise ValueError("teacher_view: plain needs no teacher_cache: leave it out")
        for term in self.objectives:
            inner = isinstance(term, FeatureDistillation) and term.teacher != "pooled"
            if inner or isinstance(term, AttentionTransfer):
                raise ValueError(f"teacher_view: plain keeps only pooled features, and '{term.loss}' needs others")

    def _check_terms(self) -> None:
        taught = any(not isinstance(term, CrossEntropy) for term in self.objectives)
        if not taught:
            raise ValueError("no term learns from the teacher: add one, such as hard, or use a train stage")
        for option in ("class_weights", "logit_adjustment"):
            if self.is_given(option) and not any(isinstance(term, CrossEntropy) for term in self.objectives):
                raise ValueError(
                    f"'{option}' changes the cross-entropy with labels, and no term is one: add cross_entropy, or use "
                    "sampling: balanced"
                )
        for term in self.objectives:
            if isinstance(term, DecoupledDistillation) and self.augmentation.mixes:
                raise ValueError("dkd needs one label for each image: leave out mixup and cutmix, or use 'soft'")
            if isinstance(term, (FeatureDistillation, AttentionTransfer)):
                if self.teacher_cache is not None:
                    raise ValueError(
                        f"the teacher cache keeps no features, which '{term.loss}' needs: leave one of them out"
                    )
                if len(self.teachers) > 1:
                    raise ValueError(f"'{term.loss}' takes one teacher, got {len(self.teachers)}")


class Distill(Distillation):
    """Train a student that learns from a teacher."""

    stage: Literal["distill"]
    version: ClassVar[int] = 3
    model: str | None = Field(None, description="Student by its timm name. Give `model` or `init`.")
    model_args: ModelArgs = Field({}, description="Arguments of timm's `create_model`.")
    init: CheckpointRef | None = Field(
        None, description="Checkpoint to start from. The classifier is new if the classes differ."
    )
    distillation_token: bool = Field(
        False, description="Whether the student has a second token and head that learn from the teacher (DeiT)."
    )
    inference: Literal["mean_softmax", "mean_logits", "class", "distillation"] | None = Field(
        None,
        description="Answer of a distillation-token student: the mean of both heads (of softmax or of logits), or one "
        "head. By default `mean_softmax`, or the checkpoint's own.",
    )
    image_size: Side | None = Field(None, description="Side of the input in pixels. By default, the model's own.")
    objectives: tuple[Objective, ...] = Field(
        (CrossEntropy(weight=0.5), HardDistillation(weight=0.5)),
        min_length=1,
        description="Terms of the loss, which is their weighted sum.",
    )

    @model_validator(mode="after")
    def _checks(self) -> Distill:
        check_start(self)
        if (self.teacher is None) == (not self.teachers):
            raise ValueError("give either 'teacher' or 'teachers'")
        if self.inference is not None and not self.distillation_token and self.init is None:
            raise ValueError("'inference' chooses between two heads: it goes with distillation_token: true")
        self._check_heads()
        return self

    def _check_heads(self) -> None:
        idle = idle_head(self.objectives, self.inference or "mean_softmax") if self.distillation_token else None
        if idle is not None:
            other = next(head for head in HEAD_TEACHERS if head != idle)
            raise ValueError(
                f"the {idle} head of a distillation-token student would learn nothing: add {HEAD_TEACHERS[idle]}, or "
                f"leave it out of the prediction with inference: {other}"
            )


HEAD_TEACHERS = {"class": "cross_entropy", "distillation": "hard or soft"}


def idle_head(objectives: Sequence[Objective], inference: str) -> str | None:
    """The head of a distillation-token student that predicts but that no term trains; None if there is none."""
    features = (CrossEntropy, FeatureDistillation, AttentionTransfer)
    learns = {
        "class": any(isinstance(term, CrossEntropy) for term in objectives),
        "distillation": any(not isinstance(term, features) for term in objectives),
    }
    return next(
        (head for head in learns if not learns[head] and inference in ("mean_softmax", "mean_logits", head)), None
    )


class Qat(Distillation):
    """Train a checkpoint while its layers round as in INT8 (quantization-aware training)."""

    stage: Literal["qat"]
    version: ClassVar[int] = 7
    init: CheckpointRef = Field(description="Checkpoint to train. It teaches itself if no teacher is given.")
    runtime: QuantizedRuntime = Field(
        "onnxruntime",
        description="Runtime of the INT8 file. It decides which tensors are rounded, and to which integers.",
    )
    calibration: CalibratedBy = Field(description="Images that give the ranges of activations at the start.")
    calibration_images: ImageCount = Field(256, description="Largest number of calibration images that are used.")
    calibrator: Calibrator = Field("minmax", description="Rule that turns observed values into a range.")
    learn_ranges: bool = Field(True, description="Whether the ranges are trained too (LSQ).")
    reduce_range: Annotated[bool | None, Added()] = Field(
        None,
        description="Whether weights have 7 bits in place of 8, as in `quantize`. By default, where products of 8 bits "
        "overflow on this machine.",
    )
    smoothquant: Fraction | None = Field(
        None,
        description="SmoothQuant strength α, before the training; 0 turns it off. By default, 0.5 is tried if a "
        "channel of a layer norm is 8 times as large as the median channel, and used if the SQNR rises by 0.5 dB.",
    )
    objectives: tuple[Objective, ...] = Field(
        (SoftDistillation(),), min_length=1, description="Terms of the loss, which is their weighted sum."
    )
    learning_rate: Rate = Field(1e-4, description="Largest learning rate, after the warm-up.")

    @model_validator(mode="after")
    def _one_kind_of_teacher(self) -> Qat:
        if self.teacher is not None and self.teachers:
            raise ValueError("give either 'teacher' or 'teachers', or neither: then 'init' teaches")
        return self

    @model_validator(mode="after")
    def _range_is_reduced_for_cpus(self) -> Self:
        if self.reduce_range and self.runtime == "tensorrt":
            raise ValueError(RANGE_OF_TENSORRT)
        return self
