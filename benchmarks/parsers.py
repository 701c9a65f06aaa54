"""What boards print, damaged at random: how many texts edgevit's parsers read, refuse with an error, or crash on.

    python -m benchmarks.parsers --logs ../shared/reference/device_logs [--per-text 2000]

Every recorded line of tegrastats and every recorded log of trtexec is damaged anew for each trial: one to six times,
characters are replaced, inserted or removed, or the end is cut off. A crash is any exception but edgevit's own.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import publish
from edgevit.errors import EdgevitError
from edgevit.targets.boards.tegrastats import sample_of_line
from edgevit.targets.trtexec.answers import build_facts_in, engine_that_failed, failure_in, version_in, warnings_in

SEED = 0
MOST_DAMAGES = 6
LONGEST_INSERTED = 6  # characters
LONGEST_REMOVED = 10

Parser = Callable[[str], object]
LOG_PARSERS: list[Parser] = [version_in, warnings_in, failure_in, engine_that_failed, build_facts_in]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--logs", type=Path, required=True, help="folder of recorded tegrastats_*.txt, trtexec_*.txt")
    parser.add_argument("--per-text", type=int, default=2000, help="trials of each recorded text with each parser")
    arguments = parser.parse_args()
    lines = [line for text in texts_of(arguments.logs, "tegrastats_*.txt") for line in text.splitlines()]
    result = {
        "lines of tegrastats": trials(lines, [sample_of_line], arguments.per_text),
        "logs of trtexec": trials(texts_of(arguments.logs, "trtexec_*.txt"), LOG_PARSERS, arguments.per_text),
    }
    publish("parsers", {"seed": SEED, "crashed": sum(group["crashed"] for group in result.values()), "parsers": result})


def texts_of(folder: Path, pattern: str) -> list[str]:
    """The recorded files of a folder, without their comments. Files of JSON are no logs."""
    files = [file for file in sorted(folder.glob(pattern)) if not file.name.endswith(".json.txt")]
    texts = [file.read_text(encoding="utf-8").splitlines() for file in files]
    return ["\n".join(line for line in lines if line and not line.startswith("#")) for lines in texts]


def trials(texts: list[str], parsers: list[Parser], per_text: int) -> dict[str, Any]:
    """The number of trials that were read, refused and crashed, and the kinds of the crashes."""
    generator, counts, crashes = random.Random(SEED), Counter[str](), Counter[str]()
    for text in texts:
        for parse in parsers:
            for _ in range(per_text):
                ended, crash = outcome(parse, damaged(text, generator))
                counts[ended] += 1
                crashes.update(crash)
    outcomes = {name: counts[name] for name in ("read", "refused", "crashed")}
    return {"recorded": len(texts), "damaged": counts.total(), **outcomes, "crashes": dict(crashes)}


def outcome(parse: Parser, text: str) -> tuple[str, list[str]]:
    """How a parser ends with a text, and the kind of its crash."""
    try:
        parse(text)
    except EdgevitError:
        return "refused", []
    except Exception as error:  # noqa: BLE001 - a crash is what is counted
        return "crashed", [type(error).__name__]
    return "read", []


def damaged(text: str, generator: random.Random) -> str:
    """The text after one to six damages."""
    for _ in range(generator.randint(1, MOST_DAMAGES)):
        at = generator.randint(0, len(text))
        inserted = "".join(chr(generator.randint(1, 0x2FF)) for _ in range(generator.randint(0, LONGEST_INSERTED)))
        is_cut = generator.random() < 0.1
        text = text[:at] + inserted + ("" if is_cut else text[at + generator.randint(0, LONGEST_REMOVED) :])
    return text


if __name__ == "__main__":
    main()
