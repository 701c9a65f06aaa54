"""Sentences and a page on the layers of a TensorRT engine."""

from __future__ import annotations

from edgevit.artifacts import Json
from edgevit.checking.engine_inspection import EngineInspection, EngineLayer
from edgevit.report.page import rendered
from edgevit.report.text.numbers import milliseconds, percent, size

MOST_TYPES = 2  # of a layer's inputs or outputs, in a table


def engine_page(inspected: EngineInspection) -> str:
    """The whole HTML page. Text from the engine is escaped."""
    return rendered(
        "engine_inspection.html.j2",
        inspected=inspected,
        name=inspected.path.name,
        headline=headline(inspected),
        machine=machine_text(inspected),
        notes=[f"{note[0].upper()}{note[1:]}." for note in (opaque_sentence(inspected), *times_sentences(inspected))],
        cards=_cards(inspected),
        rows=[
            {"layer": layer, "kind": kind_text(layer), "types": types_text(layer), "share": _share(layer, inspected)}
            for layer in inspected.layers
        ],
    )


def headline(inspected: EngineInspection) -> str:
    """How many products run in the precision that they ask for."""
    if inspected.products is None:
        return f"{len(inspected.layers)} layers"
    total = len(inspected.products)
    untold = sum(not one.product.got for one in inspected.products)
    fell_back = sum(one.product.fell_back for one in inspected.products)
    if fell_back:
        return f"{fell_back} of {total} products run in more bits than the ONNX file asks for"
    if untold:
        return f"The engine does not tell the precision of {untold} of {total} products"
    return f"All {total} products run in the precision that they ask for"


def machine_text(inspected: EngineInspection) -> str:
    """The machine that the engine is bound to: name, board, TensorRT, JetPack."""
    machine = inspected.machine
    if machine is None:
        return "the record does not say which machine built it"
    versions = {"TensorRT": machine.versions.get("tensorrt"), "JetPack": machine.versions.get("jetpack")}
    board = machine.hardware.get("model")
    parts = [f"built by {machine.name}", *([str(board)] if board else [])]
    return ", ".join([*parts, *(f"{name} {version}" for name, version in versions.items() if version)])


def opaque_sentence(inspected: EngineInspection) -> str:
    """The share of the layers of which TensorRT does not tell everything, and why."""
    opaque, reasons = inspected.opaque, [f"{count} × {reason}" for reason, count in inspected.untold.items()]
    if inspected.elsewhere_ms:
        reasons.append(f"{milliseconds(inspected.elsewhere_ms)} in layers that the inspector does not name")
    if not reasons:
        return "opaque share: none; each layer names its nodes and types"
    shares = [f"{percent(opaque.layers)} of the layers", f"{percent(opaque.bytes)} of the bytes"]
    if opaque.time is not None:
        shares.append(f"{percent(opaque.time)} of the time")
    return f"opaque share: {', '.join(shares)}: {'; '.join(reasons)}"


def times_sentences(inspected: EngineInspection) -> list[str]:
    """The conditions of the layers' times; nothing if they were not timed."""
    times = inspected.times
    if times is None:
        return []
    replayed = "" if times.label == "measured" else f"{times.label}, not measured: "
    images = "1 image" if times.batch_size == 1 else f"{times.batch_size} images"
    said = [
        f"{replayed}layers on {times.target}, {images}, medians of {times.runs} runs: they sum to "
        f"{milliseconds(times.sum_ms)}",
        f"a run without the profiler takes {milliseconds(times.engine_ms)}",
    ]
    return [*(f"INVALID: {reason}" for reason in times.invalid), *said, *(f"note: {one}" for one in times.warnings)]


def kind_text(layer: EngineLayer) -> str:
    """The kind of a layer; a fused attention is named so."""
    return "attention" if layer.is_attention else layer.kind or "-"


def types_text(layer: EngineLayer) -> str:
    """`int8 → half`: the types that a layer reads and writes; `?` where they are untold."""
    return f"{_types(layer.reads)} → {_types(layer.writes)}"


def _types(types: tuple[str, ...]) -> str:
    shown = [name or "?" for name in types[:MOST_TYPES]] or ["?"]
    return "+".join([*shown, *(["…"] if len(types) > MOST_TYPES else [])])


def _share(layer: EngineLayer, inspected: EngineInspection) -> float:
    """Of a bar: the layer's time over the longest, or else its bytes over the most."""
    if inspected.times is not None:
        return (layer.ms or 0) / (max((one.ms or 0 for one in inspected.layers), default=0) or 1)
    return layer.bytes / (max((one.bytes for one in inspected.layers), default=0) or 1)


def _cards(inspected: EngineInspection) -> list[Json]:
    fused = inspected.attentions - len(inspected.unfused)
    attention = [f"{fused} of {inspected.attentions} attentions fused"] if inspected.attentions else []
    opaque = inspected.opaque
    cards = [
        {
            "title": "Engine",
            "value": size(inspected.bytes),
            "lines": [inspected.precision, machine_text(inspected)],
        },
        {"title": "Layers", "value": str(len(inspected.layers)), "lines": attention},
        {
            "title": "Opaque share of the layers",
            "value": percent(opaque.layers),
            "lines": [
                f"{percent(opaque.bytes)} of the bytes",
                *([] if opaque.time is None else [f"{percent(opaque.time)} of the time"]),
                *(f"{count} × {reason}" for reason, count in inspected.untold.items()),
            ],
        },
    ]
    if inspected.times is not None:
        label = [] if inspected.times.label == "measured" else [f"{inspected.times.label}, not measured"]
        lines = [*label, f"sum of the layers, {inspected.times.runs} runs with the profiler"]
        cards.append({"title": "Time", "value": milliseconds(inspected.times.sum_ms), "lines": lines})
    return cards
