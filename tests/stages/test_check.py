"""The stage check, and its section in the report."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevit.artifacts import Artifact
from edgevit.checking import nvidia
from edgevit.configs import Budget
from edgevit.report.build import write_report
from edgevit.report.text.layout import WIDTH
from tests.checking.test_nvidia import needs_nvidia
from tests.small_models import float_onnx, int8_onnx, workbench


def for_a_board(hybrid: bool = False) -> Artifact:
    made = workbench().made
    if f"board{hybrid:d}" not in made:
        options = {"calibration": "digits.pool", "calibration_images": 16, "runtime": "tensorrt"}
        workbench().run("quantize", f"board{hybrid:d}", model=float_onnx(hybrid).id, **options)
    return made[f"board{hybrid:d}"]


def checked(name: str, model: Artifact, again: bool = False) -> Artifact:
    return workbench().run("check", name, model=model.id, again=again)


@needs_nvidia
def test_what_was_made_for_tensorrt_and_what_was_not_stand_side_by_side(tmp_path: Path) -> None:
    board, here = checked("for_a_board", for_a_board()), checked("for_here", int8_onnx())
    assert board.metrics["ok"]
    assert (
        board.metrics["quantized_got"]
        == board.metrics["quantized_asked"]
        == sum(for_a_board().metrics["quantized_ops"].values())
    )
    assert not here.metrics["ok"]
    assert here.metrics["refused"]
    report = write_report([board, here], Budget(), "checked", tmp_path)
    assert [(one["id"], one["verdict"]) for one in report["tensorrt"]] == [
        ("board0", "built as asked"),
        ("int80", "refused"),
    ]
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for told in (text, page):
        assert "TensorRT check" in told
        assert board.metrics["builder"] in told
        assert "built as asked" in told
        assert "opset at most 17" in told
    table = text[text.index("## TensorRT check") :]
    assert max(map(len, table.splitlines())) <= WIDTH


@needs_nvidia
def test_a_check_is_the_same_twice() -> None:
    once, twice = (checked("again", for_a_board(), again=again) for again in (False, True))
    assert once.digest == twice.digest


def test_without_the_extra_the_report_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia._self_check.cache_clear()
    monkeypatch.setattr(nvidia, "find_spec", lambda name: None)
    alone = [checked("by_rules", for_a_board(), again=True), checked("by_rules_too", int8_onnx(), again=True)]
    nvidia._self_check.cache_clear()
    write_report(alone, Budget(), "checked", tmp_path)
    text = " ".join((tmp_path / "report.md").read_text(encoding="utf-8").split())
    assert "not built; follows the rules" in text
    assert "not built; breaks the rules" in text
    assert "not installed" in text
    assert "Built by" not in text


def test_a_report_without_checks_has_no_such_section(tmp_path: Path) -> None:
    evaluation = workbench().run("evaluate", "accuracy", model=int8_onnx().id, data="digits.test")
    write_report([evaluation], Budget(), "unchecked", tmp_path)
    for name in ("report.md", "report.html"):
        assert "TensorRT check" not in (tmp_path / name).read_text(encoding="utf-8")
