"""Options that several commands on files have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import bounds
from edgevit.errors import shortened


def number(flag: str, within: bounds.Range, help: str) -> Any:
    """An option that takes a number, or several, within a range of `edgevit.bounds`."""

    def check(given: Any) -> Any:
        for value in given if isinstance(given, tuple) else (given,):
            if value is not None and value not in within:
                raise typer.BadParameter(f"{shortened(value)} should be {within}.")
        return given

    return typer.Option(flag, callback=check, help=help)


ModelPath = Annotated[
    Path, typer.Argument(help="An ONNX file, a bundle, or the folder of a stage (runs/NAME/ID).", metavar="MODEL")
]
DataPath = Annotated[
    Path, typer.Option("--data", help="Folder of labelled images: CLASS/*.jpg, or with test/CLASS/*.jpg.")
]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes.")]
Threads = Annotated[int, number("--threads", bounds.THREADS, "CPU threads of the runtime.")]
TargetName = Annotated[str, typer.Option("--target", help="Where it runs: local-cpu or local-gpu.")]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="What opens an ONNX file: onnxruntime or openvino; its own by default.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="A file of class names, one a line, in the model's order.")
]


def _known_order(given: str | None) -> str | None:
    if given is not None:
        from edgevit.data.class_order import ORDERS
        from edgevit.errors import RecipeError

        if given not in ORDERS:
            expected = " or ".join(ORDERS)
            raise RecipeError("there is no such order", where="--class-order", got=given, expected=expected)
    return given


ClassOrder = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        callback=_known_order,
        help="How the class folders were sorted that trained a model without class names: natural (timm: 2 before 10) "
        "or text (torchvision: 10 before 2).",
    ),
]
Batch = Annotated[int, number("--batch", bounds.BATCH, "Images at a time.")]
BatchOfFile = Annotated[
    int | None, number("--batch", bounds.BATCH, "Images at a time; 1 by default, or the batch size that a file fixes.")
]
