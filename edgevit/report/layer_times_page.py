"""A page on the times of a checkpoint's layers."""

from __future__ import annotations

from edgevit.checking.timed_layers import TimedModel
from edgevit.report.layer_times import headline, section
from edgevit.report.page import rendered


def times_page(timed: TimedModel) -> str:
    """The whole HTML page on a checkpoint. Text from the model is escaped."""
    return rendered("layer_times_page.html.j2", name=timed.path.name, headline=headline(timed), timed=section(timed))
