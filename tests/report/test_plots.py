"""What the report draws, as it stands in the page."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest

from edgevit.report.plots import confusion_matrix


@pytest.mark.parametrize("name", ["font: 1px a", 'style="font: 2', "<g>", "a&b", "plain"])
def test_whatever_a_class_is_called_it_stands_there_and_the_drawing_is_whole(name: str) -> None:
    drawn = ElementTree.fromstring(confusion_matrix(np.array([[3, 1], [0, 2]]), [name, "other"]))
    texts = [element.text for element in drawn.iter() if element.tag.endswith("text")]
    assert {name, "other"} <= set(texts)
    assert len(texts) == 9
    assert not [element for element in drawn.iter() if "font-family" in element.get("style", "")]  # it is the page's
