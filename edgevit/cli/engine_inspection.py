"""What the command inspect shows of a TensorRT engine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgevit.cli.output import echo, fitting, print_json, print_table, say, tail, write_page

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact
    from edgevit.checking.engine_inspection import EngineInspection, EngineLayer
    from edgevit.context import Context

LONGEST_KIND = 14
PRODUCT_HEADERS = ("product", "operator", "asked", "got", "layer")
LAYER_HEADERS = ("layer", "kind", "nodes", "types", "size")
MOST_IN_PRODUCTS = 24  # characters of a layer's name beside a product


def show_engine(
    engine: Artifact, target: str | None, batch: int | None, html: Path | None, as_json: bool, context: Context
) -> None:
    """Print the contents of an engine, and write its page if one is asked for."""
    from edgevit.actions.inspect_engine import inspected_engine
    from edgevit.errors import RecipeError

    if batch is not None and target is None:
        raise RecipeError(
            "the layers are timed only on a target", where="--batch", got=batch, next="give --target NAME"
        )
    inspected = inspected_engine(engine, target, batch, context)
    if html is not None:
        from edgevit.report.engine_inspection import engine_page

        write_page(html, engine_page(inspected))
    if as_json:
        print_json(inspected.to_json())
    else:
        _print(inspected)


def _print(inspected: EngineInspection) -> None:
    from edgevit.report.engine_inspection import machine_text, opaque_sentence, times_sentences
    from edgevit.report.text.numbers import size

    takes = f"1 to {inspected.max_batch} images" if inspected.max_batch else "a fixed batch size"
    echo(str(inspected.path))
    say(machine_text(inspected))
    echo(f"{size(inspected.bytes)}, {inspected.precision}, {takes}, {len(inspected.layers)} layers")
    if inspected.attentions:
        echo(f"attention: {inspected.attentions - len(inspected.unfused)} of {inspected.attentions} fused")
    for sentence in (opaque_sentence(inspected), *times_sentences(inspected)):
        say(sentence)
    if inspected.products is None:
        echo("the ONNX file is not at hand, so the precisions that were asked for are unknown")
    else:
        echo("")
        rows = [
            (one.product.node, one.product.operator, one.product.asked, one.product.got or "-",
             tail(one.layer or "-", MOST_IN_PRODUCTS))
            for one in inspected.products
        ]  # fmt: skip
        print_table(PRODUCT_HEADERS, fitting(PRODUCT_HEADERS, rows))
    echo("")
    headers = (*LAYER_HEADERS, *(("ms",) if inspected.times else ()))
    print_table(headers, fitting(headers, [_layer_row(layer, inspected) for layer in inspected.layers]))


def _layer_row(layer: EngineLayer, inspected: EngineInspection) -> tuple[str, ...]:
    from edgevit.report.engine_inspection import kind_text, types_text
    from edgevit.report.text.numbers import significant, size

    ms = () if inspected.times is None else ("-" if layer.ms is None else significant(layer.ms),)
    kind = kind_text(layer)[:LONGEST_KIND]
    return (layer.name, kind, str(len(layer.nodes)), types_text(layer), size(layer.bytes), *ms)
