"""The command lr-find."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit import bounds
from edgevit.cli.options import number
from edgevit.cli.output import JsonFlag, echo, next_command, print_json, say_note, set_options, terminal_context
from edgevit.cli.recipes import Device, RecipeFile, Runs, Settings
from edgevit.recipes import find_recipe

if TYPE_CHECKING:
    from edgevit.training.loop.lr_finder import RangeTest

ROWS = 20
BAR_WIDTH = 40


def lr_find(
    recipe: RecipeFile,
    stage: Annotated[str, typer.Argument(help="The id of a stage that trains.", metavar="STAGE")],
    settings: Settings = [],  # noqa: B006 - typer wants a list
    runs: Runs = Path("runs"),
    steps: Annotated[int, number("--steps", bounds.STEPS, "Steps from the smallest rate to the largest.")] = 100,
    device: Device = "auto",
    workers: Annotated[int | None, number("--workers", bounds.WORKERS, "Processes that load images.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Suggest a learning rate: a stage trained at a rising rate until the loss diverges (Smith 2017).

    Nothing is kept. What the stage needs must be finished.

    Example: edgevit lr-find quickstart teacher
    """
    from edgevit.actions.doctor import training_device
    from edgevit.actions.lr_find import lr_find as range_test_of
    from edgevit.errors import ArtifactError, RecipeError
    from edgevit.recipe import load_recipe

    loaded = load_recipe(recipe, settings, say_note)
    _, base = find_recipe(recipe)
    loading = {} if workers is None else {"workers": workers}
    context = terminal_context(device=training_device(device), **loading)
    changes = set_options(settings)
    command = " ".join(["edgevit run", shlex.quote(str(recipe)), *changes])
    try:
        found = range_test_of(loaded, base, runs, context, stage, steps)
    except ArtifactError as error:
        error.next = error.next or f"{command} (may be stopped when it comes to '{stage}')"
        raise
    if as_json:
        print_json({"stage": stage, "suggestion": found.suggestion, **asdict(found)})
    else:
        _print_curve(found)
    if found.suggestion is None:
        next_command("edgevit lr-find", recipe, stage, *changes, f"--steps {3 * steps}")
        return
    setting = f"stages.{stage}.learning_rate={found.suggestion:.2g}"
    try:
        load_recipe(recipe, [*settings, setting])
    except RecipeError:  # a stage of a for_each block, which --set does not reach one by one
        file = recipe if recipe.is_file() else f"a copy (edgevit init --recipe {recipe})"
        next_command(f"write learning_rate: {found.suggestion:.2g} into {file}, and {command}")
        return
    if not as_json:
        echo(f"--set {setting}")
    next_command(f"{command} --set {setting}")


def _print_curve(found: RangeTest) -> None:
    """The smoothed loss as bars above the smallest; those far above the first are cut off."""
    first, smallest = found.smoothed[0], found.smoothed[found.minimum]
    span = 1.25 * max(first - smallest, 0.1 * first)
    echo(f"{'learning rate':>13}  {'loss':>8}  (bars: what lies above the smallest)")
    for step in _shown_steps(found):
        loss = found.smoothed[step]
        length = math.ceil(BAR_WIDTH * (loss - smallest) / span)
        bar = "#" * length if length <= BAR_WIDTH else "#" * (BAR_WIDTH - 1) + ">"
        mark = "smallest" if step == found.minimum else bar
        echo(f"{found.learning_rates[step]:>13.2g}  {loss:>8.4g}  {mark}".rstrip())
    how = "the loss diverged" if found.diverged else "the largest rate was reached, the loss did not diverge"
    echo(f"ended after {len(found.losses)} steps: {how}")
    if found.suggestion is None:
        echo("no suggestion: the loss never fell by more than it varies from batch to batch")
    else:
        echo(f"suggestion: {found.suggestion:.2g}, a tenth of where the loss is smallest (Howard, Gugger 2020)")


def _shown_steps(found: RangeTest) -> list[int]:
    every = max(1, len(found.losses) // ROWS)
    return sorted({*range(0, len(found.losses), every), found.minimum, len(found.losses) - 1})
