"""Functions of the Python interface. Each runs the stage of its name, as the command of that name does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from edgevit.api.arguments import (
    argument,
    as_settings,
    check_options,
    flag_argument,
    names_argument,
    number_argument,
    path_argument,
    size_argument,
    text_argument,
)
from edgevit.api.inputs import Data, labelled_images, support_images, unlabelled_images
from edgevit.api.model import Model
from edgevit.api.results import Evaluation, FeatureEvaluation, FewShotEvaluation, Latency, Run, evaluation_of
from edgevit.api.workspace import new_folder, stages
from edgevit.artifacts import MANIFEST, Artifact, IOSpec, Preprocess, manifest_text, sha256_of
from edgevit.bounds import (
    BATCH,
    CANDIDATES,
    COMPARED_S,
    COUNT,
    LOSS,
    MEASURED_S,
    NON_NEGATIVE,
    POSITIVE,
    THREADS,
    WORKERS,
)
from edgevit.configs.targets import LOCAL_CPU
from edgevit.errors import ArtifactError, RecipeError
from edgevit.selection.halving import STUDENTS

if TYPE_CHECKING:
    from torch import nn

    from edgevit.actions.compare_models import ModelComparison
    from edgevit.actions.first_difference import Difference
    from edgevit.actions.select_student import SelectedStudent
    from edgevit.checking.timed_layers import TimedModel
    from edgevit.latency_model.estimate import Estimate

ModelLike = Model | str | Path


def load(
    source: str | Path,
    classes: Sequence[str] | None = None,
    *,
    pretrained: bool = False,
    weights: str | Path | None = None,
    image_size: int | None = None,
    **options: Any,
) -> Model:
    """A model from a file, a folder, or timm.

    Args:
        source: an ONNX file, a bundle, the folder of a checkpoint (runs/NAME/ID) or of a TensorRT engine, or the name
            of a timm model. A name that is also a file or a folder here is refused: "./NAME" is the file or folder.
        classes: class names in the order of the outputs. A timm model gets as many outputs. A model that is read from
            a file is given these names.
        pretrained: take the weights that timm knows for this model, or that come with edgevit; random ones otherwise.
        weights: a .safetensors file, or a .pth file of tensors alone.
        image_size: side of the input in pixels; the model's own by default.
        options: more options of the stage `load`, such as `model_args` or `num_classes`.

    Raises:
        ArtifactError: the file is no model, or its weights belong to another model.
        RecipeError: there is neither such a file nor such a timm model, or an option is wrong.

    Example:
        >>> import edgevit
        >>> student = edgevit.load("test_vit", classes=["bolt", "nut"], image_size=32)
        >>> student.classes
        ('bolt', 'nut')
    """
    names = None if classes is None else names_argument(classes, argument("load", "classes"))
    if not _is_path(source):
        from edgevit.configs import Load

        weights_file = None
        if weights is not None:
            weights_file = str(path_argument(weights, argument("load", "weights")).absolute())
        given: dict[str, Any] = {"classes": names, "pretrained": pretrained, "weights": weights_file}
        given["image_size"] = image_size
        made = _artifact_of(Load, str(source), {}, {**options, **given}, {"model": str(source)})
        return Model(made)
    given = {"pretrained": pretrained or None, "weights": weights, "image_size": image_size, **options}
    if unfit := [name for name, value in given.items() if value is not None]:
        where = argument("load", unfit[0])
        raise RecipeError(f"'{unfit[0]}' goes with the name of a timm model", where=where, got=f"the file {source}")
    path = path_argument(source, argument("load", "source")).resolve()
    model = Model(stages().model(path), bundle=path if (path / "bundle.json").is_file() else None)
    return model if names is None else _renamed(model, names)


def export(
    model: ModelLike | nn.Module,
    *,
    classes: Sequence[str] | None = None,
    image_size: int | Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    **options: Any,
) -> Model:
    """Export a checkpoint or a torch module to ONNX. The answers of the file are checked against torch.

    Args:
        model: a checkpoint, or a module of one's own: float images (N, 3, H, W) → logits (N, classes).
        classes: of a module: class names in the order of the outputs.
        image_size: of a module: side of the input in pixels, or (height, width).
        mean, std: of a module: mean and standard deviation of red, green and blue on a scale of 0 to 1; those of
            ImageNet by default.
        options: more options of the stage `export`: `precision`, `opset`, `normalize`, `embedding`, `runtime`, …

    Raises:
        ArtifactError: the model cannot be exported.
        ParityError: the file answers otherwise than torch.

    Example:
        >>> onnx = edgevit.export(edgevit.load("test_vit", classes=["bolt", "nut"], image_size=32))
        >>> onnx.kind, onnx.metrics["precision"]
        ('onnx', 'float32')
    """
    from edgevit.configs import Export

    if isinstance(model, Model | str | Path):
        given = {"classes": classes, "image_size": image_size, "mean": mean, "std": std}
        if unfit := [name for name, value in given.items() if value is not None]:
            where = argument("export", unfit[0])
            raise RecipeError(f"'{unfit[0]}' is for a torch module: a checkpoint holds it", where=where)
        return Model(_artifact_of(Export, "onnx", {"model": _artifact(model)}, options))
    if classes is None or image_size is None:
        where = argument("export", "classes" if classes is None else "image_size")
        raise RecipeError("a torch module needs `classes` and `image_size`", where=where)
    names = names_argument(classes, argument("export", "classes"))
    return _exported_module(model, names, _preprocess(image_size, mean, std), options)


def quantize(model: ModelLike, calibration: Data, validation: Data | None = None, **options: Any) -> Model:
    """Quantize an ONNX model after training. Its closeness to the float model is checked.

    Args:
        model: a float ONNX model.
        calibration: a folder of images, labelled or not, or a data set object (see `evaluate`).
        validation: labelled images, as a folder CLASS/*.jpg or a data set object. On these, a form may lose
            `max_top1_drop` of top-1 against the float model, 0.01 by default. `metrics["top1_drop"]` holds the loss.
        options: more options of the stage `quantize`: `calibration_images`, `runtime`, `precision`, `calibrator`,
            `placement`, `threads`, `size_mib`, `min_sqnr_db`, `max_top1_drop`, …

    Raises:
        ParityError: the quantized model is too far from the float model, or loses too much accuracy.

    Returns:
        The quantized model; the float model where `placement` is "fastest" and no INT8 form is faster on this machine,
        unless the float model exceeds `size_mib` and a form does not.
    """
    from edgevit.configs import Quantize

    with ExitStack() as opened:
        images = unlabelled_images(calibration, stages(), argument("quantize", "calibration"))
        inputs = {"model": _artifact(model), "calibration": opened.enter_context(images)}
        if validation is not None:
            labelled = support_images(validation, stages(), argument("quantize", "validation"))
            inputs["validation"] = opened.enter_context(labelled)
        return Model(_artifact_of(Quantize, "quantized", inputs, options))


def compile(model: ModelLike, target: str = LOCAL_CPU, **options: Any) -> Model:
    """Compile an ONNX model for the runtime of a target. Its answers are checked against the model's.

    Args:
        target: where the model will run: "local-cpu", or a name in targets.yaml. A TensorRT engine is built on
            "local-gpu", or on a machine in targets.yaml.
        options: more options of the stage `compile`: `runtime` ("tensorrt" builds an engine), and for an engine
            `batch_size`, `max_batch`, `builder_level`, `workspace_mib`, …

    Returns:
        The compiled model. `profile`, `evaluate`, `compare` and `Model.predict` take it with the same `target`.

    Raises:
        ParityError: the compiled file answers otherwise.
        CheckFailed: an engine runs a product in more bits than the ONNX file asks for.
        TargetError: the target does not build engines, or the build failed.

    Example:
        >>> engine = edgevit.compile("int8.onnx", "orin", runtime="tensorrt")  # doctest: +SKIP
        >>> edgevit.profile(engine, target="orin").p50_ms  # doctest: +SKIP
        >>> engine.save("engine/")  # edgevit.load("engine/") reads it  # doctest: +SKIP
    """
    from edgevit.configs import Compile

    return Model(_artifact_of(Compile, "engine", {"model": _artifact(model)}, {"target": target, **options}))


def first_difference(model: ModelLike, target: str, **options: Any) -> Difference:
    """Find the first tensor in which the TensorRT engine of a model differs, where `compile` refuses its outputs.

    Engines are built on the target, with tensors of the ONNX file as further outputs. They are held against ONNX
    Runtime here. `edgevit compile --find-difference` does this, too.

    Args:
        model: the ONNX model.
        target: what builds engines: "local-gpu", or a name in targets.yaml.
        options: those of `compile`, apart from `runtime`: `batch_size`, `max_batch`, `builder_level`, …

    Returns:
        The first tensor that differs, and the tensors before it that agree. `first` is None where every engine with
        further outputs is right.

    Raises:
        TargetError: the target builds no engines, or a build or a run fails there.
        ArtifactError: TensorRT does not take the model with further outputs.

    Example:
        >>> found = edgevit.first_difference("int8.onnx", "orin", max_batch=8)  # doctest: +SKIP
        >>> found.first and found.first.node  # doctest: +SKIP
    """
    from edgevit.actions import first_difference as search
    from edgevit.actions.single_stage import stage_config_from_arguments
    from edgevit.configs import Compile

    fields = {"id": "engine", "model": "model", "target": target, "runtime": "tensorrt"}
    given = check_options(options, ("stage", *fields), "compile")
    config = stage_config_from_arguments(Compile, **fields, **given)
    return search.first_difference(_artifact(model), config, stages().context)


@overload
def evaluate(model: ModelLike, data: Data, *, protocol: Literal["episodes"], **options: Any) -> FewShotEvaluation: ...


@overload
def evaluate(
    model: ModelLike, data: Data, *, protocol: Literal["knn", "linear"], support: Data, **options: Any
) -> FeatureEvaluation: ...


@overload
def evaluate(
    model: ModelLike,
    data: Data,
    *,
    protocol: Literal["standard", "corruptions", "cross_validation"] = ...,
    **options: Any,
) -> Evaluation: ...


def evaluate(
    model: ModelLike, data: Data, *, support: Data | None = None, **options: Any
) -> Evaluation | FewShotEvaluation | FeatureEvaluation:
    """Measure accuracy on labelled images; optionally under corruption, few-shot, or of heads on the features.

    Args:
        data: a folder CLASS/*.jpg, or a folder whose subfolder test/ is one; or a data set object: `classes`, a length,
            and (image, class index) by position, as torchvision has them. Images of an object have one size and are
            PIL images or arrays (H, W, 3) of uint8.
        support: labelled images, as `data`: those that heads are fitted to, with `protocol="knn"` and
            `protocol="linear"`; those that support sets are drawn from, with `protocol="episodes"`.
        options: more options of the stage `evaluate`: `target`, `runtime`, `batch_size`, `protocol`, …

    Returns:
        The accuracy. With `protocol="episodes"`, the accuracy of few-shot heads over many episodes. With
        `protocol="knn"` or `protocol="linear"`, that of heads on the frozen features.

    Raises:
        DataError: the images have no labels, or a class that the model does not know.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> class Digits:
        ...     classes = [str(digit) for digit in range(10)]
        ...     pixels, labels = (load_digits().images * 15).astype("uint8"), load_digits().target
        ...     def __len__(self):
        ...         return 50
        ...     def __getitem__(self, index):
        ...         return self.pixels[index], self.labels[index]
        >>> model = edgevit.load("test_vit", classes=Digits.classes, image_size=32)
        >>> 0 <= edgevit.evaluate(model, Digits()).top1 <= 1
        True
    """
    from edgevit.configs import Evaluate

    with ExitStack() as stack:
        images = stack.enter_context(labelled_images(data, stages(), argument("evaluate", "data")))
        inputs = {"model": _artifact(model), "data": images}
        if support is not None:
            where = argument("evaluate", "support")
            inputs["support"] = stack.enter_context(support_images(support, stages(), where))
        return evaluation_of(_artifact_of(Evaluate, "evaluation", inputs, options))


def profile(model: ModelLike, **options: Any) -> Latency:
    """Measure the latency of a model.

    Args:
        options: options of the stage `profile`: `target`, `runtime`, `threads`, `batch_size`, `boundary`,
            `duration_s`, `starts`, … With `scenario="offline"` and `batch_sizes`, `record.offline` of the result is the
            throughput with each batch size. With `scenario="fixed_rate"` and `rate_hz`, `record.fixed_rate` is a stream
            of frames.

    Raises:
        TargetError: the target does not work here, or the model has another fixed batch size.
    """
    from edgevit.configs import Profile
    from edgevit.runtimes.base import fixed_batch

    artifact = _artifact(model)
    if "batch_sizes" not in options:
        options = {"batch_size": fixed_batch(artifact.io) or 1, **options}
    return Latency(_artifact_of(Profile, "latency", {"model": artifact}, options))


def compare(
    model: ModelLike,
    *others: ModelLike,
    data: Data | None = None,
    threads: int = 1,
    batch_size: int | None = None,
    duration_s: float = COMPARED_S,
    target: str = LOCAL_CPU,
    runtime: str | Sequence[str] | None = None,
    max_slowdown: float = 0.0,
    max_top1_drop: float = 0.0,
) -> ModelComparison:
    """Compare models with the first on a target: latencies interleaved in one run, accuracies on the same images.

    The intervals of all speeds hold together with 95% confidence, and so do those of all losses of top-1: the intervals
    of several models are wider (Bonferroni).

    Args:
        others: one or more models, each compared with `model`.
        data: labelled images as `evaluate` takes them; accuracy is left out without them.
        threads: CPU threads of the runtime.
        batch_size: images at a time; 1 by default, or the batch size that a file fixes.
        duration_s: seconds to measure each model.
        target: where all run: this machine's CPU or GPU, or a name in targets.yaml.
        runtime: what runs ONNX files: "onnxruntime" or "openvino" for all models, or one for each.
        max_slowdown, max_top1_drop: what another model may lose before `is_met` is False: 0.05 is 5% of latency, 0.01
            one point of top-1.

    Returns:
        The comparison. `print` shows it in sentences, a notebook shows a table. `is_met` tells whether no model is
        slower or less accurate than `model` beyond chance and beyond these limits.

    Raises:
        RecipeError: a number is out of its range, or there is no other model.
    """
    from edgevit.actions.compare_models import LossLimits, compare_models

    threads = number_argument(threads, int, THREADS, argument("compare", "threads"))
    duration_s = number_argument(duration_s, float, MEASURED_S, argument("compare", "duration_s"))
    if batch_size is not None:
        batch_size = number_argument(batch_size, int, BATCH, argument("compare", "batch_size"))
    limits = LossLimits(
        number_argument(max_slowdown, float, NON_NEGATIVE, argument("compare", "max_slowdown")),
        number_argument(max_top1_drop, float, LOSS, argument("compare", "max_top1_drop")),
    )
    runtimes = [runtime] if isinstance(runtime, str) else runtime or ()
    run_stages, artifacts, where = stages(), [_artifact(one) for one in (model, *others)], argument("compare", "data")
    with ExitStack() as inputs:
        images = None if data is None else inputs.enter_context(labelled_images(data, run_stages, where))
        return compare_models(run_stages, artifacts, images, threads, batch_size, duration_s, target, runtimes, limits)


def layer_times(
    model: ModelLike,
    *,
    target: str = LOCAL_CPU,
    runtime: str | None = None,
    threads: int = 1,
    batch_size: int | None = None,
) -> TimedModel:
    """The time of each layer of a checkpoint or an ONNX model, with its module and what bounds it (roofline).

    Args:
        target: "local-cpu"; machines over SSH do not tell the times of layers.
        runtime: what opens an ONNX file: "onnxruntime" or "openvino"; the file's own by default.
        threads: CPU threads of the runtime.
        batch_size: images in a run; 1 by default, or the batch size that the model fixes.

    Returns:
        The layers in the order of execution. `opaque_share` is the share of the time in layers that tell no node of the
        file, `times.overhead` what the profiler costs, `by_module` and `by_bound` where the time goes.

    Raises:
        RecipeError: the target is not "local-cpu", or there is no such runtime.
        TargetError: the model is a TensorRT engine, or the runtime cannot open it.

    Example:
        >>> timed = edgevit.layer_times("int8.onnx")  # doctest: +SKIP
        >>> max(timed.layers, key=lambda layer: layer.ms).module  # doctest: +SKIP
        'blocks.0.mlp.fc1'
    """
    from edgevit.actions.inspect_layers import check_runtime, timed_model

    check_runtime(runtime, argument("layer_times", "runtime"))
    threads = number_argument(threads, int, THREADS, argument("layer_times", "threads"))
    if batch_size is not None:
        batch_size = number_argument(batch_size, int, BATCH, argument("layer_times", "batch_size"))
    return timed_model(_artifact(model), target, runtime, batch_size, threads, stages().context)


def estimate(
    model: ModelLike,
    board: str,
    *,
    precision: str | None = None,
    tensorrt: str | None = None,
    power_mode: str | None = None,
    runtime: str | None = None,
    threads: int | None = None,
    batch_size: int | None = None,
) -> Estimate:
    """Predict the latency of an ONNX model on a board that is not at hand. Nothing is measured.

    Args:
        board: such as "orin-nano-8gb"; or a target that `edgevit devices calibrate` has fitted.
        precision: "float32", "float16" or "int8"; on a board by default that of the file's Q/DQ pairs, and float16
            without any. On a calibrated target, it is that of the file.
        tensorrt: version of TensorRT, such as "10.3", to check against the board.
        power_mode: such as "MAXN_SUPER"; the board's fastest ordinary mode by default.
        runtime, threads: of a calibrated target; by default those of its last calibration.
        batch_size: 1 by default, or the batch size that the file fixes.

    Returns:
        The predicted latency with its intervals.

    Raises:
        RecipeError: an unknown board, or an option that does not fit.
        TargetError: no latency is predicted for this board or precision.
        ArtifactError: the file is no valid ONNX file, a size is open, or arithmetic has no rule.

    Example:
        >>> onnx = edgevit.export(edgevit.load("test_vit", classes=["bolt", "nut"], image_size=32))
        >>> predicted = edgevit.estimate(onnx, "orin-nano-8gb")
        >>> predicted.low_90_ms < predicted.latency_ms < predicted.high_90_ms
        True
    """
    from edgevit.actions.estimate_latency import estimated_latency
    from edgevit.graphs.files import onnx_file

    if batch_size is not None:
        batch_size = number_argument(batch_size, int, BATCH, argument("estimate", "batch_size"))
    if isinstance(model, Model):
        file = onnx_file(model.artifact)
    else:
        file = stages().onnx_file(path_argument(model, argument("estimate", "model")))
    return estimated_latency(
        file, board, precision=precision, tensorrt=tensorrt, power_mode=power_mode, batch_size=batch_size,
        runtime=runtime, threads=threads,
        place=partial(argument, "estimate"),
    )  # fmt: skip


def bundle(model: ModelLike, out: str | Path, support: Data | None = None, **options: Any) -> Path:
    """Pack a model for a device: the ONNX file, labels, preprocessing, a runner, and the hash of each file.

    Args:
        out: the new folder.
        support: labelled images of each class, with which the bundle can take more classes; for a model that was
            exported with `embedding=True`.
        options: more options of the stage `bundle`: `compiled`, `web`, `web_runtime`, `serve`.

    Raises:
        ArtifactError: there is something at `out` already.
    """
    from edgevit.configs import Bundle
    from edgevit.disks import copy_folder, whole_or_not_at_all

    target = path_argument(out, argument("bundle", "out"))
    if target.exists():
        raise ArtifactError("the path is already taken", where=target, next="give another path")
    inputs = {"model": _artifact(model)}
    with ExitStack() as opened:
        if support is not None:
            images = support_images(support, stages(), argument("bundle", "support"))
            inputs["support"] = opened.enter_context(images)
        made = _artifact_of(Bundle, "bundle", inputs, options)
    with whole_or_not_at_all(target) as part:
        copy_folder(made.path, part)
    return target


def run(
    recipe: str | Path,
    settings: Mapping[str, Any] | None = None,
    *,
    runs: str | Path = "runs",
    device: str = "auto",
    workers: int | None = None,
    fresh: Sequence[str] = (),
    anyway: bool = False,
) -> Run:
    """Run a recipe. Finished stages are not run again, and a stopped run goes on, as with `edgevit run`.

    Args:
        recipe: a YAML file, or the name of a recipe that comes with edgevit, such as "quickstart".
        settings: changed values by their place, such as {"stages.student.epochs": 60}.
        runs: the folder of all runs and of their store.
        device: where training runs: cpu, cuda, or auto (cuda where it works).
        workers: processes that load images.
        fresh: ids of stages to run again.
        anyway: train also where the student will not meet the latency budget.

    Raises:
        CheckFailed: the student, timed untrained, will not meet the latency budget.
        ArtifactError: the page of a bundle cannot be made for its model, or from its folder.
        MissingDependency: npm is not installed, or does not get the page's runtime.
        RecipeError: the recipe is wrong; the line and the nearest valid name are given. Or an argument is wrong.
    """
    import sys

    from edgevit import pipeline
    from edgevit.actions.doctor import training_device
    from edgevit.actions.early_checks import check_before_run
    from edgevit.context import Context
    from edgevit.progress import progress_for
    from edgevit.recipe import recipe_and_folder

    progress, file = progress_for(sys.stderr), path_argument(recipe, argument("run", "recipe"))
    changes = as_settings(settings or {}, argument("run", "settings"))
    loaded, base = recipe_and_folder(file, changes, progress.say)
    context = Context(device=training_device(device, argument("run", "device")), progress=progress)
    if workers is not None:
        context = replace(context, workers=number_argument(workers, int, WORKERS, argument("run", "workers")))
    again, all_runs = names_argument(fresh, argument("run", "fresh")), path_argument(runs, argument("run", "runs"))
    datasets = check_before_run(loaded, base, all_runs, context, again, anyway)
    done = pipeline.run(loaded, base, all_runs, context, again, datasets)
    folder = all_runs.resolve() / loaded.name
    dropped = tuple(stage.id for stage in loaded.stages if stage.id not in done)
    return Run(loaded.name, folder, {stage.id: done[stage.id] for stage in loaded.stages if stage.id in done}, dropped)


def select(
    data: str | Path,
    latency_ms: float,
    out: str | Path = "recipe.yaml",
    *,
    size_mib: float | None = None,
    target: str = LOCAL_CPU,
    board: str | None = None,
    students: int = STUDENTS,
    epochs: int | None = None,
    runs: str | Path = "runs",
    teacher: str | None = None,
    weights: str | Path | None = None,
    offline: bool = False,
    retry_diverged: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    workers: int | None = None,
) -> SelectedStudent:
    """Select a student within a budget by short trainings, and write the recipe that trains it at full length.

    The students train in rounds of successive halving, as with `edgevit select`. A stopped call goes on.

    Args:
        data: folder of labelled images: CLASS/*.jpg, or train/, val/ and test/ with such.
        latency_ms: largest p50 latency, in milliseconds.
        out: the recipe. `edgevit.run` takes it.
        size_mib: largest size of the model file, in MiB.
        target: device on which students are timed.
        board: a board that is not at hand, such as "orin-nano-8gb". Latencies are predicted, in place of `target`.
        students: largest number of students in the first round.
        epochs: of the students that reach the last round. None: the number of images decides.
        runs: the folder of all runs and of their store.
        teacher: the teacher by its timm name.
        weights: file of pretrained weights.
        offline: ask nothing of the network.
        retry_diverged: train again what diverged in an earlier call.
        overwrite: replace the file at `out`.
        device: where training runs: cpu, cuda, or auto (cuda where it works).
        workers: processes that load images.

    Returns:
        The student, with the shortlist, the rounds and the selection. `print` shows it in sentences.

    Raises:
        CheckFailed: no student meets the budget. Before any training, the error names a budget that can be met.
        DataError: the folder holds no usable images, or none to validate on.
        ArtifactError: there is something at `out` already, or the weights cannot be used.
        RecipeError: an argument is wrong.
    """
    import sys

    from edgevit.actions.doctor import training_device
    from edgevit.actions.init_recipe import InitOptions
    from edgevit.actions.select_student import TrialOptions, recipe_by_trials
    from edgevit.context import Context
    from edgevit.disks import check_out, whole_or_not_at_all
    from edgevit.progress import progress_for

    file = path_argument(out, argument("select", "out"))
    check_out(file, option="out")
    if file.exists() and not flag_argument(overwrite, argument("select", "overwrite")):
        raise ArtifactError("the path is already taken", where=file, next="give another path, or overwrite=True")
    limit_mib = None if size_mib is None else number_argument(size_mib, float, POSITIVE, argument("select", "size_mib"))
    options = InitOptions(
        path_argument(data, argument("select", "data")),
        file,
        text_argument(target, argument("select", "target")),
        number_argument(latency_ms, float, POSITIVE, argument("select", "latency_ms")),
        limit_mib,
        teacher=None if teacher is None else text_argument(teacher, argument("select", "teacher")),
        weights=None if weights is None else path_argument(weights, argument("select", "weights")),
        offline=flag_argument(offline, argument("select", "offline")),
    )
    trials = TrialOptions(
        number_argument(students, int, CANDIDATES, argument("select", "students")),
        None if epochs is None else number_argument(epochs, int, COUNT, argument("select", "epochs")),
        path_argument(runs, argument("select", "runs")),
        None if board is None else text_argument(board, argument("select", "board")),
        flag_argument(retry_diverged, argument("select", "retry_diverged")),
    )
    context = Context(device=training_device(device, argument("select", "device")), progress=progress_for(sys.stderr))
    if workers is not None:
        context = replace(context, workers=number_argument(workers, int, WORKERS, argument("select", "workers")))
    selected = recipe_by_trials(options, trials, context)
    with whole_or_not_at_all(file) as part:
        part.write_text(selected.written.text, encoding="utf-8")
    return selected


def _is_path(source: str | Path) -> bool:
    """Whether this is a file or a folder, not the name of a timm model. Raises RecipeError where it may be both."""
    from edgevit.models.names import listed_names

    path = path_argument(source, argument("load", "source"))
    if isinstance(source, Path) or source.endswith(".onnx") or any(mark in source for mark in "/\\~"):
        return True
    if path.exists() and source in listed_names():
        raise RecipeError(
            "this name is a timm model, and a file or a folder here",
            where=argument("load", "source"),
            got=source,
            next=f"edgevit.load('./{source}') reads the file or folder; rename it to get the timm model",
        )
    return path.exists()


def _artifact(model: ModelLike) -> Artifact:
    return (model if isinstance(model, Model) else load(model)).artifact


def _artifact_of(
    config: Any, id: str, inputs: Mapping[str, Artifact], options: Mapping[str, Any], own: Mapping[str, Any] = {}
) -> Artifact:
    """Run one stage.

    Args:
        inputs: by the fields that refer to them. These fields hold their own names.
        options: fields from the caller of a public function.
        own: fields that the public function fills.
    """
    from edgevit.actions.single_stage import stage_config_from_arguments

    fields = {"id": id, **{name: name for name in inputs}, **own}
    given = check_options(options, ("stage", *fields), config.name())
    return stages().make(stage_config_from_arguments(config, **fields, **given), **inputs)


def _renamed(model: Model, names: tuple[str, ...]) -> Model:
    """A copy of the model, in files of its own, whose outputs have these names: its results are kept apart."""
    from edgevit.actions.engine_files import is_engine
    from edgevit.bundling import classes_since
    from edgevit.data.class_names import check_class_names, check_names_fit
    from edgevit.disks import copy_folder
    from edgevit.graphs.files import artifact_from_onnx, rewrite_onnx

    check_class_names(names, argument("load", "classes"))
    check_names_fit(names, len(model.classes), argument("load", "classes"))
    if model.bundle is not None and classes_since(model.bundle):
        raise ArtifactError(
            "the classes of this bundle were changed by enroll", where=model.bundle, next="leave it out"
        )
    artifact, folder = model.artifact, new_folder("named")
    io = artifact.io.calling_its_classes(names)
    if artifact.kind != "checkpoint" and not is_engine(artifact):
        rewrite_onnx(artifact.with_io(io), file := folder / f"{artifact.id}.onnx")
        return Model(artifact_from_onnx(file))
    copy_folder(artifact.path, copy := folder / artifact.kind)
    digest = sha256_of([artifact.digest, io.model_dump(mode="json")])[:40]
    manifest = artifact.manifest.model_copy(update={"io": io, "digest": digest})
    (copy / MANIFEST).write_text(manifest_text(manifest), encoding="utf-8")
    return Model(Artifact.load(copy))


def _preprocess(
    image_size: int | Sequence[int], mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preprocess:
    """The preprocessing of a module. Raises RecipeError naming the argument that is wrong."""
    from edgevit.actions.single_stage import record_from_arguments

    height, width = size_argument(image_size, argument("export", "image_size"))
    colors = {name: value for name, value in {"mean": mean, "std": std}.items() if value is not None}
    fields = {"height": height, "width": width, **check_options(colors, (), "export")}
    return record_from_arguments(Preprocess, "export", fields)


def _exported_module(
    module: nn.Module, classes: tuple[str, ...], preprocess: Preprocess, options: Mapping[str, Any]
) -> Model:
    from edgevit.actions.single_stage import stage_config_from_arguments
    from edgevit.configs import Export
    from edgevit.data.class_names import check_class_names
    from edgevit.graphs.files import artifact_from_onnx
    from edgevit.models.modes import eval_mode
    from edgevit.stages.export import exported

    check_class_names(classes, argument("export", "classes"))
    if options.get("embedding"):
        where = argument("export", "embedding")
        raise RecipeError("'embedding' is for models that edgevit built", where=where, next="leave it out")
    given = check_options(options, ("stage", "id", "model"), "export")
    config, folder = stage_config_from_arguments(Export, id="onnx", model="module", **given), new_folder("export")
    spec = IOSpec.for_classifier(preprocess, classes).calling_its_classes(classes)
    with eval_mode(module):
        contents = exported(module, spec, config, stages().context, folder, "the torch module")
    artifact = artifact_from_onnx(folder / "model.onnx")
    metrics = {**artifact.metrics, **contents.metrics}
    return Model(replace(artifact, manifest=artifact.manifest.model_copy(update={"metrics": metrics})))
