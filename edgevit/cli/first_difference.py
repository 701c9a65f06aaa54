"""What `compile --find-difference` prints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgevit.cli.output import echo, fitting, print_table, say

if TYPE_CHECKING:
    from edgevit.actions.first_difference import ComparedTensor, Difference

HEADERS = ("tensor", "operator", "SQNR", "verdict")
FUSION = "Further outputs change how TensorRT fuses layers."
MOST_NAMED = 8  # tensors in a sentence


def print_difference(difference: Difference) -> None:
    """Print the first tensor that differs, what is before it, and all tensors that were compared."""
    first = difference.first
    if first is None:
        _print_vanished(difference)
    else:
        _print_first(first, difference)
    for name in difference.vanished:
        say(f"the fault vanishes if {name} is a further output. {FUSION}")
    if first is not None and not difference.is_whole:
        say("an earlier tensor may differ: not every tensor before it was compared")
    if difference.too_large:
        more = ", …" if len(difference.too_large) > MOST_NAMED else ""
        names = ", ".join(difference.too_large[:MOST_NAMED])
        say(f"not compared, as a run cannot give so many values: {len(difference.too_large)}: {names}{more}")
    if difference.compared:
        echo("")
        print_table(HEADERS, _rows(difference))


def _print_vanished(difference: Difference) -> None:
    if not difference.vanished:
        say("the outputs were right when the engine was built again: the fault does not occur in each build")
        return
    builds = f"each of {difference.builds} builds" if difference.builds > 1 else "a build"
    say(f"the fault has vanished in {builds} with further outputs. {FUSION}")
    say("the fault lies in a fusion of layers: try another release of TensorRT, or another precision")


def _print_first(first: ComparedTensor, difference: Difference) -> None:
    say(f"first tensor that differs: {first.name}")
    say(f"node    {first.node} ({first.operator})", "  ")
    say(f"SQNR    {_decibels(first)}; at least {difference.floor_db:g} dB is expected", "  ")
    for tensor in difference.before:
        say(f"before  {tensor.name}: {_decibels(tensor)}", "  ")
    say(f"found in {difference.builds} builds, in batches of {difference.batch_size}. {FUSION}", "  ")
    if difference.falls_slowly:
        say("The SQNR falls slowly up to here, so that roundings may add up: no node need be wrong.", "  ")


def _rows(difference: Difference) -> list[Sequence[str]]:
    rows = [
        (tensor.name, tensor.operator, _decibels(tensor), "agrees" if tensor.agrees else "differs")
        for tensor in difference.compared
    ]
    return fitting(HEADERS, rows)


def _decibels(tensor: ComparedTensor) -> str:
    """The SQNR; the smaller one where the images' differences tell more."""
    if tensor.between_images_db is not None and not tensor.agrees and tensor.between_images_db < tensor.sqnr_db:
        return f"{tensor.sqnr_db:.1f} dB ({tensor.between_images_db:.1f} dB between images)"
    return f"{tensor.sqnr_db:.1f} dB"
