"""A page on the layers of a graph and their precision, in one self-contained file."""

from __future__ import annotations

from collections import Counter

from edgevit.artifacts import Json
from edgevit.checking import Inspection
from edgevit.checking.timed_layers import TimedModel
from edgevit.report.layer_times import section
from edgevit.report.page import rendered
from edgevit.report.text.numbers import NOT_MEASURED, count, percent, size

MOST_TYPES = 3


def inspection_page(inspected: Inspection, timed: TimedModel | None = None) -> str:
    """The whole HTML page, with the times of the layers if they were measured. Text from the file is escaped."""
    return rendered(
        "inspection.html.j2",
        inspected=inspected,
        name=inspected.path.name,
        headline=_headline(inspected),
        cards=_cards(inspected),
        largest=max((layer.macs or 0 for layer in inspected.layers), default=0) or 1,
        stays_float=_stays_float(inspected),
        timed=section(timed) if timed else None,
    )


def _headline(inspected: Inspection) -> str:
    """How many layers run quantized."""
    if inspected.runtime is None:
        return "The precisions that would run are unknown"
    rounded, fell_back = len(inspected.rounded), sum(layer.product.fell_back for layer in inspected.layers)
    findings = []
    if rounded:
        findings.append(f"ONNX Runtime rounds the float weights of {rounded} layer{'' if rounded == 1 else 's'}")
    if fell_back:
        subject = "A layer falls" if fell_back == 1 else f"{fell_back} layers fall"
        findings.append(f"{subject} back to more bits than the file asks for")
    if findings:
        return ". ".join(findings)
    if not inspected.is_quantized:
        return "Nothing in this graph is quantized"
    quantized = [layer.product.asked.upper() for layer in inspected.layers if layer.product.is_quantized]
    return f"{len(quantized)} of {len(inspected.layers)} layers run in {' and '.join(dict.fromkeys(quantized))}"


def _cards(inspected: Inspection) -> list[Json]:
    peak, attention = inspected.peak, []
    if inspected.attentions and inspected.runtime:
        attention = [f"{inspected.attentions - len(inspected.unfused)} of {inspected.attentions} attentions fused"]
    return [
        {
            "title": "Multiply-accumulates",
            "value": count(inspected.macs),
            "lines": [*_macs_by_precision(inspected), *attention],
        },
        {
            "title": "Weights",
            "value": size(sum(inspected.weights_bytes.values())),
            "lines": [f"{name} {size(number)}" for name, number in inspected.weights_bytes.items()][:MOST_TYPES],
        },
        {
            "title": "Activations at their peak",
            "value": size(peak.bytes) if peak else NOT_MEASURED,
            "lines": [f"at {peak.node}", "in the order of the graph, without fusion"] if peak else [],
        },
    ]


def _macs_by_precision(inspected: Inspection) -> list[str]:
    if not inspected.macs:
        return []
    shares: Counter[str] = Counter()
    for layer in inspected.layers:
        shares[layer.product.got or layer.product.asked] += layer.macs or 0
    return [f"{percent(number / inspected.macs)} in {precision}" for precision, number in shares.most_common()]


def _stays_float(inspected: Inspection) -> list[Json]:
    return [
        {
            "reason": reason,
            "layers": len(layers),
            "share": sum(layer.macs or 0 for layer in layers) / inspected.macs if inspected.macs else None,
        }
        for reason, layers in inspected.stays_float.items()
    ]
