"""Completion in bash, as its guide says, in a home folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = (Path(__file__).parents[1] / "docs" / "guides" / "shell-completion.md").read_text(encoding="utf-8")
HEAVY = ("torch", "onnxruntime", "numpy", "timm", "matplotlib")


def completed(line: str) -> subprocess.CompletedProcess[str]:
    """What bash asks for when Tab is pressed behind `line`; stderr lists the imports."""
    words = {"_EDGEVIT_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    program = "import sys; sys.argv = ['edgevit']; from edgevit.cli import main; main()"
    command = [sys.executable, "-X", "importtime", "-c", program]
    return subprocess.run(command, env={**os.environ, **words}, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("line", "expected"), [("edgevit qu", ["quantize"]), ("edgevit quantize --cal", ["--calibration", "--calibrator"])]
)
def test_bash_is_given_commands_and_options(line: str, expected: list[str]) -> None:
    answer = completed(line)
    assert sorted(answer.stdout.split()) == expected, answer.stderr[-2000:]
    imported = {row.rpartition("|")[2].strip().partition(".")[0] for row in answer.stderr.splitlines()}
    assert "typer" in imported
    assert not imported.intersection(HEAVY)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_the_guides_command_sets_completion_up(tmp_path: Path) -> None:
    assert "edgevit --install-completion" in GUIDE
    home = {**os.environ, "HOME": str(tmp_path), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def bash(script: str) -> str:
        answer = subprocess.run(
            ["bash", "--norc", "-c", f"{script}; true"], env=home, capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    bash("edgevit --install-completion")  # `; true` keeps bash alive, which edgevit looks for among its parents
    script = tmp_path / ".bash_completions" / "edgevit.sh"
    assert str(script) in (tmp_path / ".bashrc").read_text(encoding="utf-8")
    press_tab = 'COMP_WORDS=(edgevit qu); COMP_CWORD=1; _edgevit_completion edgevit; echo "${COMPREPLY[@]}"'
    assert bash(f"source '{script}'; {press_tab}").split() == ["quantize"]
    assert "_edgevit_completion" in bash("edgevit --show-completion")
