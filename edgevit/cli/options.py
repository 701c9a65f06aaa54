"""Options that several commands on files have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ModelPath = Annotated[
    Path, typer.Argument(help="An ONNX file, a bundle, or the folder of a stage (runs/NAME/ID).", metavar="MODEL")
]
DataPath = Annotated[
    Path, typer.Option("--data", help="Folder of labelled images: CLASS/*.jpg, or with test/CLASS/*.jpg.")
]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the runtime.")]
TargetName = Annotated[str, typer.Option("--target", help="Where it runs: local-cpu or local-gpu.")]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="What opens an ONNX file: onnxruntime or openvino; its own by default.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="A file of class names, one a line, in the model's order.")
]
ClassOrder = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        help="How the class folders were sorted that trained a model without class names: natural (timm: 2 before 10) "
        "or text (torchvision: 10 before 2).",
    ),
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")]
