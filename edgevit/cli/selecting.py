"""The command select."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit import bounds
from edgevit.cli.options import (
    Force,
    JsonFlag,
    Offline,
    PretrainedWeights,
    RecipeOut,
    SizeLimit,
    TargetName,
    Teacher,
    default_of,
    flag,
    number,
)
from edgevit.cli.output import check_new_file, echo, next_command, print_json, terminal_context, write_text_whole
from edgevit.selection.halving import STUDENTS


def select(
    data: Annotated[
        Path,
        typer.Option("--data", help="Folder of labelled images: CLASS/*.jpg, or train/, val/ and test/ with such."),
    ],
    latency_ms: Annotated[float, number("--latency-ms", bounds.POSITIVE, "Budget: largest p50 latency, in ms.")],
    size_mib: SizeLimit = None,
    target: TargetName = default_of("Profile", "target"),
    board: Annotated[
        str | None,
        typer.Option(
            "--board",
            metavar="NAME",
            help="A board that is not at hand, such as orin-nano-8gb, or a target that was calibrated: latencies are "
            "predicted, in place of --target.",
        ),
    ] = None,
    students: Annotated[
        int, number("--students", bounds.CANDIDATES, "Largest number of students in the first round of trainings.")
    ] = STUDENTS,
    epochs: Annotated[
        int | None,
        number(
            "--epochs",
            bounds.COUNT,
            "Epochs of the students that reach the last round. By default, the number of images decides.",
        ),
    ] = None,
    out: RecipeOut = Path("recipe.yaml"),
    runs: Annotated[Path, typer.Option("--runs", help="Folder of all runs.")] = Path("runs"),
    teacher: Teacher = None,
    weights: PretrainedWeights = None,
    offline: Offline = False,
    retry_diverged: Annotated[
        bool, flag("--retry-diverged", "Train again what diverged when the command was given before.")
    ] = False,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Select a student within a budget by short trainings, and write a recipe that trains it at full length.

    Students of the catalog are timed untrained on the target, or predicted for a board. If none meets the budget,
    the command ends before any training with exit status 1, and says which budget can be met. Otherwise the most
    capable students train in rounds: after each, those that are most accurate on the validation images train on.
    The most accurate of the last round is taken. The same command goes on after an interruption.

    Example: edgevit select --data photos/ --latency-ms 10 --out photos.yaml
    """
    from edgevit.actions.doctor import training_device
    from edgevit.actions.init_recipe import InitOptions
    from edgevit.actions.select_student import TrialOptions, recipe_by_trials

    check_new_file(out, force)
    options = InitOptions(data, out, target, latency_ms, size_mib, teacher=teacher, weights=weights, offline=offline)
    selected = recipe_by_trials(
        options,
        TrialOptions(students, epochs, runs, board, retry_diverged),
        terminal_context(device=training_device("auto")),
    )
    write_text_whole(out, selected.written.text)
    if as_json:
        print_json(selected.as_json())
        return
    for line in selected.written.lines:
        echo(line)
    echo(f"wrote {out}")
    next_command("edgevit run", out, *(() if runs == Path("runs") else ("--runs", runs)))
