"""The times of the layers in a recipe's report: of a CPU, and of a board that a stand-in plays."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from edgevit.artifacts import Artifact
from edgevit.checking.timed_layers import TIMES_FILE, TimedLayer, TimedModel, json_of_timed, timed_engine, timed_of_json
from edgevit.configs import Budget, Profile
from edgevit.configs.targets import LOCAL_CPU
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.latency_model.boards import peaks_of_machine
from edgevit.model_file import TargetInfo
from edgevit.profiling import MeasurePlan
from edgevit.profiling.layer_times import LayerTime, LayerTimes
from edgevit.report.build import write_report
from edgevit.report.layer_times import part_rows, section, sentences
from edgevit.report.page import rendered
from edgevit.report.text.layer_times import PART_HEADER
from edgevit.runtimes import peaks as room
from edgevit.stages import profile
from tests.checking.test_timed_layers import PEAKS, of_vit
from tests.report.measured_run import quickstart
from tests.small_models import float_onnx, int8_onnx_for_tensorrt
from tests.targets.engine_folder import engine_folder, layers_of


def engine(folder: Path, batch_size: int = 1, **more_ms: float) -> TimedModel:
    """An engine whose layers take 0.1 ms each; and layers that its inspector does not name."""
    made = engine_folder(int8_onnx_for_tensorrt(), folder / "engine")
    names = [layer["Name"] for layer in layers_of(int8_onnx_for_tensorrt())["Layers"]]
    layers = [LayerTime(name, ms, ms) for name, ms in [*((name, 0.1) for name in names), *more_ms.items()]]
    times = LayerTimes(tuple(layers), 100, batch_size, 2.5, "orin", "replayed")
    return timed_engine(made, times)


def test_an_engine_computes_the_macs_of_its_file_once(tmp_path: Path) -> None:
    """The reference is the count that the export made of the modules."""
    found = engine(tmp_path)
    assert sum(layer.macs or 0 for layer in found.layers) == float_onnx().metrics["macs"]
    assert found.untimed is not None
    assert found.untimed.products == 0
    assert {"blocks.0", "blocks.1", "patch_embed.proj"} <= set(found.by_part)
    assert sum(found.by_part.values()) == pytest.approx(found.times.sum_ms)
    assert {layer.precision for layer in found.layers if layer.macs} <= {"int8", "float16", "float32"}


def test_the_roofs_of_a_board_are_nominal_and_said_to_be(tmp_path: Path) -> None:
    found = engine(tmp_path, stray=0.4)
    assert found.peaks is not None
    assert found.peaks.gflops["float16"] == 10_200
    assert found.peaks.bandwidth_gb_s == 68
    said = " ".join(sentences(found))
    assert "roofs of Jetson Orin Nano 8GB in 15W, which is assumed, for no mode is told, by its data sheet" in said
    assert found.opaque_share == pytest.approx(0.4 / found.times.sum_ms)
    for layer in found.layers:
        if layer.macs:
            assert layer.placement is not None
            assert layer.placement.gflops == pytest.approx(2 * layer.macs / 1e5)


def test_the_bytes_of_an_open_batch_are_known_of_one_image_alone(tmp_path: Path) -> None:
    assert all(layer.bytes is None for layer in engine(tmp_path, batch_size=4).layers)


@pytest.mark.parametrize(
    ("module", "mode", "bandwidth"),
    [
        ("p3767-0005", None, 68),
        ("p3767-0005", "MAXN_SUPER", 102),
        ("p3767-0005", "7W", None),
        ("p3767-0001", None, None),
        (None, None, None),
    ],
)
def test_peaks_of_a_machine(module: str | None, mode: str | None, bandwidth: float | None) -> None:
    """Figures by NVIDIA's data sheet. Unknown modules, modes and clocks have no roof."""
    machine = TargetInfo(name="x", runtime="tensorrt", versions={}, hardware={"module": module, "power_mode": mode})
    peaks = peaks_of_machine(machine)
    assert (peaks.bandwidth_gb_s if peaks else None) == bandwidth


def test_timed_models_are_kept_whole(tmp_path: Path) -> None:
    for found in (of_vit(), engine(tmp_path)):
        assert timed_of_json(json_of_timed(found)) == found


def test_the_report_shows_parts_layers_and_roofline(tmp_path: Path) -> None:
    run = quickstart(tmp_path / "run")
    run.latency("layers_here", "engine", 0.6, threads=2, layers=of_vit())
    run.latency("layers_there", "engine", 0.7, target="orin", layers=engine(tmp_path))
    out = tmp_path / "out"
    out.mkdir()
    report = write_report(run.of("accuracy", "latency", "layers_here", "layers_there"), Budget(), "quickstart", out)
    here, there = sorted(report["layer_times"], key=lambda one: one["label"])
    assert (here["label"], there["label"]) == ("measured", "replayed")
    assert here["opaque_share"] == 0.25
    assert here["parts"][-1]["part"] == ""
    assert there["headline"].startswith("replayed, not measured: layers in TensorRT 10.3.0 on orin")
    page = (out / "report.html").read_text()
    assert page.count("Roofline: the rate of each layer") == 2
    assert "data sheet, not measured" in page
    assert len(re.findall("<details>\\s*<summary>[0-9]+ layers in the order", page)) == 2
    text = (out / "report.md").read_text()
    assert "blocks.0" in text
    assert max(map(len, text.splitlines())) <= 80


def test_a_report_without_layers_says_nothing_of_them(tmp_path: Path) -> None:
    run = quickstart(tmp_path / "run")
    (tmp_path / "out").mkdir()
    report = write_report(run.of("accuracy", "latency"), Budget(), "quickstart", tmp_path / "out")
    assert report["layer_times"] == []
    assert "Roofline" not in (tmp_path / "out" / "report.html").read_text()


def test_parts_hold_the_macs_of_their_layers() -> None:
    rows = {part: cells for part, _, cells in part_rows(of_vit())}
    assert rows["blocks.0"][3] == "100.0%"
    assert rows[""] == ("(no known module)", "0.50", "25.0%", "-")


def test_a_part_with_unknown_work_has_no_share_of_the_macs() -> None:
    """Of the head, 8 of 10 ms have no known work: no share may look as if it were all."""
    layers = (
        TimedLayer("a", "MatMul", "blocks.0", ("a",), 1.0, 100, None, "float32", None),
        TimedLayer("b", "MatMul", "head", ("b",), 1.0, 100, None, "float32", None),
        TimedLayer("c", "Attention", "head", ("c",), 8.0, None, None, "float32", None),
    )
    rows = part_rows(replace(of_vit(), layers=layers))
    assert [cells[3] for _, _, cells in rows] == ["50.0%", "-"]
    assert PART_HEADER[3] == "of known MACs"


def profiled(model: Artifact, out: Path, **options: object) -> Path:
    fields = {"warmup_s": 0.01, "most_warmup_s": 0.0, "duration_s": 0.05, "min_runs": 5, "retry_s": 0.0, **options}
    config = Profile.model_validate({"stage": "profile", "id": "latency", "model": "model", **fields})
    out.mkdir()
    profile.run(config, {"model": model}, Context(), out)
    return out / TIMES_FILE


def test_the_stage_times_the_layers_if_it_is_asked_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "peaks_here", lambda *_: PEAKS)
    assert not profiled(float_onnx(), tmp_path / "without").exists()
    timed = timed_of_json(profiled(float_onnx(), tmp_path / "with", layers=True).read_bytes())
    assert timed.times.target == LOCAL_CPU
    assert sum(layer.macs or 0 for layer in timed.layers) == float_onnx().metrics["macs"]
    assert not timed.path.is_absolute()


def test_layers_are_timed_as_compute_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The latency is end to end, and the profiler sees the model alone: both runs beside each other do."""
    asked: list[MeasurePlan] = []
    monkeypatch.setattr(profile, "timed_in", lambda _, __, plan, *___: asked.append(plan))
    profiled(float_onnx(), tmp_path / "out", layers=True, boundary="end_to_end", idle_s=0.01)
    assert [(plan.boundary, plan.idle_s) for plan in asked] == [("compute", 0.0)]
    assert json.loads((tmp_path / "out" / "latency.json").read_text())["conditions"]["boundary"] == "end_to_end"


def test_layers_that_cannot_be_told_do_not_cost_the_latency(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: object) -> None:
        raise ArtifactError("the layers cannot be read")

    monkeypatch.setattr(profile, "timed_in", failing)
    assert not profiled(float_onnx(), tmp_path / "out", layers=True).exists()
    assert (tmp_path / "out" / "latency.json").exists()


def test_disturbed_times_are_taken_again() -> None:
    disturbed = of_vit(invalid=("other programs ran",))
    takes, said = [disturbed, of_vit()], list[str]()
    assert profile._undisturbed(lambda: takes.pop(0), 60.0, said.append) == of_vit()
    assert said == ["layers timed again, because the run was disturbed: other programs ran"]
    assert profile._undisturbed(lambda: disturbed, 0.0, said.append) == disturbed


def test_times_that_do_not_count_have_a_banner(tmp_path: Path) -> None:
    peaks = replace(PEAKS, warnings=("a rose by 4%", "b rose by 5%", "c rose by 6%"))
    found = section(replace(of_vit(invalid=("other programs ran",)), peaks=peaks))
    page = rendered("layer_times.html.j2", timed=found)
    assert '<strong class="no">Invalid:</strong> other programs ran.' in page
    assert page.count("other programs ran") == 1
    assert "a rose by 4%, and 2 more such reasons" in page


def test_a_key_of_earlier_releases_is_kept() -> None:
    """`layers: false` is the same stage as before."""
    fields = {"stage": "profile", "id": "latency", "model": "model"}
    assert Profile.model_validate(fields) == Profile.model_validate({**fields, "layers": False})
