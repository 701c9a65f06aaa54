"""One page of what is in a graph and what would run: a file that needs nothing else."""

from __future__ import annotations

from collections import Counter

from edgevit.artifacts import Json
from edgevit.checking import Inspection
from edgevit.report import text
from edgevit.report.page import rendered

MOST_TYPES = 3


def inspection_page(found: Inspection) -> str:
    """The whole HTML page. Whatever comes from the file is escaped."""
    return rendered(
        "inspection.html.j2",
        found=found,
        name=found.path.name,
        headline=_headline(found),
        cards=_cards(found),
        largest=max((layer.macs or 0 for layer in found.layers), default=0) or 1,
        stays_float=_stays_float(found),
    )


def _headline(found: Inspection) -> str:
    """How many layers run quantized, or ask to where nothing could be run."""
    if found.runtime is None:
        return "What would run is not known"
    if not found.is_quantized:
        return "Nothing in this graph is quantized"
    fell_back = sum(layer.product.fell_back for layer in found.layers)
    if fell_back:
        subject = "A layer falls" if fell_back == 1 else f"{fell_back} layers fall"
        return f"{subject} back to more bits than asked for"
    quantized = [layer.product.asked.upper() for layer in found.layers if layer.product.is_quantized]
    return f"{len(quantized)} of {len(found.layers)} layers run in {' and '.join(dict.fromkeys(quantized))}"


def _cards(found: Inspection) -> list[Json]:
    peak, attention = found.peak, []
    if found.attentions and found.runtime:
        attention = [f"{found.attentions - len(found.unfused)} of {found.attentions} attentions fused"]
    return [
        {
            "title": "Multiply-accumulates",
            "value": text.count(found.macs),
            "lines": [*_macs_by_precision(found), *attention],
        },
        {
            "title": "Weights",
            "value": text.size(sum(found.weights_bytes.values())),
            "lines": [f"{name} {text.size(number)}" for name, number in found.weights_bytes.items()][:MOST_TYPES],
        },
        {
            "title": "Activations at their peak",
            "value": text.size(peak.bytes) if peak else text.NOT_MEASURED,
            "lines": [f"at {peak.node}", "in the order of the graph, nothing fused"] if peak else [],
        },
    ]


def _macs_by_precision(found: Inspection) -> list[str]:
    if not found.macs:
        return []
    shares: Counter[str] = Counter()
    for layer in found.layers:
        shares[layer.product.got or layer.product.asked] += layer.macs or 0
    return [f"{text.percent(number / found.macs)} in {precision}" for precision, number in shares.most_common()]


def _stays_float(found: Inspection) -> list[Json]:
    return [
        {
            "reason": reason,
            "layers": len(layers),
            "share": sum(layer.macs or 0 for layer in layers) / found.macs if found.macs else None,
        }
        for reason, layers in found.stays_float.items()
    ]
