"""The command inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import ModelPath
from edgevit.cli.output import (
    JsonFlag,
    check_out,
    echo,
    next_command,
    print_json,
    print_table,
    terminal_context,
    write_text_whole,
)

if TYPE_CHECKING:
    from edgevit.checking import Inspection
    from edgevit.checking.inspection import DeclaredTensor, Layer

MOST_TYPES = 3
WIDTH, SHORTEST_NAME = 80, 12
LAYER_HEADERS = ("layer", "operator", "operands", "MACs", "asked", "got")


def inspect(
    model: ModelPath,
    html: Annotated[Path | None, typer.Option("--html", help="Write a page of it to this file too.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show what is in a graph, layer by layer, and in which precision ONNX Runtime would run it on this machine.

    Shapes, MACs and memory are those of one image, or of one batch where the file fixes how many it takes.

    Example: edgevit inspect deit.int8.onnx --html deit.html
    """
    from edgevit.actions.single_stage import single_stages
    from edgevit.checking import inspect_onnx

    if html is not None:
        check_out(html, model, option="--html")
    with single_stages(terminal_context()) as stages:
        found = inspect_onnx(stages.onnx_file(model))
    if html is not None:
        from edgevit.report.inspection import inspection_page

        write_text_whole(html, inspection_page(found))
        echo(f"wrote {html}", err=True)
    if as_json:
        print_json(found.to_json())
    else:
        _print(found)
    next_command("edgevit profile", model)


def _print(found: Inspection) -> None:
    echo(f"{found.path}: opset {found.opset}")
    for direction, tensors in (("in ", found.inputs), ("out", found.outputs)):
        for tensor in tensors:
            echo(f"  {direction}  {_described(tensor)}")
    if found.spec is not None:
        rule, classes = found.spec.preprocess, len(found.spec.classes)
        echo(f"  pictures: {rule.resize} to {rule.height} × {rule.width}, {rule.interpolation}; {classes} classes")
    for name, value in found.session_options.items():
        echo(f"  session option {name}: {value}")
    _print_costs(found)
    echo("")
    print_table(("operator", "nodes", "of type"), _operator_rows(found.operators))
    if found.in_subgraphs:
        echo("\nin subgraphs (bodies of If, Loop and Scan), left out of all other numbers")
        echo("\n".join(f"  {number} × {operator}" for operator, number in found.in_subgraphs.items()))
    echo("")
    print_table(LAYER_HEADERS, _layer_rows(found.layers))
    _print_stays_float(found)
    if found.runtime is None:
        echo(f"\nwhat would run is not known: {found.refused}", err=True)
    else:
        echo(f"\ngot: by {found.runtime} on this machine's CPU")


def _print_costs(found: Inspection) -> None:
    from edgevit.report.text import count, size

    total = sum(found.weights_bytes.values())
    by_type = [f"{name} {size(number)}" for name, number in found.weights_bytes.items()][:MOST_TYPES]
    peak = f"{size(found.peak.bytes)} at their peak, nothing fused" if found.peak is not None else "not known"
    extent = f" for {found.extent}" if found.batch > 1 else ""
    echo(f"\nMACs         {count(found.macs)}{extent}")
    echo(f"weights      {size(total)}: {', '.join(by_type)}")
    echo(f"activations  {peak}")
    if found.attentions and found.runtime is not None:
        echo(f"attention    {found.attentions - len(found.unfused)} of {found.attentions} fused")


def _described(tensor: DeclaredTensor) -> str:
    return f"{tensor.name} {tensor.type} ({', '.join(map(str, tensor.shape))})"


def _operator_rows(operators: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, str]]:
    return [
        (operator, sum(types.values()), ", ".join(f"{name} {number}" for name, number in types.items()))
        for operator, types in operators.items()
    ]


def _layer_rows(layers: Sequence[Layer]) -> list[tuple[str, str, str, str, str, str]]:
    """Names are cut at their beginning, so that a row fits the terminal."""
    from edgevit.report.text import count

    rows = [
        (one.product.operator, one.operands_text, count(one.macs), one.product.asked, one.product.got or "-")
        for one in layers
    ]
    widths = [max(map(len, column)) for column in zip(LAYER_HEADERS[1:], *rows, strict=True)]
    room = max(SHORTEST_NAME, WIDTH - sum(widths) - 2 * len(widths))
    return [(_tail(one.product.node, room), *row) for one, row in zip(layers, rows, strict=True)]


def _print_stays_float(found: Inspection) -> None:
    from edgevit.report.text import percent

    if found.stays_float:
        echo("\nstayed float" if found.is_quantized else "\nwould stay float, quantized for tensorrt")
    for reason, layers in found.stays_float.items():
        share = f" ({percent(sum(one.macs or 0 for one in layers) / found.macs)} of the MACs)" if found.macs else ""
        echo(f"  {len(layers)} × {reason}{share}")


def _tail(name: str, room: int) -> str:
    return name if len(name) <= room else f"…{name[1 - room :]}"
