"""The command lr-find."""

from __future__ import annotations

import math
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit import bounds
from edgevit.cli.options import JsonFlag, Workers, number
from edgevit.cli.output import echo, next_command, print_json, say_note, set_options, terminal_context
from edgevit.cli.recipes import Device, RecipeFile, Runs, Settings

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
    workers: Workers = None,
    as_json: JsonFlag = False,
) -> None:
    """Suggest a learning rate: train a stage at a rising rate until the loss diverges (Smith 2017).

    Nothing is stored. The stages that it needs must be finished.

    Example: edgevit lr-find quickstart teacher
    """
    from edgevit.actions.doctor import training_device
    from edgevit.actions.lr_find import lr_find as range_test_of
    from edgevit.errors import ArtifactError, RecipeError
    from edgevit.recipe import load_recipe, recipe_and_folder

    loaded, base = recipe_and_folder(recipe, settings, say_note)
    loading = {} if workers is None else {"workers": workers}
    context = terminal_context(device=training_device(device), **loading)
    changes = set_options(settings)
    command = " ".join(["edgevit run", shlex.quote(str(recipe)), *changes])
    try:
        test = range_test_of(loaded, base, runs, context, stage, steps)
    except ArtifactError as error:
        error.next = error.next or f"{command} (stop it when it comes to '{stage}')"
        raise
    if as_json:
        print_json({"stage": stage, "suggestion": test.suggestion, **asdict(test)})
    else:
        _print_curve(test)
    if test.suggestion is None:
        next_command("edgevit lr-find", recipe, stage, *changes, f"--steps {3 * steps}")
        return
    setting = f"stages.{stage}.learning_rate={test.suggestion:.2g}"
    try:
        load_recipe(recipe, [*settings, setting])
    except RecipeError:  # a stage of a for_each block, which --set does not reach one by one
        file = recipe if recipe.is_file() else f"a copy (edgevit init --recipe {recipe})"
        next_command(f"write learning_rate: {test.suggestion:.2g} into {file}, and {command}")
        return
    if not as_json:
        echo(f"--set {setting}")
    next_command(f"{command} --set {setting}")


def _print_curve(test: RangeTest) -> None:
    """Print the smoothed loss as bars above its minimum. Long bars are cut off."""
    first, smallest = test.smoothed[0], test.smoothed[test.minimum]
    span = 1.25 * max(first - smallest, 0.1 * first)
    echo(f"{'learning rate':>13}  {'loss':>8}  (bars: above the smallest loss)")
    for step in _shown_steps(test):
        loss = test.smoothed[step]
        length = math.ceil(BAR_WIDTH * (loss - smallest) / span)
        bar = "#" * length if length <= BAR_WIDTH else "#" * (BAR_WIDTH - 1) + ">"
        mark = "smallest" if step == test.minimum else bar
        echo(f"{test.learning_rates[step]:>13.2g}  {loss:>8.4g}  {mark}".rstrip())
    end = "the loss diverged" if test.diverged else "the loss did not diverge up to the largest rate"
    echo(f"ended after {len(test.losses)} steps: {end}")
    if test.suggestion is None:
        echo("no suggestion: the loss never fell by more than its variation between batches")
    else:
        echo(f"suggestion: {test.suggestion:.2g}, a tenth of the rate of least loss (Howard, Gugger 2020)")


def _shown_steps(test: RangeTest) -> list[int]:
    every = max(1, len(test.losses) // ROWS)
    return sorted({*range(0, len(test.losses), every), test.minimum, len(test.losses) - 1})
