"""Options of commands: numbers within bounds, flags, defaults from the configs, and options that commands share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from edgevit import bounds
from edgevit.errors import shortened


@dataclass(frozen=True)
class ConfigDefault:
    """The default of a field of `edgevit.configs`, which is imported only when a command runs or shows its help.

    Several values are one text with commas, as the command line takes them.
    """

    config: str
    field: str

    def __call__(self) -> Any:
        from edgevit import configs

        value = getattr(configs, self.config).model_fields[self.field].default
        return ", ".join(map(str, value)) if isinstance(value, tuple) else value

    def __str__(self) -> str:
        value = self()
        return f"{value:g}" if isinstance(value, float) else str(value)


def default_of(config: str, field: str) -> Any:
    """The default of an option: that of a field, such as ("Export", "opset"). None and False are written out."""
    return ConfigDefault(config, field)


def separated(text: str) -> list[str]:
    """The values in a text with commas; spaces beside a comma do not count."""
    return [value.strip() for value in text.split(",")]


def number(flag: str, within: bounds.Range, help: str, metavar: str | None = None) -> Any:
    """An option that takes a number, or several, within a range of `edgevit.bounds`."""

    def check(values: Any) -> Any:
        for value in values if isinstance(values, tuple) else (values,):
            if value is not None and value not in within:
                raise typer.BadParameter(f"{shortened(value)} should be {within}.")
        return values

    return typer.Option(flag, callback=check, help=help, metavar=metavar)


def batch_sizes_checked(text: str | None) -> str | None:
    """The text of an option that takes one batch size, or several with commas. Raises BadParameter for other text."""
    for size in separated(text) if text is not None else ():
        if not size.isdecimal() or int(size) not in bounds.BATCH:
            raise typer.BadParameter(f"{shortened(size)} should be a whole number, {bounds.BATCH}.")
    return text


def flag(name: str, help: str, *, hidden: bool = False) -> Any:
    """An option that takes no value."""
    return typer.Option(name, help=help, hidden=hidden, metavar="")


def given_options(context: typer.Context) -> list[str]:
    """The options on the command line."""
    sources = {each.opts[0]: context.get_parameter_source(each.name or "") for each in context.command.params}
    return [option for option, source in sources.items() if source is not None and source.name == "COMMANDLINE"]


JsonFlag = Annotated[bool, flag("--json", "Print the result as JSON.")]
ModelPath = Annotated[
    Path,
    typer.Argument(help="An ONNX file, a bundle, an engine's folder, or a stage's (runs/NAME/ID).", metavar="MODEL"),
]
DataPath = Annotated[
    Path, typer.Option("--data", help="Folder of labelled images: CLASS/*.jpg, or with test/CLASS/*.jpg.")
]
Out = Annotated[Path, typer.Option("--out", help="The file to write.")]
RecipeOut = Annotated[Path, typer.Option("--out", help="The recipe to write.")]
SizeLimit = Annotated[
    float | None, number("--size-mib", bounds.POSITIVE, "Budget: largest size of the model file, in MiB.")
]
Teacher = Annotated[str | None, typer.Option("--teacher", metavar="NAME", help="The teacher, by its timm name.")]
PretrainedWeights = Annotated[
    Path | None,
    typer.Option("--weights", metavar="FILE", help="Pretrained weights of a timm model, for teacher and student."),
]
Offline = Annotated[bool, flag("--offline", "Ask nothing of the network.")]
Force = Annotated[bool, flag("--force", "Overwrite an existing file.")]
Threads = Annotated[int, number("--threads", bounds.THREADS, "CPU threads of the runtime.")]
Workers = Annotated[
    int | None,
    number("--workers", bounds.WORKERS, "Processes that load images; the CPUs less 2 by default, at most 8."),
]
WHERE = "Where the model runs: local-cpu, local-gpu, or a name of edgevit devices"
TargetName = Annotated[str, typer.Option("--target", help=f"{WHERE}.")]
Runtime = Annotated[
    str | None,
    typer.Option("--runtime", help="What runs an ONNX file: onnxruntime or openvino; the file's own by default."),
]
Labels = Annotated[
    Path | None,
    typer.Option("--labels", help="Text file of class names, one a line, in the order of the model's outputs."),
]


def _known_order(order: str | None) -> str | None:
    if order is not None:
        from edgevit.data.class_order import ORDERS
        from edgevit.errors import RecipeError

        if order not in ORDERS:
            expected = " or ".join(ORDERS)
            raise RecipeError("there is no such order", where="--class-order", got=order, expected=expected)
    return order


ClassOrder = Annotated[
    str | None,
    typer.Option(
        "--class-order",
        callback=_known_order,
        help="For a model without class names: the order of the class folders that it was trained on. natural, as in "
        "timm: 2 before 10. text, as in torchvision: 10 before 2.",
    ),
]
Batch = Annotated[int, number("--batch", bounds.BATCH, "Images in a batch.")]
BatchOfFile = Annotated[
    int | None,
    number("--batch", bounds.BATCH, "Images in a batch; 1 by default, or the batch size that the file fixes."),
]
