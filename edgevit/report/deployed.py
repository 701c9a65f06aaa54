"""The model that a budget is judged by: one rule for finished artifacts and for the stages of a recipe."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgevit.artifacts import MODEL_KINDS, Kind


@dataclass(frozen=True)
class ModelInLine:
    """A model, and the models that it was made from.

    Attributes:
        id: unique among the models.
        made_from: id of the model that this one was made from; None if there is none.
        teachers: ids of the models that taught it.
        is_centroid: whether it is a nearest centroid classifier on frozen features.
    """

    id: str
    kind: Kind
    made_from: str | None = None
    teachers: tuple[str, ...] = ()
    is_centroid: bool = False


def names_teacher(reference: str) -> bool:
    """Whether a stage's reference, such as `teacher` or `teachers.0`, is to a teacher."""
    return reference == "teacher" or reference.startswith("teachers.")


def deployed_model(models: Sequence[ModelInLine], evaluated: Collection[str], timed: Collection[str]) -> str:
    """The id of the most derived model with both accuracy and latency measured, or else with either.

    An engine comes before an ONNX file, and an ONNX file before a checkpoint; of equals the last in order is taken. A
    teacher, a model made from a teacher, and a nearest centroid classifier come after all other measured models.

    Args:
        models: at least one, parents before children.
        evaluated, timed: the ids of the measured models.
    """
    by_id = {model.id: model for model in models}
    teachers = set(_teachers(by_id))

    def rank(numbered: tuple[int, ModelInLine]) -> tuple[bool, bool, int, int, int]:
        number, model = numbered
        measured = (model.id in evaluated) + (model.id in timed)
        is_baseline = model.is_centroid or not teachers.isdisjoint(line_of(model.id, by_id))
        return measured > 0, not is_baseline, measured, MODEL_KINDS.index(model.kind), number

    return max(enumerate(models), key=rank)[1].id


def line_of(id: str, models: Mapping[str, ModelInLine]) -> list[str]:
    """A model and the models that it was made from, nearest first, without its teachers."""
    line = [id]
    while (made_from := models[line[-1]].made_from) in models:
        assert made_from is not None
        line.append(made_from)
    return line


def _teachers(models: Mapping[str, ModelInLine]) -> Iterator[str]:
    """The models that taught another one. A model may teach itself, or a model made from it, in qat."""
    for model in models.values():
        own = line_of(model.id, models)
        yield from (teacher for teacher in model.teachers if teacher not in own)
