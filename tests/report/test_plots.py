"""What the report draws, as it stands in the page."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgevit.report.plots import confusion_matrix, selection_front


@pytest.mark.parametrize("name", ["font: 1px a", 'style="font: 2', "<g>", "a&b", "plain"])
def test_whatever_a_class_is_called_it_stands_there_and_the_drawing_is_whole(name: str) -> None:
    drawn = ElementTree.fromstring(confusion_matrix(np.array([[3, 1], [0, 2]]), [name, "other"]))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {name, "other"} <= set(texts)
    assert len(texts) == 9
    assert not [element for element in drawn.iter() if "font-family" in element.get("style", "")]  # it is the page's


def test_a_selection_shows_each_model_and_joins_the_front() -> None:
    """Three points of the front make a line of five corners: each step goes along, then up."""
    drawn = ElementTree.fromstring(
        selection_front("0", selection_of_four(), 960).replace(
            "<svg", '<svg xmlns:xlink="http://www.w3.org/1999/xlink"', 1
        )
    )
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {"tiny", "small", "large", "slow", "budget 5 ms"} <= set(texts)
    lines = [element.get("d", "").split() for element in drawn.iter() if element.tag.endswith("path")]
    corners = [line.count("L") + line.count("M") for line in lines if "C" not in line and "z" not in line]
    assert 5 in corners


def selection_of_four() -> dict[str, Any]:
    """Of four models, one is slower and less accurate than another."""
    points = {
        "tiny": (1.0, 0.70, True),
        "small": (2.0, 0.80, True),
        "large": (4.0, 0.85, True),
        "slow": (4.5, 0.75, False),
    }
    models = [
        {
            "id": id,
            "top1": {"value": top1, "low": top1 - 0.03, "high": top1 + 0.03},
            "p50_ms": {"value": p50_ms, "low": 0.95 * p50_ms, "high": 1.05 * p50_ms},
            "on_front": on_front,
        }
        for id, (p50_ms, top1, on_front) in points.items()
    ]
    return {"winner": "large", "limits": {"latency_ms": 5.0, "size_mib": None}, "models": models}
