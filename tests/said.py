"""Progress whose lines a test reads."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgevit.progress import SilentProgress


@dataclass
class Said(SilentProgress):
    """Progress that remembers its lines."""

    lines: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        self.lines.append(line)
