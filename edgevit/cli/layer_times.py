"""What the command inspect shows of the times of layers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.cli.output import echo, fitting, print_json, print_table, say, write_page

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact
    from edgevit.checking.timed_layers import TimedModel
    from edgevit.context import Context

MOST_LAYERS = 30


@dataclass(frozen=True)
class Timing:
    """The options of the command that say how layers are timed. None where one is not given."""

    target: str | None
    batch: int | None
    threads: int | None
    runtime: str | None

    def check(self) -> None:
        """Raise RecipeError if an option needs a target and there is none, or there is no such runtime."""
        from edgevit.actions.inspect_layers import check_runtime
        from edgevit.errors import RecipeError

        options = {"--batch": self.batch, "--threads": self.threads, "--runtime": self.runtime}
        for option, value in options.items():
            if value is not None and self.target is None:
                next_step = "give --target local-cpu"
                raise RecipeError("layers are timed only on a target", where=option, got=value, next=next_step)
        check_runtime(self.runtime, "--runtime")

    def check_for_engine(self) -> None:
        """Raise RecipeError if an option does not fit a TensorRT engine."""
        from edgevit.errors import RecipeError

        for option, value in (("--threads", self.threads), ("--runtime", self.runtime)):
            if value is not None:
                raise RecipeError("an engine runs in TensorRT, on a GPU", where=option, got=value, next="leave it out")

    def on_this_cpu(self) -> tuple[str, ...]:
        """The options that say what runs the model, for the next command."""
        options = {"--threads": self.threads, "--runtime": self.runtime}
        return tuple(f"{option} {value}" for option, value in options.items() if value is not None)

    def timed(self, model: Artifact, context: Context) -> TimedModel:
        """The times of a model on the target."""
        from edgevit.actions.inspect_layers import timed_model

        assert self.target is not None  # the caller checks it
        return timed_model(model, self.target, self.runtime, self.batch, self.threads, context)


def show_times(timed: TimedModel, html: Path | None, as_json: bool) -> None:
    """Print the times of a checkpoint, and write their page if one is asked for."""
    if html is not None:
        from edgevit.report.layer_times_page import times_page

        write_page(html, times_page(timed))
    if as_json:
        print_json({"path": str(timed.path), "times": timed.to_json()})
    else:
        print_times(timed)


def print_times(timed: TimedModel) -> None:
    """Print the conditions, and the layers that take longest."""
    from edgevit.report.layer_times import HEADERS, cells, headline, longest, sentences
    from edgevit.report.text.numbers import milliseconds, percent

    say(headline(timed))
    for sentence in sentences(timed):
        say(sentence, indent="  ")
    layers, others_ms = longest(timed, MOST_LAYERS)
    echo("")
    print_table(HEADERS, fitting(HEADERS, [cells(layer, timed) for layer in layers]))
    if len(layers) < len(timed.layers):
        left = len(timed.layers) - len(layers)
        echo(f"{left} shorter layers: {milliseconds(others_ms)}, {percent(timed.share(others_ms))} of the time")
