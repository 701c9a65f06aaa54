"""From measurements to variants: every model behind them, with its accuracy and latency."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgevit.artifacts import LEARNED_TOO, MODEL_KINDS, Artifact, InputRef, Json, ancestors, before_selection
from edgevit.configs import OF_NEW_HEADS, STAGES, Fewshot
from edgevit.configs.renamed import current_stage
from edgevit.configs.training import Training
from edgevit.data.duplicates import Overlap
from edgevit.errors import ArtifactError
from edgevit.evaluation import AccuracyRecord, accuracy_record
from edgevit.evaluation.record import protocol_of
from edgevit.profiling.energy import EnergyRecord
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.report.deployed import ModelInLine, deployed_model, names_teacher

MODEL_FILES = {"checkpoint": "model.safetensors", "onnx": "model.onnx", "engine": "model.onnx"}


@dataclass(frozen=True)
class Variant:
    """One model with its accuracy and its latency under one set of conditions; either may be missing."""

    id: str
    model: Artifact
    parent_id: str | None
    evaluation: Artifact | None
    latency: Artifact | None

    @property
    def measurement(self) -> Artifact | None:
        return self.latency or self.evaluation

    @property
    def runtime(self) -> str | None:
        return self.measurement.metrics["runtime"] if self.measurement else None

    @property
    def target(self) -> str | None:
        return self.measurement.metrics["target"] if self.measurement else None

    @property
    def precision(self) -> str:
        return str((self.latency or self.model).metrics.get("precision") or precision_of(self.model))

    @property
    def params(self) -> int | None:
        return self.model.metrics.get("params")

    @property
    def macs(self) -> int | None:
        return self.model.metrics.get("macs")

    @property
    def size_bytes(self) -> int:
        return size_bytes_of(self.model)

    @cached_property
    def accuracy(self) -> AccuracyRecord | None:
        """The predictions for the test images; None if accuracy was not measured."""
        return accuracy_record(self.evaluation) if self.evaluation else None

    @property
    def how_predicted(self) -> str | None:
        """How the images were predicted, if not by the model itself: the folds and the head of a cross-validation."""
        how = self.evaluation.metrics.get("cross_validation") if self.evaluation else None
        return f"{how['folds']}-fold cross-validation of a head ({how['method']})" if how else None

    @cached_property
    def timing(self) -> LatencyRecord | None:
        """The latency and its conditions; None if latency was not measured."""
        return LatencyRecord.of_metrics(self.latency.metrics) if self.latency else None

    @property
    def energy(self) -> EnergyRecord | None:
        """The energy of the runs that were timed; None if it was not measured."""
        energy = self.timing.energy if self.timing else None
        return energy if isinstance(energy, EnergyRecord) else None

    @property
    def learned_from(self) -> tuple[Overlap, ...]:
        """The test images that the model learned from, by the data sets that hold them."""
        return overlaps_of(self.evaluation) if self.evaluation else ()

    def as_json(self) -> Json:
        return {
            "id": self.id,
            "model": self.model.id,
            "kind": self.model.kind,
            "stage": self.model.manifest.stage,
            "runtime": self.runtime,
            "target": self.target,
            "precision": self.precision,
            "params": self.params,
            "macs": self.macs,
            "size_bytes": self.size_bytes,
            "top1": self._top1_json(),
            "latency_ms": self.timing and self.timing.numbers(),
            "energy_mj": self.energy and self.energy.numbers(),
            "threads": self.timing and self.timing.threads,
            "batch_size": self.timing and self.timing.batch_size,
            "parent": self.parent_id,
            "digest": self.model.digest,
        }

    def _top1_json(self) -> Json | None:
        if self.evaluation is None or self.accuracy is None:
            return None
        too = self.evaluation.metrics.get(LEARNED_TOO, [])
        top1 = {**self.accuracy.top1._asdict(), "n": self.accuracy.n}
        return {**top1, "data": data_of(self.evaluation).id, LEARNED_TOO: too}


@dataclass(frozen=True)
class Lineup:
    """Every variant from teacher to engine, and their roles in the answer.

    Attributes:
        line: the deployed model and the models it was made from, nearest first, without teachers.
        float_student: the float source of the deployed model whose accuracy counts, a checkpoint or its ONNX file.
        float_timed: the float source whose latency may be compared, in the deployed model's runtime if possible; never
            the deployed model, which may be float itself.
        teacher_timed: the teacher or its ONNX file whose latency may be compared, in the deployed model's runtime if
            possible.
        centroid: the model of a few-shot stage with the method nearest_centroid: a frozen body and the mean feature of
            each class. Of several, the most accurate one on the deployed model's test images.
        corrupted: the evaluations under corruption, in the order of the recipe.
        episodic: the evaluations over few-shot episodes, in the order of the recipe. They do not concern a model's own
            classes.
        featured: the evaluations of heads on frozen features (`protocol: knn`, `linear`), in the order of the recipe.
        checks: the checks by NVIDIA's builder, in the order of the recipe.
        attentions: the results of the stages `attention`, in the order of the recipe.
    """

    variants: tuple[Variant, ...]
    deployed: Variant
    float_student: Variant | None
    float_timed: Variant | None
    teacher: Variant | None
    teacher_timed: Variant | None
    centroid: Variant | None
    line: tuple[Artifact, ...]
    artifacts: tuple[Artifact, ...]
    corrupted: tuple[Artifact, ...]
    episodic: tuple[Artifact, ...]
    featured: tuple[Artifact, ...]
    checks: tuple[Artifact, ...]
    attentions: tuple[Artifact, ...]

    @property
    def of_other_head(self) -> bool:
        """Whether the deployed model's accuracy is the cross-validation of a head with another method than its own."""
        evaluation = self.deployed.evaluation
        how = evaluation.metrics.get("cross_validation") if evaluation else None
        return how is not None and how["method"] != self._method_of_head()

    def _method_of_head(self) -> str | None:
        """The few-shot method that fitted the deployed model's head; None for a head that was trained."""
        for artifact in self.line:
            stage = STAGES.get(current_stage(artifact.manifest.stage) or artifact.manifest.stage)
            if stage is Fewshot:
                return str(artifact.metrics.get("method"))
            if stage is not None and issubclass(stage, Training):
                return None
        return None

    def baselines(self) -> list[tuple[str, Variant]]:
        """The models that the deployed model is compared with: a role and the variant, without itself."""
        by_role = (("teacher", self.teacher), ("float student", self.float_student))
        return [(role, variant) for role, variant in by_role if variant is not None and variant is not self.deployed]

    def timed_baselines(self) -> list[tuple[str, Variant]]:
        """The baselines for latencies."""
        timed = {"teacher": self.teacher_timed, "float student": self.float_timed}
        return [(role, timed[role] or variant) for role, variant in self.baselines()]


def lineup(measurements: Sequence[Artifact], deployed: Artifact | None = None) -> Lineup:
    """Find every model behind measurements, and the roles of the models.

    The float student is the nearest float checkpoint of the deployed model without quantization-aware training, or the
    ONNX file of it. The teacher is the first teacher of that checkpoint or of one before it, and not a model that
    taught itself. An evaluation under corruption gives a model's accuracy, by its clean images, only if the model has
    no other evaluation.

    Args:
        deployed: the deployed model; None takes that of `deployed_model`.

    Raises:
        ArtifactError: a measured model is no longer in the store, or the deployed model was not measured.
    """
    artifacts = _all_behind(measurements)
    models = {artifact.digest: artifact for artifact in artifacts if artifact.kind in MODEL_KINDS}
    _check_models_are_there(measurements, models)
    evaluations = list(_of_clean_images(measurements))
    latencies = [measurement for measurement in measurements if measurement.kind == "latency"]
    deployed_model = _measured(deployed, models) if deployed else _deployed(models, evaluations, latencies)
    variants = _all_variants(models, _main_evaluation(deployed_model, evaluations), evaluations, latencies)
    line = _line_of(deployed_model, models)
    shown = _last_measured(variants, deployed_model)
    students = [_variant_like(shown, model, variants) for model in _float_students(line)]
    teacher = _teacher_of(line, models)
    teachers = [_variant_like(shown, model, variants) for model in _with_exports(teacher, models)]
    return Lineup(
        tuple(variants),
        shown,
        max(students, key=_fitness_as_float_student, default=None),
        _timed_like(shown, [student for student in students if student.model is not deployed_model]),
        max(teachers, key=lambda variant: (variant.evaluation is not None, variant.latency is not None), default=None),
        _timed_like(shown, teachers),
        _centroid(shown, variants, line),
        tuple(line),
        tuple(artifacts),
        tuple(filter(is_under_corruption, measurements)),
        tuple(filter(is_over_episodes, measurements)),
        tuple(filter(is_of_features, measurements)),
        tuple(measurement for measurement in measurements if measurement.kind == "check"),
        tuple(measurement for measurement in measurements if measurement.kind == "attention"),
    )


def grouped(
    models: Lineup, evaluations: Sequence[Artifact], group_of: Callable[[Artifact], str]
) -> Iterable[Sequence[Artifact]]:
    """Groups of evaluations with the same `group_of`, each with its models from teacher to engine."""
    order = [artifact.digest for artifact in models.artifacts]
    groups: dict[str, list[Artifact]] = {}
    for evaluation in sorted(evaluations, key=lambda evaluation: order.index(model_digest(evaluation))):
        groups.setdefault(group_of(evaluation), []).append(evaluation)
    return groups.values()


def same_conditions(a: Variant, b: Variant) -> bool:
    """Whether two latencies may be compared, apart from their runtimes, if both are valid."""
    return a.timing is not None and b.timing is not None and not a.timing.differences(b.timing)


def precision_of(model: Artifact) -> str:
    """The precision of a model; float32 unless it is recorded otherwise."""
    return str(model.metrics.get("precision", "float32"))


def size_bytes_of(model: Artifact) -> int:
    """Size of the file that holds the weights."""
    stated = model.metrics.get("size_bytes")
    return int(stated if stated is not None else model.manifest.files[MODEL_FILES[model.kind]].size)


def data_of(evaluation: Artifact) -> InputRef:
    """The data set of an evaluation."""
    return evaluation.manifest.inputs["data"]


def overlaps_of(evaluation: Artifact) -> tuple[Overlap, ...]:
    """The test images that the evaluated model learned from, by the data sets that hold them."""
    return tuple(Overlap(**overlap) for overlap in evaluation.metrics.get(LEARNED_TOO, []))


def is_under_corruption(measurement: Artifact) -> bool:
    return measurement.manifest.config.get("protocol") == "corruptions"


def is_over_episodes(measurement: Artifact) -> bool:
    return measurement.manifest.config.get("protocol") == "episodes"


def is_of_features(measurement: Artifact) -> bool:
    return measurement.manifest.config.get("protocol") in ("knn", "linear")


def model_digest(measurement: Artifact) -> str:
    """Digest of the model that was measured."""
    return measurement.manifest.inputs["model"].digest


def _all_behind(measurements: Iterable[Artifact]) -> list[Artifact]:
    """The measurements and all their ancestors, parents before children."""
    artifacts: dict[str, Artifact] = {}
    for measurement in measurements:
        for ancestor in ancestors(measurement):
            artifacts.setdefault(ancestor.digest, ancestor)
    return list(artifacts.values())


def _of_clean_images(measurements: Sequence[Artifact]) -> Iterator[Artifact]:
    """Evaluations; those under corruption only for models without another evaluation."""
    evaluations = [
        measurement
        for measurement in measurements
        if measurement.kind == "evaluation" and measurement.manifest.config.get("protocol") not in OF_NEW_HEADS
    ]
    standard = {model_digest(evaluation) for evaluation in evaluations if not is_under_corruption(evaluation)}
    for evaluation in evaluations:
        if not (is_under_corruption(evaluation) and model_digest(evaluation) in standard):
            yield evaluation


def _check_models_are_there(measurements: Iterable[Artifact], models: Mapping[str, Artifact]) -> None:
    for measurement in measurements:
        ref = measurement.manifest.inputs["model"]
        if ref.digest not in models:
            raise ArtifactError(
                f"the model behind '{measurement.id}' is no longer in the store",
                where=measurement.path,
                got=f"no '{ref.id}' with digest {ref.digest}",
                next=f"make it again: edgevit run RECIPE --fresh {ref.id}",
            )


def _measured(deployed: Artifact, models: Mapping[str, Artifact]) -> Artifact:
    """The deployed model among the measured models and those behind them."""
    if deployed.digest not in models:
        raise ArtifactError(
            f"the deployed model '{deployed.id}' was not measured",
            where=deployed.path,
            expected=f"one of {', '.join(model.id for model in models.values())}",
            next="add an evaluate stage and a profile stage of it to the report's 'of'",
        )
    return models[deployed.digest]


def _deployed(
    models: Mapping[str, Artifact], evaluations: Sequence[Artifact], latencies: Sequence[Artifact]
) -> Artifact:
    evaluated, timed = ({model_digest(measurement) for measurement in group} for group in (evaluations, latencies))
    return models[deployed_model([_in_line(model) for model in models.values()], evaluated, timed)]


def _in_line(model: Artifact) -> ModelInLine:
    made_from, inputs = _made_from(model), model.manifest.inputs
    teachers = [ref.digest for name, ref in inputs.items() if names_teacher(name)]
    return ModelInLine(
        model.digest, model.kind, made_from.digest if made_from else None, tuple(teachers), _is_centroid(model)
    )


def _all_variants(
    models: Mapping[str, Artifact],
    main: Artifact | None,
    evaluations: Sequence[Artifact],
    latencies: Sequence[Artifact],
) -> list[Variant]:
    return [
        variant
        for model in models.values()
        for variant in _variants_of(
            model,
            _parent_id(model),
            _evaluations_like(main, model, evaluations),
            [latency for latency in latencies if model_digest(latency) == model.digest],
        )
    ]


def _main_evaluation(deployed: Artifact, evaluations: Sequence[Artifact]) -> Artifact | None:
    """The last evaluation of the deployed model, or else of any model. The others are compared with it."""
    own = [evaluation for evaluation in evaluations if model_digest(evaluation) == deployed.digest]
    return (own or list(evaluations))[-1] if evaluations else None


def _evaluations_like(main: Artifact | None, model: Artifact, evaluations: Sequence[Artifact]) -> list[Artifact]:
    """The evaluations of a model on the main test data, by the protocol of `main`; without any, by another protocol."""
    if main is None:
        return []
    own = [evaluation for evaluation in evaluations if model_digest(evaluation) == model.digest]
    on_data = [evaluation for evaluation in own if data_of(evaluation).digest == data_of(main).digest]
    return [evaluation for evaluation in on_data if protocol_of(evaluation) == protocol_of(main)] or on_data


def _variants_of(
    model: Artifact, parent_id: str | None, evaluations: Sequence[Artifact], latencies: Sequence[Artifact]
) -> Iterator[Variant]:
    """A variant for each latency, and for each target with an accuracy beside no latency; or else the model alone."""
    beside = [_accuracy_beside(latency, model, evaluations) for latency in latencies]
    for latency, accuracy in zip(latencies, beside, strict=True):
        name = model.id if len(latencies) == 1 else f"{model.id}@{latency.id}"
        yield Variant(name, model, parent_id, accuracy, latency)
    shown = {measured.metrics["target"] for measured in (*latencies, *filter(None, beside))}
    untimed = [evaluation for evaluation in evaluations if evaluation.metrics["target"] not in shown]
    for evaluation in untimed if latencies else evaluations[-1:]:
        name = model.id if not latencies else f"{model.id}@{evaluation.id}"
        yield Variant(name, model, parent_id, evaluation, None)
    if not latencies and not evaluations:
        yield Variant(model.id, model, parent_id, None, None)


def _accuracy_beside(latency: Artifact, model: Artifact, evaluations: Sequence[Artifact]) -> Artifact | None:
    """The accuracy on the target and in the precision of a latency, if there is one.

    A file has nearly the same accuracy on another target, so one that was measured there stands in.
    """
    if latency.metrics["precision"] != precision_of(model):
        return None
    target = latency.metrics["target"]
    on_target = [evaluation for evaluation in evaluations if evaluation.metrics["target"] == target]
    of_file = evaluations if model.kind == "onnx" else ()
    return next(reversed(on_target or list(of_file)), None)


def _line_of(model: Artifact, models: Mapping[str, Artifact]) -> list[Artifact]:
    """A model and the models that it was made from, nearest first, without its teachers."""
    line = [model]
    while (ref := _made_from(line[-1])) and ref.digest in models:
        line.append(models[ref.digest])
    return line


def _float_students(line: Sequence[Artifact]) -> list[Artifact]:
    """The float models of the line, nearest first, up to its first checkpoint without quantization-aware training."""
    places = (i for i, model in enumerate(line) if model.kind == "checkpoint" and not _is_of_qat(model))
    checkpoint = next(places, len(line) - 1)
    return [model for model in line[: checkpoint + 1] if precision_of(model) == "float32"]


def _fitness_as_float_student(student: Variant) -> tuple[bool, bool, bool]:
    return student.evaluation is not None, not _is_of_qat(student.model), student.model.kind == "checkpoint"


def _is_of_qat(model: Artifact) -> bool:
    return before_selection(model).manifest.stage == "qat"


def _made_from(model: Artifact) -> InputRef | None:
    inputs = model.manifest.inputs
    return inputs.get("model") or inputs.get("init")


def _parent_id(model: Artifact) -> str | None:
    ref = _made_from(model) or _first_teacher(model)
    return ref.id if ref else None


def _first_teacher(model: Artifact) -> InputRef | None:
    """The first teacher of a model."""
    inputs = model.manifest.inputs
    return inputs.get("teacher") or inputs.get("teachers.0.model")


def _last_measured(variants: Iterable[Variant], model: Artifact) -> Variant:
    """The variant of a model with the most measurements; the last of several."""
    own = [variant for variant in variants if variant.model.digest == model.digest]
    return max(reversed(own), key=lambda variant: (variant.evaluation is not None) + (variant.latency is not None))


def _teacher_of(line: Sequence[Artifact], models: Mapping[str, Artifact]) -> Artifact | None:
    """The first teacher of the nearest model in the line that was taught by a model outside the line."""
    own = {model.digest for model in line}  # a model that teaches itself in qat has its teacher further back
    taught_by = next((ref for model in line if (ref := _first_teacher(model)) and ref.digest not in own), None)
    return models.get(taught_by.digest) if taught_by else None


def _with_exports(teacher: Artifact | None, models: Mapping[str, Artifact]) -> list[Artifact]:
    """The teacher and its float ONNX files."""
    if teacher is None:
        return []
    exports = [model for model in models.values() if model.manifest.stage == "export" and _is_made_from(model, teacher)]
    return [teacher, *exports]


def _timed_like(deployed: Variant, candidates: Iterable[Variant]) -> Variant | None:
    """The candidate with a latency under the deployed model's conditions; valid and in its runtime if possible."""
    timed = [candidate for candidate in candidates if same_conditions(candidate, deployed)]
    return max(timed, key=lambda variant: (_is_valid(variant), variant.runtime == deployed.runtime), default=None)


def _is_valid(variant: Variant) -> bool:
    return variant.timing is not None and not variant.timing.invalid


def _centroid(deployed: Variant, variants: Iterable[Variant], line: Sequence[Artifact]) -> Variant | None:
    own = {model.digest for model in line}
    centroids = [each for each in variants if _is_centroid(each.model) and each.model.digest not in own]
    protocol = deployed.accuracy.protocol if deployed.accuracy else None
    measured = [each for each in centroids if each.accuracy]
    return max(measured, key=lambda each: _fitness_as_centroid(each, protocol), default=None)


def _fitness_as_centroid(centroid: Variant, protocol: str | None) -> tuple[bool, float]:
    assert centroid.accuracy is not None
    return centroid.accuracy.protocol == protocol, centroid.accuracy.top1.value


def _is_centroid(model: Artifact) -> bool:
    return before_selection(model).manifest.stage == "fewshot" and model.metrics.get("method") == "nearest_centroid"


def _is_made_from(model: Artifact, other: Artifact) -> bool:
    ref = _made_from(model)
    return ref is not None and ref.digest == other.digest


def _variant_like(deployed: Variant, model: Artifact, variants: Iterable[Variant]) -> Variant:
    """The variant of `model` with a latency under the deployed model's conditions, if there is one."""
    own = [variant for variant in variants if variant.model.digest == model.digest]
    return max(own, key=lambda variant: (same_conditions(variant, deployed), variant.latency is not None))
