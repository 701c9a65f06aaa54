"""TensorRT engines on a board over a real SSH server. A stand-in plays the board: outputs are real, times replayed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.configs import Budget
from edgevit.context import Context
from edgevit.errors import ArtifactError, CheckFailed, EdgevitError, ParityError, TargetError
from edgevit.profiling import Measurement, MeasurePlan
from edgevit.profiling.energy import EnergyRecord, energy_in
from edgevit.profiling.measure import Label
from edgevit.recipe import load_recipe
from edgevit.report import summary
from edgevit.report.build import write_report
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.parity import ENGINE_DB
from edgevit.targets import target_for, visits
from edgevit.targets.agent.sampler import INTERVAL_S
from edgevit.targets.local import LocalCpu
from edgevit.targets.named import add_target, user_file
from edgevit.targets.trtexec_build import Build, order_of_choice
from edgevit.targets.trtexec_program import TrtexecRun
from tests.small_models import checkpoint, workbench
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.small_recipe import SMALL_STUDENT
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.standin import STANDINS, BuiltStandin, build
from tests.targets.standin.boards import TRTEXEC, Standin, heating, throttling, working
from tests.targets.standin.trtexec.settings import Variant

pytestmark = needs_sshd
NANO, AGX, AGX_11, THOR = "jetpack6-orin-nano", "jetpack7-agx-orin", "jetpack7-agx-orin-tensorrt11", "jetpack7-thor"
RECIPE = (
    f"name: orin\nbudget: {{latency_ms: 100}}\n{SMALL_STUDENT}"
    """\
  - {stage: quantize, id: int8, model: onnx, runtime: tensorrt, calibration: digits.pool, calibration_images: 32,
     placement: all, min_sqnr_db: 0}
  - {stage: compile, id: engine, model: int8, runtime: tensorrt, target: orin, max_batch: 448}
  - {stage: evaluate, id: here, model: int8, data: digits.test}
  - {stage: evaluate, id: accuracy, model: engine, data: digits.test, target: orin, batch_size: 448}
  - {stage: profile, id: latency, model: engine, target: orin, duration_s: 0.1}
  - {stage: report, id: report, of: [accuracy, latency]}
  - {stage: bundle, id: bundle, model: engine, compiled: true, serve: [systemd, triton, deepstream, cpp]}
"""
)


class Board:
    """A stand-in behind the SSH server, named `orin` in the user's targets.yaml."""

    def __init__(self, server: SshHost, folder: Path) -> None:
        self._server, self._folder = server, folder
        self.work = server.home / "work"
        self.standin: BuiltStandin

    def play(self, name: str, standin: Standin | None = None) -> None:
        """From now on, `orin` is this stand-in."""
        shutil.rmtree(self._folder / name, ignore_errors=True)
        self.standin = build(standin or STANDINS[name], self._folder / name)
        paths = f"export EDGEVIT_ROOT='{self.standin.root}' PATH='{self.standin.path}:/usr/bin:/bin'"
        python = self._server.script(f"python-of-{name}", paths, f'exec {self._server.folder / "board/python3"} "$@"')
        file, config = user_file(), self._server.target(str(python)).config
        assert file is not None
        assert config is not None
        file.unlink(missing_ok=True)
        add_target("orin", config, file)
        visits.forget()


@pytest.fixture
def board(server: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Board]:
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    server.accept("user_key")
    server.know("host_key")
    shutil.rmtree(server.home / "work" / "carried", ignore_errors=True)  # timings of other tests
    board = Board(server, tmp_path)
    board.play(NANO)
    yield board
    visits.forget()


def compiled(name: str, model: Artifact, **fields: Any) -> Artifact:
    return workbench().run("compile", name, model=model.id, runtime="tensorrt", target="orin", **fields)


def test_a_recipe_from_quantize_to_report(board: Board, server: SshHost, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    int8()  # the stages before the engine, which other tests have made
    shutil.copytree(workbench().store.root, tmp_path / "runs" / ".store", symlinks=True)
    done = pipeline.run(recipe, tmp_path, tmp_path / "runs", Context())
    engine = done["engine"]
    assert {name for name, entry in engine.manifest.files.items() if entry.content} >= {"model.engine"}
    log = engine.file("build.log").read_text()
    assert log.startswith("&&&& RUNNING TensorRT.trtexec [TensorRT v100300]")
    assert "&&&& PASSED TensorRT.trtexec [TensorRT v100300]" in log
    products = engine.metrics["products"]
    assert {row["got"] for row in products if row["asked"] == "int8"} == {"int8"}
    assert sum(row["products"] for row in products if row["asked"] == "int8") == 8
    assert engine.metrics["products_untold"] == 0
    facts = engine.metrics["build"]
    assert (facts["seconds"], facts["peak_gpu_mib"]) == (21.5372, 171)
    assert facts["timing_cache"]["offered"] is None
    assert facts["timing_cache"]["kept"]
    bound_to = engine.model_file.bound_to
    assert bound_to is not None
    assert (bound_to.versions["tensorrt"], bound_to.hardware["module"]) == ("10.3.0", "p3767-0005")
    assert (bound_to.versions["tensorrt_full"], bound_to.versions["l4t"]) == ("10.3.0.30", "36.5.0")
    # The stand-in computes with the ONNX Runtime of this machine. Its batches and the printed digits differ.
    assert done["accuracy"].metrics["top1"] == pytest.approx(done["here"].metrics["top1"], abs=3 / 896)
    latency = done["latency"].metrics["latency_ms"]
    assert latency["label"] == "replayed"
    assert latency["p50"] == pytest.approx(3.14062, rel=0.01)  # of the recorded log
    report = json.loads(done["report"].file("report.json").read_text())
    (shown,) = (variant for variant in report["variants"] if variant["latency_ms"])
    assert shown["latency_ms"]["label"] == "replayed"
    page = done["report"].file("report.html").read_text()
    assert "replayed by a stand-in for orin" in page
    assert "ratio of the outputs on the target, dB" in page
    assert "cannot be judged" in page
    check_bundle_of(done["bundle"], engine, board)
    # Nobody is there any more, and nothing is to be done.
    visits.forget()
    server.accept(None)
    assert not any(reason.runs for reason in pipeline.why(recipe, tmp_path, tmp_path / "runs"))


def check_bundle_of(bundle: Artifact, engine: Artifact, board: Board) -> None:
    """The bundle holds the engine of the board, and its command builds another one there."""
    assert bundle.file("model.engine").read_bytes() == engine.file("model.engine").read_bytes()
    record = json.loads(bundle.file("bundle.json").read_bytes())["engine"]
    assert (record["bound_to"]["name"], record["bound_to"]["versions"]["tensorrt"]) == ("orin", "10.3.0")
    path = board.standin.path
    trtexec = shutil.which("trtexec", path=path)
    assert trtexec is not None
    command = [trtexec, *record["rebuild"][1:]]
    environment = {**os.environ, "EDGEVIT_ROOT": str(board.standin.root), "PATH": f"{path}:/usr/bin:/bin"}
    folder = shutil.copytree(bundle.path, board.standin.root.parent / "copied-bundle")
    built = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout
    assert (folder / "rebuilt.engine").stat().st_size == engine.file("model.engine").stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize("name", [AGX_11, THOR, AGX])
def test_other_releases_give_the_same_outputs(name: str, board: Board) -> None:
    board.play(name)
    engine = compiled(f"engine-{name}", int8(), max_batch=4)
    version = {AGX_11: "11.4.1", THOR: "10.13.3", AGX: "10.16.2"}[name]
    assert engine.model_file.bound_to.versions["tensorrt"] == version
    assert {row["got"] for row in engine.metrics["products"] if row["asked"] == "int8"} == {"int8"}
    images = random_images(engine.io, 6)  # in two runs: the engine takes four at once
    with target_for("orin", Context()).open(engine, SessionOptions()) as there:
        got = there.infer({"image": images})["logits"]
        measured = there.measure(MeasurePlan(0.01, 0.05, 12, batch_size=4))
    with LocalCpu().open(int8(), SessionOptions()) as here:
        np.testing.assert_allclose(got, here.infer({"image": images})["logits"], rtol=1e-3, atol=1e-4)
    assert measured.label == "replayed"
    assert len(measured.samples_ms) >= 12
    # The copies are apart from the compute time in each release: 11 leaves them out by default.
    assert measured.conditions["to_gpu_ms"] == pytest.approx(0.2476, rel=0.01)
    assert measured.percentile_ms(50) == pytest.approx(3.14062, rel=0.01)
    # Now there is another board by this name.
    board.play(NANO)
    with (
        pytest.raises(TargetError, match="built for another machine") as caught,
        target_for("orin", Context()).open(engine, SessionOptions()),
    ):
        pass
    assert f"tensorrt: {version} and 10.3.0" in str(caught.value.got)
    assert caught.value.next == "compile it again with target: orin"


@pytest.mark.parametrize(
    ("variant", "error", "says"),
    [
        ("wrong-outputs", ParityError, "output 'logits' of the engine differs from its ONNX file's"),
        *(
            pytest.param(*row, marks=pytest.mark.slow)
            for row in (
                ("silent-fallback", CheckFailed, "in more bits than the ONNX file asks for"),
                ("fails-at-node", ArtifactError, "does not take the model: patch_embed.proj"),
                ("not-a-number", ParityError, "not finite"),
                ("half-outputs", TargetError, "TensorRT's answer cannot be read"),
                ("no-outputs", TargetError, "the answer of trtexec cannot be read"),
                ("out-of-memory", TargetError, "has not enough memory for TensorRT"),
                ("killed", TargetError, "has not enough memory for TensorRT"),
            )
        ),
    ],
)
def test_an_engine_that_is_wrong_is_refused(
    variant: Variant, error: type[EdgevitError], says: str, board: Board
) -> None:
    board.standin.vary(variant)
    with pytest.raises(error, match=says):
        compiled(f"engine-{variant}", int8(), max_batch=8)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_a_float_engine_is_far_above_its_floor(precision: str, board: Board) -> None:
    """The stand-in differs by the six digits of its outputs, and does not round float16 as edgevit does."""
    model = workbench().run("export", f"onnx-{precision}", model=checkpoint().id, precision=precision)
    engine = compiled(f"engine-{precision}", model, max_batch=8)
    assert engine.metrics["precision"] == precision
    assert engine.metrics["engine_sqnr_db"] > ENGINE_DB[precision] + 5


@pytest.mark.slow
def test_an_engine_that_is_wrong_in_its_largest_batch_alone_is_refused(board: Board) -> None:
    board.standin.vary("wrong-in-large-batches")
    engine = compiled("engine-of-small-batches", int8(), batch_size=2, max_batch=8)
    assert engine.metrics["engine_between_images_sqnr_db"] > 20  # it computes with ONNX Runtime, too
    with pytest.raises(ParityError, match="of the engine differs") as caught:
        compiled("engine-of-large-batches", int8(), batch_size=2, max_batch=12)
    assert "in batches of 12" in str(caught.value.got)


@pytest.mark.slow
def test_a_build_that_hangs_is_stopped(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.targets.trtexec_build.BUILD_S", 3)
    board.standin.vary("hangs")
    with pytest.raises(TargetError, match="trtexec took too long"):
        compiled("engine-hangs", int8())
    board.standin.vary("good")
    compiled("engine-hangs", int8(), max_batch=8)  # the board is free again


@pytest.mark.slow
def test_the_whole_log_of_a_build_is_kept(board: Board) -> None:
    board.standin.vary("talkative")
    engine = compiled("engine-talkative", int8(), max_batch=10)
    assert engine.metrics["build"]["peak_gpu_mib"] == 300  # it stands at the beginning of the log
    log = engine.file("build.log").read_text()
    assert log.startswith("&&&& RUNNING TensorRT.trtexec")
    assert len(log) > 4_000 * 80  # more than the target sends of what a program prints
    assert log.rstrip().splitlines()[-1].startswith("&&&& PASSED")


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["opaque", "opaque-named"])
def test_an_engine_in_one_layer_tells_no_precision(variant: Variant, board: Board) -> None:
    board.standin.vary(variant)
    engine = compiled(f"engine-{variant}", int8(), max_batch=9)
    assert {row["got"] for row in engine.metrics["products"]} == {""}
    assert engine.metrics["products_untold"] == sum(row["products"] for row in engine.metrics["products"]) == 14


@pytest.mark.slow
def test_unstable_times_are_doubted(board: Board) -> None:
    engine = compiled("engine-unstable", int8(), max_batch=8)
    board.standin.vary("unstable")
    with target_for("orin", Context()).open(engine, SessionOptions()) as there:
        measured = there.measure(MeasurePlan(0.01, 0.5, 12))
    assert any("coefficient of variance" in warning for warning in measured.conditions["warnings_of_tensorrt"])


@pytest.mark.slow
def test_timings_of_kernels_stay_on_the_board(board: Board) -> None:
    def cache(name: str, **fields: Any) -> dict[str, str | None]:
        used: dict[str, str | None] = compiled(name, int8(), **fields).metrics["build"]["timing_cache"]
        return used

    first, again = cache("engine-timed", max_batch=11), cache("engine-again", max_batch=12)
    assert (first["offered"], first["kept"] is None) == (None, False)
    assert (again["name"], again["offered"]) == (first["name"], first["kept"])
    assert again["kept"] == again["offered"]  # the stand-in keeps the timings of a model once
    other = cache("engine-of-level-5", max_batch=11, builder_level=5)
    assert (other["name"] == first["name"], other["offered"]) == (False, None)
    assert cache("engine-untimed", max_batch=11, timing_cache=False) is None
    board.standin.vary("wrong-outputs")
    with pytest.raises(ParityError):
        compiled("engine-wrong-with-timings", int8(), max_batch=17)
    board.standin.vary("good")
    assert cache("engine-after-the-wrong-one", max_batch=13)["offered"] is None
    board.play(THOR)
    assert cache("engine-of-thor", max_batch=11)["offered"] is None


@pytest.mark.slow
def test_replayed_times_choose_none_of_several_builds(board: Board) -> None:
    board.standin.vary("builds-differ")
    engine = compiled("engine-of-three", int8(), max_batch=13, builds=3)
    facts = engine.metrics["build"]
    assert facts["p50_ms"] == pytest.approx([1.2 * 3.14062, 3.14062, 1.1 * 3.14062], rel=0.01)
    assert (facts["kept"], facts["label"], facts["timing_cache"]) == (1, "replayed", None)
    assert facts["spread"] == pytest.approx(0.2, rel=0.05)
    with target_for("orin", Context()).open(engine, SessionOptions()) as there:
        assert there.measure(MeasurePlan(0.01, 0.05, 12)).percentile_ms(50) == pytest.approx(1.2 * 3.14062, rel=0.01)
    assert {"build.log", "build-2.log", "build-3.log"} <= {file.name for file in engine.path.iterdir()}
    jobs = [path for path in (board.work / "jobs").iterdir() if any(path.rglob("model.engine"))]
    assert not jobs  # engines that were not kept are gone


@pytest.mark.slow
def test_an_engine_that_is_wrong_gives_way_to_the_next(board: Board) -> None:
    board.standin.vary("first-is-wrong")
    engine = compiled("engine-of-three-right", int8(), max_batch=14, builds=3)
    assert engine.metrics["build"]["kept"] == 2
    assert engine.metrics["engine_between_images_sqnr_db"] > 20
    board.standin.vary("wrong-outputs")
    with pytest.raises(ParityError, match="of the engine differs"):
        compiled("engine-of-none-right", int8(), max_batch=14, builds=2)


@pytest.mark.slow
def test_a_build_that_fails_leaves_the_others(board: Board) -> None:
    board.standin.vary("first-fails")
    engine = compiled("engine-of-two-left", int8(), max_batch=18, builds=3)
    facts = engine.metrics["build"]
    assert (facts["kept"], facts["failed"]) == (2, ["build 1 failed: trtexec failed"])
    assert len(facts["p50_ms"]) == 2
    assert "launch failure" in engine.file("build-1.log").read_text()


@pytest.mark.parametrize(
    ("label", "disturbed", "order"),
    [("measured", (), [2, 3, 1]), ("measured", (2,), [3, 1, 2]), ("replayed", (), [1, 2, 3])],
)
def test_the_fastest_valid_one_of_several_builds_comes_first(
    label: Label, disturbed: tuple[int, ...], order: list[int]
) -> None:
    plan, run = MeasurePlan(0, 1, 12), TrtexecRun({}, "", {}, lambda wanted, out: {})
    builds = [
        Build(number, run, Path("log"), Measurement(np.full(12, ms), plan, label=label, disturbed=why))
        for number, ms in enumerate((3.7, 3.1, 3.4), 1)
        for why in [("the GPU's clock fell",) if number in disturbed else ()]
    ]
    assert [build.number for build in order_of_choice(builds)] == order


@pytest.mark.slow
def test_the_timings_of_several_builds_carry_the_state_of_the_board(board: Board) -> None:
    facts = compiled("engine-of-two-sampled", int8(), max_batch=19, builds=2).metrics["build"]
    assert len(facts["invalid"]) == len(facts["warnings"]) == 2
    for conditions in facts["conditions"]:
        sensors = {(sensor["kind"], sensor["name"]) for sensor in conditions["telemetry"]["sensors"]}
        assert {("power_mw", "total"), ("clock_mhz", "gpu")} <= sensors


@pytest.mark.slow
def test_a_version_compatible_engine_outlives_an_update(board: Board) -> None:
    older = replace(TRTEXEC[AGX], version=(10, 13, 3), serialization=240)
    banner = {"trtexec": STANDINS[AGX].answers["trtexec"].replace(TRTEXEC[AGX].title, older.title)}
    board.play(AGX, replace(STANDINS[AGX], trtexec=older, answers={**STANDINS[AGX].answers, **banner}))
    engine = compiled("engine-compatible", int8(), max_batch=4, version_compatible=True)
    bound = compiled("engine-bound", int8(), max_batch=4)
    images = random_images(engine.io, 2)
    board.play(AGX)
    target = target_for("orin", Context())
    with target.open(engine, SessionOptions()) as there, LocalCpu().open(int8(), SessionOptions()) as here:
        got, expected = (session.infer({"image": images})["logits"] for session in (there, here))
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(TargetError, match="built for another machine"), target.open(bound, SessionOptions()):
        pass


def test_a_model_that_the_board_refuses_is_not_sent(board: Board) -> None:
    def kept_there() -> list[Path]:
        return sorted(board.work.rglob("*"))

    before = kept_there()
    model = workbench().run("export", "onnx-of-opset-21", model=checkpoint().id, opset=21)
    with pytest.raises(ArtifactError, match=r"TensorRT 10\.3\.0 does not take the model") as caught:
        compiled("engine-of-opset-21", model)
    assert "opset 21; the parser takes at most 20" in str(caught.value.got)
    assert kept_there() == before


@pytest.mark.slow
def test_a_power_mode_that_is_not_told_is_no_other_fingerprint(board: Board) -> None:
    board.play(AGX)
    known = target_for("orin", Context()).describe("tensorrt")
    visits.forget()
    program = board.standin.path / "nvpmodel"
    answers = program.read_text()
    program.write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    with pytest.raises(TargetError, match="does not say what its fingerprint needs") as caught:
        target_for("orin", Context()).describe("tensorrt")
    assert "nvpmodel" in str(caught.value.got)
    late = f"[ -e {board.standin.root}/asked ] || {{ : > {board.standin.root}/asked; exec /bin/sleep 60; }}\n"
    program.write_text("#!/bin/sh\n" + late + answers)
    assert target_for("orin", Context()).describe("tensorrt") == known  # at the second try


@pytest.mark.slow
def test_a_stage_connects_once(board: Board, server: SshHost) -> None:
    def logins() -> int:
        return (server.folder / "log").read_text().count("Accepted publickey")

    int8()
    before = logins()
    target_for("orin", Context()).describe("tensorrt")
    between = logins()
    compiled("engine-of-one-visit", int8(), max_batch=15)
    assert logins() - between == between - before == 1


def test_an_older_jetpack_is_refused(board: Board) -> None:
    board.play("jetpack5-agx-orin")
    with pytest.raises(TargetError, match="too old for edgevit's engines") as caught:
        compiled("engine-of-jetpack5", int8())
    assert "JetPack 6.2" in str(caught.value.next)


def timed_on(board: Board, change: Callable[[Standin], Standin], **fields: Any) -> Artifact:
    """A timing of an engine on a board, of which several samples are taken."""
    engine = compiled("engine-sampled", int8(), max_batch=4)
    board.play(NANO, change(STANDINS[NANO]))
    board.standin.take_time()
    options: dict[str, Any] = {"duration_s": 1.2, "warmup_s": 0.2, "starts": 1, **fields}
    return workbench().run("profile", f"latency-{change.__name__}", model=engine.id, target="orin", **options)


@pytest.mark.slow
def test_the_energy_of_a_board_is_shown_and_judges_no_budget(board: Board, tmp_path: Path) -> None:
    """5,971 mW at rest and 12,479 mW while the engine runs, as recorded; the power of a stand-in is replayed."""
    latency = timed_on(board, working, idle_s=2.5, duration_s=3.0)
    energy = energy_in(latency.metrics)
    assert isinstance(energy, EnergyRecord), energy
    assert (energy.idle_w, energy.power_w) == pytest.approx((5.971, 12.479), rel=0.05)
    assert energy.boundary == "module (VDD_IN)"
    recorded = json.loads(latency.file("latency.json").read_text())
    start_s, end_s = recorded["conditions"]["telemetry"]["window_s"]
    seconds = end_s + INTERVAL_S - start_s  # with the copies between the runs
    assert energy.mj == pytest.approx(6508 * seconds / len(recorded["samples_ms"]), rel=0.1)
    assert energy.label == "replayed"
    report = write_report([latency], Budget(energy_mj=1000), "orin", tmp_path)
    (limit,) = report["verdict"]["limits"]
    assert (limit["name"], limit["met"], limit["value"]) == ("energy_mj", None, None)
    assert "is replayed, so the limit of 1000 mJ cannot be judged" in report["verdict"]["reasons"][0]
    assert dict(report["device"]["facts"])["Energy"].startswith("replayed, not measured: ")
    page = (tmp_path / "report.html").read_text()
    assert " mJ replayed</td>" in page
    assert "This energy is replayed by a stand-in for orin. It was not measured." in page
    assert "module (VDD_IN)" in page
    assert " mJ replayed" in (tmp_path / "report.md").read_text()


def test_a_latency_of_a_board_that_throttles_is_invalid(board: Board, tmp_path: Path) -> None:
    latency = timed_on(board, throttling)
    reasons = latency.metrics["latency_ms"]["invalid"]
    assert "peak over-current" in reasons[0]
    assert "612 and 1,018 MHz" in reasons[1]
    sampled = json.loads(latency.file("telemetry.json").read_text())
    assert not latency.manifest.files["telemetry.json"].content
    assert {"VDD_IN", "total"} <= {series["name"] for series in sampled["series"]}
    conditions = json.loads(latency.file("latency.json").read_text())["conditions"]
    assert conditions["power_mode"] == "MAXN_SUPER"
    assert conditions["telemetry"]["throttled"]["peak over-current"] > 0
    report = write_report([latency], Budget(latency_ms=100), "orin", tmp_path)
    kinds = [doubt["kind"] for doubt in report["verdict"]["doubts"]]
    assert kinds == ["random_weights", "untested_engine", "invalid_latency"]
    facts = dict(report["device"]["facts"])
    assert (facts["Module"], facts["Power mode"]) == ("p3767-0005", "MAXN_SUPER")
    assert "INVALID" in facts["Latency"]
    assert facts["Clock of the GPU"].startswith("612 to 1,018 MHz")
    assert report["verdict"]["meets_budget"] is None
    for text in (summary(report), (tmp_path / "report.md").read_text(), (tmp_path / "report.html").read_text()):
        assert "The latency of the deployed model is invalid." in " ".join(text.split())


@pytest.mark.slow
def test_a_board_that_heats_up_is_loaded_before_it_is_timed(board: Board) -> None:
    latency = timed_on(board, heating, soak_s=1.5)
    conditions = json.loads(latency.file("latency.json").read_text())["conditions"]
    soak = conditions["soak"]
    assert (soak["seconds"], soak["is_steady"]) == (1.5, False)
    assert soak["end_c"] > soak["start_c"] > 40
    assert latency.metrics["latency_ms"]["invalid"] == []
    assert "too short to tell a steady temperature" in " ".join(latency.metrics["latency_ms"]["warnings"])
