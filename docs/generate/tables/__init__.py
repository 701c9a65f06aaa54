"""The tables of each result: which figures of its JSON matter, in which order, under which words.

A result whose name is in TABLES has tables of its own; any other gets one table of all its figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from docs.generate import numbers
from docs.generate.records import Json, read_result
from docs.generate.tables import compression, distillation, few_shot, latency, peers, pretraining, selection, whole_path
from docs.generate.tables.cells import Table

MOST_FIGURES = 200  # of a table of all figures

TABLES: dict[str, Callable[[Json], Iterable[Table]]] = {
    "calibration_images": compression.calibration_images,
    "cifar10_exercise": whole_path.cifar10_exercise,
    "cifar10_exercise_mobilenetv2": whole_path.cifar10_exercise,
    "cifar10_few_shot": few_shot.cifar10_few_shot,
    "cifar10_few_shot_mobilenetv2": few_shot.cifar10_few_shot,
    "cifar10_students_mobilenetv2": few_shot.cifar10_students,
    "compositions": compression.compositions,
    "compression_peers": compression.compression_peers,
    "distillation_accuracy": distillation.distillation_accuracy,
    "distillation_accuracy_100_epochs": distillation.distillation_accuracy,
    "distillation_accuracy_100_epochs_further": distillation.distillation_accuracy,
    "distillation_speed": distillation.distillation_speed,
    "energy_coverage": latency.energy_coverage,
    "enrollment": whole_path.enrollment,
    "few_photos_epochs": few_shot.few_photos_epochs,
    "first_commands": peers.first_commands,
    "foreign_pictures": few_shot.foreign_pictures,
    "grocery_few_shot": few_shot.grocery_few_shot,
    "grocery_few_shot_mobilenetv2": few_shot.grocery_few_shot,
    "interval_coverage": latency.interval_coverage,
    "kept_memory": distillation.kept_memory,
    "kept_sums": compression.kept_sums,
    "latency_cpu": latency.latency_cpu,
    "latency_model": latency.latency_model,
    "newcomer": peers.newcomer,
    "omniglot_episodes": few_shot.omniglot_episodes,
    "outliers": compression.outliers,
    "overhead": whole_path.spreads,
    "photo_students": few_shot.photo_students,
    "pretraining": pretraining.pretraining,
    "pretraining_downstream": pretraining.pretraining_downstream,
    "pretraining_on_photos": pretraining.pretraining_on_photos,
    "pretraining_speed": pretraining.pretraining_speed,
    "profile_agreement": whole_path.spreads,
    "quantization_accuracy": compression.quantization_accuracy,
    "quantization_gate": compression.quantization_gate,
    "quickstart": whole_path.quickstart,
    "reference_students": distillation.reference_students,
    "same_file_twice": whole_path.same_file_twice,
    "second_cycle": distillation.second_cycle,
    "selection": selection.selection,
    "selection_exhaustive": selection.selection_exhaustive,
    "selection_rounds": selection.selection_rounds,
    "sigmoid_placement": compression.sigmoid_placement,
    "stage_costs_cifar10-10way-5shot": whole_path.long_run,
    "stage_costs_photos": whole_path.photos,
    "stage_costs_quickstart": whole_path.stage_costs,
    "startup": whole_path.spreads,
    "tensorrt_plans": compression.tensorrt_plans,
    "training_precision_with_instructions": distillation.training_precision,
    "training_precision_without_instructions": distillation.training_precision,
    "unbalanced_classes": few_shot.unbalanced_classes,
    "weight_range_without_vnni": compression.weight_range,
    "zoo": compression.zoo,
}


def tables_of(name: str) -> list[Table]:
    """The tables of a result."""
    result = read_result(name)
    return list(TABLES[name](result)) if name in TABLES else [all_figures(result)]


def all_figures(result: Json) -> Table:
    """Every number of a result but those of its conditions, up to a limit."""
    rows = [(" > ".join(path), shown) for path, shown in _figures(result) if "conditions" not in path]
    return Table("figures", ("figure", "value"), tuple(rows[:MOST_FIGURES]))


def _figures(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if numbers.has_range(value):
        yield path, numbers.ranged(value, numbers.significant(4))
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _figures(inner, (*path, str(key)))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _figures(inner, (*path, str(index)))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield path, numbers.significant(4)(value)
