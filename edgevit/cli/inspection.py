"""The command inspect."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit import bounds
from edgevit.cli.engine_inspection import show_engine
from edgevit.cli.layer_times import Timing, print_times, show_times
from edgevit.cli.options import JsonFlag, ModelPath, number
from edgevit.cli.output import (
    check_out,
    echo,
    fitting,
    next_command,
    on_target,
    print_json,
    print_table,
    terminal_context,
    write_page,
)

if TYPE_CHECKING:
    from edgevit.actions.single_stage import SingleStages
    from edgevit.artifacts import Artifact
    from edgevit.checking import Inspection
    from edgevit.checking.inspection import DeclaredTensor, Layer
    from edgevit.checking.timed_layers import TimedModel

MOST_TYPES = 3
LAYER_HEADERS = ("layer", "operator", "operands", "MACs", "asked", "got")


def inspect(
    model: ModelPath,
    target: Annotated[
        str | None,
        typer.Option("--target", help="Also time each layer: on local-cpu; an engine, on the target that built it."),
    ] = None,
    batch: Annotated[
        int | None,
        number("--batch", bounds.BATCH, "With --target: images in a batch; 1, or the size that the file fixes."),
    ] = None,
    threads: Annotated[
        int | None, number("--threads", bounds.THREADS, "With --target local-cpu: CPU threads; 1 by default.")
    ] = None,
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="With --target local-cpu: onnxruntime or openvino; the file's own by default."),
    ] = None,
    html: Annotated[Path | None, typer.Option("--html", help="Also write an HTML page to this file.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show the layers of a graph, and the precision in which ONNX Runtime would run each on this machine.

    Shapes, MACs and memory are for one image, or for one batch if the file fixes the batch size.

    With --target local-cpu, it also times the layers in the runtime's own profiler, names the module of each, and says
    what bounds it: memory, compute or launches (roofline). A checkpoint's folder is timed by module.

    Of a TensorRT engine, it shows the layers that TensorRT built: the ONNX nodes in each, types, bytes, fused
    attention, the precision that each product asked for and got, and the part of the engine that TensorRT does not
    tell.

    Example: edgevit inspect deit.int8.onnx --target local-cpu --html deit.html
    """
    from edgevit.actions.engine_files import is_engine
    from edgevit.actions.single_stage import single_stages

    if html is not None:
        check_out(html, model, option="--html")
    timing = Timing(target, batch, threads, runtime)
    with single_stages(terminal_context()) as stages:
        found = stages.model(model, for_images=False) if model.is_dir() else None
        if found is not None and is_engine(found):
            timing.check_for_engine()
            show_engine(found, target, batch, html, as_json, stages.context)
            if target is None and (machine := found.model_file.bound_to):
                target = machine.name
        else:
            _show_model(found, stages, model, timing, html, as_json)
    next_command("edgevit profile", model, *on_target(target), *timing.on_this_cpu())


def _show_model(
    found: Artifact | None, stages: SingleStages, path: Path, timing: Timing, html: Path | None, as_json: bool
) -> None:
    """Print a graph with its times if a target is given; of a checkpoint, its times."""
    from edgevit.graphs.files import onnx_file

    timing.check()
    timed = None
    if timing.target is not None:
        timed = timing.timed(found or stages.model(path, for_images=False), stages.context)
    if found is not None and found.kind == "checkpoint" and timed is not None:
        show_times(timed, html, as_json)
    else:
        _show_graph(stages.onnx_file(path) if found is None else onnx_file(found), timed, html, as_json)


def _show_graph(file: Path, timed: TimedModel | None, html: Path | None, as_json: bool) -> None:
    from edgevit.checking import inspect_onnx

    inspected = inspect_onnx(file)
    if html is not None:
        from edgevit.report.inspection import inspection_page

        write_page(html, inspection_page(inspected, timed))
    if as_json:
        print_json({**inspected.to_json(), "times": timed.to_json() if timed else None})
        return
    _print(inspected)
    if timed is not None:
        echo("")
        print_times(timed)


def _print(inspected: Inspection) -> None:
    echo(f"{inspected.path}: opset {inspected.opset}")
    for direction, tensors in (("in ", inspected.inputs), ("out", inspected.outputs)):
        for tensor in tensors:
            echo(f"  {direction}  {_described(tensor)}")
    if inspected.spec is not None:
        rule, classes = inspected.spec.preprocess, len(inspected.spec.classes)
        echo(f"  images: {rule.resize} to {rule.height} × {rule.width}, {rule.interpolation}; {classes} classes")
    for name, value in inspected.session_options.items():
        for one in value if isinstance(value, list) else [value]:
            echo(f"  session option {name}: {one}")
    _print_costs(inspected)
    echo("")
    print_table(("operator", "nodes", "of type"), _operator_rows(inspected.operators))
    if inspected.in_subgraphs:
        echo("\nin subgraphs (bodies of If, Loop and Scan), not counted in the other numbers")
        echo("\n".join(f"  {number} × {operator}" for operator, number in inspected.in_subgraphs.items()))
    echo("")
    print_table(LAYER_HEADERS, fitting(LAYER_HEADERS, _layer_rows(inspected.layers)))
    _print_stays_float(inspected)
    _print_rounded(inspected)
    if inspected.runtime is None:
        echo(f"\nthe precisions that would run are unknown: {inspected.refused}", err=True)
    else:
        echo(f"\ngot: the precision in {inspected.runtime} on this machine's CPU")


def _print_costs(inspected: Inspection) -> None:
    from edgevit.report.text.numbers import count, size

    total = sum(inspected.weights_bytes.values())
    by_type = [f"{name} {size(number)}" for name, number in inspected.weights_bytes.items()][:MOST_TYPES]
    peak = f"{size(inspected.peak.bytes)} at their peak, without fusion" if inspected.peak is not None else "unknown"
    extent = f" for {inspected.extent}" if inspected.batch > 1 else ""
    echo(f"\nMACs         {count(inspected.macs)}{extent}")
    echo(f"weights      {size(total)}: {', '.join(by_type)}")
    echo(f"activations  {peak}")
    if inspected.attentions and inspected.runtime is not None:
        echo(f"attention    {inspected.attentions - len(inspected.unfused)} of {inspected.attentions} fused")


def _described(tensor: DeclaredTensor) -> str:
    return f"{tensor.name} {tensor.type} ({', '.join(map(str, tensor.shape))})"


def _operator_rows(operators: Mapping[str, Mapping[str, int]]) -> list[tuple[str, int, str]]:
    return [
        (operator, sum(types.values()), ", ".join(f"{name} {number}" for name, number in types.items()))
        for operator, types in operators.items()
    ]


def _layer_rows(layers: Sequence[Layer]) -> list[tuple[str, ...]]:
    from edgevit.report.text.numbers import count

    return [
        (
            layer.product.node,
            layer.product.operator,
            layer.operands_text,
            count(layer.macs),
            layer.product.asked,
            layer.product.got or "-",
        )
        for layer in layers
    ]


def _print_rounded(inspected: Inspection) -> None:
    if not inspected.rounded:
        return
    from edgevit.checking.onnxruntime import NO_ROUNDING

    echo("\nfloat weights that ONNX Runtime rounds to integers")
    for layer in inspected.rounded:
        echo(f"  {layer.product.node}")
    echo(f"  next: {NO_ROUNDING}")


def _print_stays_float(inspected: Inspection) -> None:
    from edgevit.report.text.numbers import percent

    if inspected.stays_float:
        echo("\nstayed float" if inspected.is_quantized else "\nwould stay float if quantized for tensorrt")
    for reason, layers in inspected.stays_float.items():
        macs = sum(layer.macs or 0 for layer in layers)
        share = f" ({percent(macs / inspected.macs)} of the MACs)" if inspected.macs else ""
        echo(f"  {len(layers)} × {reason}{share}")
