"""From measurements to variants: every model behind them, with what was measured on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edgevit.artifacts import LEARNED_TOO, Artifact, InputRef, Json, ancestors
from edgevit.errors import ArtifactError
from edgevit.evaluation.record import read_predictions

MODEL_KINDS = ("checkpoint", "onnx", "engine")
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

    @property
    def top1(self) -> Json | None:
        if self.evaluation is None:
            return None
        too = self.evaluation.metrics.get(LEARNED_TOO, [])
        return {**self.evaluation.metrics["top1"], "data": data_of(self.evaluation).id, LEARNED_TOO: too}

    @property
    def latency_ms(self) -> Json | None:
        return self.latency.metrics["latency_ms"] if self.latency else None

    @property
    def threads(self) -> int | None:
        return self.latency.metrics.get("threads") if self.latency else None

    @property
    def batch_size(self) -> int | None:
        return self.latency.metrics.get("batch_size") if self.latency else None

    @cached_property
    def correct(self) -> dict[str, bool]:
        """Whether each test image was labelled rightly, by its id; empty where accuracy was not measured."""
        if self.evaluation is None:
            return {}
        table = read_predictions(self.evaluation)
        right = table["predicted"] == table["labels"]
        return dict(zip(map(str, table["sample_ids"]), map(bool, right), strict=True))

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
            "top1": self.top1,
            "latency_ms": self.latency_ms,
            "threads": self.threads,
            "batch_size": self.batch_size,
            "parent": self.parent_id,
            "digest": self.model.digest,
        }


@dataclass(frozen=True)
class Lineup:
    """Every variant from teacher to engine, and those that the answer is about.

    Attributes:
        line: the deployed model and what it was made from, nearest first, without teachers.
        float_student: the float model of the deployed one whose accuracy counts, the checkpoint or its ONNX file.
        float_timed: the one of the two whose latency may be compared, in the deployed one's runtime if there is one;
            never the deployed one, which may be float itself.
        corrupted: the evaluations under corruption, in the order of the recipe.
        episodic: the evaluations over few-shot episodes, likewise; they say nothing of a model's own classes.
        checks: what NVIDIA's builder made of some models, likewise.
    """

    variants: tuple[Variant, ...]
    deployed: Variant
    float_student: Variant | None
    float_timed: Variant | None
    teacher: Variant | None
    line: tuple[Artifact, ...]
    artifacts: tuple[Artifact, ...]
    corrupted: tuple[Artifact, ...]
    episodic: tuple[Artifact, ...]
    checks: tuple[Artifact, ...]

    def baselines(self) -> list[tuple[str, Variant]]:
        """What the deployed model is compared with: a word and the variant, without itself."""
        named = (("teacher", self.teacher), ("float student", self.float_student))
        return [(word, one) for word, one in named if one is not None and one is not self.deployed]

    def timed_baselines(self) -> list[tuple[str, Variant]]:
        """The same for latencies."""
        return [
            (word, self.float_timed if one is self.float_student and self.float_timed else one)
            for word, one in self.baselines()
        ]


def lineup(measurements: Sequence[Artifact]) -> Lineup:
    """Find every model behind measurements, and who plays which part.

    Deployed is the most derived model (engine before onnx before checkpoint, then the last in order) with both
    accuracy and latency measured, or, where no model has both, with either. The float student is its nearest float
    checkpoint that was not trained to be rounded, or the ONNX file of it; the teacher is what that checkpoint or one
    before it was distilled from, the first where these were several, and not a model that taught itself. An evaluation
    under corruption speaks for a model's accuracy, by its clean images, only where the model has no other.

    Raises:
        ArtifactError: a measured model is no longer in the store.
    """
    artifacts = _all_behind(measurements)
    models = {one.digest: one for one in artifacts if one.kind in MODEL_KINDS}
    _check_models_are_there(measurements, models)
    evaluations = list(_of_clean_images(measurements))
    latencies = [one for one in measurements if one.kind == "latency"]
    deployed_model = _deployed(list(models.values()), evaluations, latencies)
    main_data = _main_data(deployed_model, evaluations)
    variants = [
        variant
        for model in models.values()
        for variant in _variants_of(
            model,
            _parent_id(model),
            _accuracy_on(main_data, model, evaluations),
            [one for one in latencies if model_digest(one) == model.digest],
        )
    ]
    line = _line_of(deployed_model, models)
    own = {one.digest for one in line}  # what teaches itself under fake quantization has its teacher further back
    taught_by = next((ref for one in line if (ref := _first_teacher(one)) and ref.digest not in own), None)
    teacher = models.get(taught_by.digest) if taught_by else None
    deployed = _last_measured(variants, deployed_model)
    students = [_variant_like(deployed, model, variants) for model in _float_students(line)]
    return Lineup(
        tuple(variants),
        deployed,
        max(students, key=_speaks_for_floats, default=None),
        max(
            (one for one in students if one.model is not deployed_model and same_conditions(one, deployed)),
            key=lambda one: one.runtime == deployed.runtime,
            default=None,
        ),
        _teacher_variant(deployed, teacher, models, variants) if teacher else None,
        tuple(line),
        tuple(artifacts),
        tuple(filter(is_under_corruption, measurements)),
        tuple(filter(is_over_episodes, measurements)),
        tuple(one for one in measurements if one.kind == "check"),
    )


def grouped(
    found: Lineup, evaluations: Sequence[Artifact], of: Callable[[Artifact], str]
) -> Iterable[Sequence[Artifact]]:
    """Evaluations that say the same by `of`, each group with its models from teacher to engine."""
    order = [one.digest for one in found.artifacts]
    groups: dict[str, list[Artifact]] = {}
    for one in sorted(evaluations, key=lambda one: order.index(model_digest(one))):
        groups.setdefault(of(one), []).append(one)
    return groups.values()


def same_conditions(a: Variant, b: Variant) -> bool:
    """Whether two latencies may be divided by each other."""
    return a.latency is not None and b.latency is not None and not different_conditions(a.latency, b.latency)


def different_conditions(a: Artifact, b: Artifact) -> list[str]:
    """`threads: 1 and 4` for each condition in which two latencies differ; runtime and precision are no conditions."""
    both = [(name, a.metrics.get(name), b.metrics.get(name)) for name in ("target", "threads", "batch_size")]
    both += [(name, a.metrics["latency_ms"][name], b.metrics["latency_ms"][name]) for name in ("boundary", "label")]
    return [f"{name.replace('_', ' ')}: {one} and {other}" for name, one, other in both if one != other]


def precision_of(model: Artifact) -> str:
    """A checkpoint holds float32 weights unless it says otherwise."""
    return str(model.metrics.get("precision", "float32"))


def size_bytes_of(model: Artifact) -> int:
    """Size of the file that holds the weights."""
    stated = model.metrics.get("size_bytes")
    return int(stated if stated is not None else model.manifest.files[MODEL_FILES[model.kind]].size)


def data_of(evaluation: Artifact) -> InputRef:
    """The data set an accuracy was measured on."""
    return evaluation.manifest.inputs["data"]


def is_under_corruption(measurement: Artifact) -> bool:
    return measurement.manifest.config.get("protocol") == "corruptions"


def is_over_episodes(measurement: Artifact) -> bool:
    return measurement.manifest.config.get("protocol") == "episodes"


def model_digest(measurement: Artifact) -> str:
    """Digest of the model that was measured."""
    return measurement.manifest.inputs["model"].digest


def _all_behind(measurements: Iterable[Artifact]) -> list[Artifact]:
    """Parents before children."""
    found: dict[str, Artifact] = {}
    for measurement in measurements:
        for one in ancestors(measurement):
            found.setdefault(one.digest, one)
    return list(found.values())


def _of_clean_images(measurements: Sequence[Artifact]) -> Iterator[Artifact]:
    """Evaluations, those under corruption only of models that have no other."""
    evaluations = [one for one in measurements if one.kind == "evaluation" and not is_over_episodes(one)]
    plain = {model_digest(one) for one in evaluations if not is_under_corruption(one)}
    yield from (one for one in evaluations if not (is_under_corruption(one) and model_digest(one) in plain))


def _check_models_are_there(measurements: Iterable[Artifact], models: Mapping[str, Artifact]) -> None:
    for one in measurements:
        ref = one.manifest.inputs["model"]
        if ref.digest not in models:
            raise ArtifactError(
                f"the model behind '{one.id}' is no longer in the store",
                where=one.path,
                got=f"no '{ref.id}' with digest {ref.digest}",
                next=f"make it again: edgevit run RECIPE --fresh {ref.id}",
            )


def _deployed(models: Sequence[Artifact], evaluations: Sequence[Artifact], latencies: Sequence[Artifact]) -> Artifact:
    accurate, timed = ({model_digest(one) for one in some} for some in (evaluations, latencies))

    def rank(numbered: tuple[int, Artifact]) -> tuple[int, int, int]:
        number, model = numbered
        measured = (model.digest in accurate) + (model.digest in timed)
        return measured, MODEL_KINDS.index(model.kind), number

    return max(enumerate(models), key=rank)[1]


def _main_data(deployed: Artifact, evaluations: Sequence[Artifact]) -> str | None:
    """Digest of the test images that the deployed model, or else any model, was last measured on."""
    own = [one for one in evaluations if model_digest(one) == deployed.digest]
    return data_of((own or list(evaluations))[-1]).digest if evaluations else None


def _accuracy_on(data: str | None, model: Artifact, evaluations: Sequence[Artifact]) -> list[Artifact]:
    return [one for one in evaluations if model_digest(one) == model.digest and data_of(one).digest == data]


def _variants_of(
    model: Artifact, parent_id: str | None, evaluations: Sequence[Artifact], latencies: Sequence[Artifact]
) -> Iterator[Variant]:
    """One variant a latency; or one a target where only accuracy was measured; or the bare model."""
    for latency in latencies:
        name = model.id if len(latencies) == 1 else f"{model.id}@{latency.id}"
        yield Variant(name, model, parent_id, _accuracy_beside(latency, model, evaluations), latency)
    timed = {one.metrics["target"] for one in latencies}
    others = [one for one in evaluations if latencies and one.metrics["target"] not in timed]
    for evaluation in others if latencies else evaluations[-1:]:
        name = model.id if not latencies else f"{model.id}@{evaluation.id}"
        yield Variant(name, model, parent_id, evaluation, None)
    if not latencies and not evaluations:
        yield Variant(model.id, model, parent_id, None, None)


def _accuracy_beside(latency: Artifact, model: Artifact, evaluations: Sequence[Artifact]) -> Artifact | None:
    """An accuracy belongs beside a latency only if both come from the same target and precision."""
    if latency.metrics["precision"] != precision_of(model):
        return None
    same = [one for one in evaluations if one.metrics["target"] == latency.metrics["target"]]
    return same[-1] if same else None


def _line_of(model: Artifact, models: Mapping[str, Artifact]) -> list[Artifact]:
    """A model and what it was made from, nearest first, without its teachers."""
    line = [model]
    while (ref := _made_from(line[-1])) and ref.digest in models:
        line.append(models[ref.digest])
    return line


def _float_students(line: Sequence[Artifact]) -> list[Artifact]:
    """The float models of the line, nearest first, up to its first checkpoint that was not trained to be rounded."""
    trained = (place for place, one in enumerate(line) if one.kind == "checkpoint" and one.manifest.stage != "qat")
    checkpoint = next(trained, len(line) - 1)
    return [one for one in line[: checkpoint + 1] if precision_of(one) == "float32"]


def _speaks_for_floats(student: Variant) -> tuple[bool, bool, bool]:
    trained_to_be_rounded = student.model.manifest.stage == "qat"
    return student.evaluation is not None, not trained_to_be_rounded, student.model.kind == "checkpoint"


def _made_from(model: Artifact) -> InputRef | None:
    inputs = model.manifest.inputs
    return inputs.get("model") or inputs.get("init")


def _parent_id(model: Artifact) -> str | None:
    ref = _made_from(model) or _first_teacher(model)
    return ref.id if ref else None


def _first_teacher(model: Artifact) -> InputRef | None:
    """Its teacher, the first where it had several."""
    inputs = model.manifest.inputs
    return inputs.get("teacher") or inputs.get("teachers.0.model")


def _last_measured(variants: Iterable[Variant], model: Artifact) -> Variant:
    """The variant of a model with most measured on it; of equals the last."""
    own = [one for one in variants if one.model.digest == model.digest]
    return max(reversed(own), key=lambda one: (one.evaluation is not None) + (one.latency is not None))


def _teacher_variant(
    deployed: Variant, teacher: Artifact, models: Mapping[str, Artifact], variants: Sequence[Variant]
) -> Variant:
    """The teacher, or its float ONNX file where more was measured on that."""
    exports = [one for one in models.values() if one.manifest.stage == "export" and _is_made_from(one, teacher)]
    candidates = [_variant_like(deployed, model, variants) for model in (teacher, *exports)]
    return max(candidates, key=lambda one: (one.evaluation is not None, one.latency is not None))


def _is_made_from(model: Artifact, other: Artifact) -> bool:
    ref = _made_from(model)
    return ref is not None and ref.digest == other.digest


def _variant_like(deployed: Variant, model: Artifact, variants: Iterable[Variant]) -> Variant:
    """The variant of `model` whose latency was taken under the deployed one's conditions, where there is one."""
    own = [one for one in variants if one.model.digest == model.digest]
    return max(own, key=lambda one: (same_conditions(one, deployed), one.latency is not None))
