"""One thing that was looked at on a machine: how it is, and the command that mends it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "warning", "absent", "missing", "broken"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: the thing.
        state: ok; warning: it works, but measurements suffer; absent: not there, and not needed; missing: not there,
            and needed; broken: there, and does not work.
        found: what was found, for people.
        mend: the command or the step that mends it; empty where nothing is to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""

    @property
    def is_fault(self) -> bool:
        """Whether the machine cannot be used as it is."""
        return self.state in ("missing", "broken")
