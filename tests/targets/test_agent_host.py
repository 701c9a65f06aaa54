"""Models on another machine, over a real SSH server: the same numbers as here, and each way in which it can fail."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli import app
from edgevit.configs import MachineTarget, Profile
from edgevit.context import Context
from edgevit.errors import ArtifactError, TargetError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.profiling import MeasurePlan
from edgevit.profiling.latency_record import LatencyRecord
from edgevit.profiling.loop import Boundary
from edgevit.quantization.overflow import overflows_here, overflows_on
from edgevit.recipe import load_recipe
from edgevit.runtimes.base import Session, SessionOptions, random_images
from edgevit.stages import profile
from edgevit.targets import base, target_for, target_info, visits
from edgevit.targets.agent_host import AgentHost
from edgevit.targets.local import LocalCpu
from edgevit.targets.named import add_target, named_target, user_file
from edgevit.targets.remote_session import RemoteSession
from tests.reader_folder import ROOT, make_folder, run
from tests.small_models import artifact_of, checkpoint, engine, float_onnx, int8_onnx
from tests.targets import arm64
from tests.targets.small_recipe import SMALL_STUDENT
from tests.targets.ssh_host import SshHost, needs_sshd

pytestmark = needs_sshd
QUICK = MeasurePlan(warmup_s=0.01, duration_s=0.05, min_runs=12)
RECIPE = (
    f"name: there\n{SMALL_STUDENT}"
    """\
  - {stage: quantize, id: int8, model: onnx, calibration: digits.pool, calibration_images: 32, target: board}
  - {stage: evaluate, id: here, model: int8, data: digits.test}
  - {stage: evaluate, id: there, model: int8, data: digits.test, target: board}
  - {stage: profile, id: latency, model: int8, target: board, duration_s: 0.1, starts: 1}
  - {stage: report, id: report, of: [there, latency]}
"""
)


@pytest.fixture
def host(server: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshHost]:
    """The server, named `board` in the user's targets.yaml, with the ONNX Runtime of this Python."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(base, "CHOICE", QUICK)
    server.accept("user_key")
    server.know("host_key")
    (tmp_path / "tmp").mkdir()  # for the lock of a machine of its own
    python = server.script(f"python-{tmp_path.name}", f"export EDGEVIT_ROOT={tmp_path}", f'exec {sys.executable} "$@"')
    name_board(server, str(python))
    visits.forget()
    yield server
    visits.forget()


def name_board(server: SshHost, python: str = sys.executable, **settings: str) -> None:
    file = user_file()
    assert file is not None
    file.unlink(missing_ok=True)
    config = server.target(python, **{"onnxruntime": "installed", **settings}).config
    assert config is not None
    add_target("board", config, file)


def opened(model: Artifact, threads: int = 1) -> AbstractContextManager[Session]:
    return target_for("board", Context()).open(model, SessionOptions(threads))


def photos(count: int) -> list[NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    sizes = [(40 + 3 * i, 50 - 2 * i) for i in range(count)]
    return [generator.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def test_whether_int8_products_overflow_is_asked_on_the_machine(host: SshHost) -> None:
    """By a model with a fixed batch size, which the agent runs."""
    assert overflows_on(target_for("board", Context()), "onnxruntime") == overflows_here("onnxruntime")


@pytest.mark.parametrize("model", [float_onnx, int8_onnx])
def test_outputs_are_those_of_this_machine(
    host: SshHost, model: Callable[[], Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgevit.targets.remote_session.SHARD_BYTES", 4 * 32 * 32 * 3)  # 7 images travel in two parts
    artifact = model()
    with opened(artifact) as there, LocalCpu().open(artifact, SessionOptions()) as here:
        # The target gets the images in parts of four, and runs each part in batches of two.
        expected = [*here.outputs(photos(7)[:4], 2), *here.outputs(photos(7)[4:], 2)]
        got = list(there.outputs(iter(photos(7)), 2))
        tensor = random_images(artifact.io, 3)
        np.testing.assert_array_equal(there.infer({"image": tensor})["logits"], here.infer({"image": tensor})["logits"])
        batches = [tensor, tensor[::-1].copy(), tensor[:1]]
        for outputs, alone in zip(there.infer_each(batches), here.infer_each(batches), strict=True):
            np.testing.assert_array_equal(outputs["logits"], alone["logits"])
    assert [len(outputs["logits"]) for outputs in got] == [4, 3]
    np.testing.assert_array_equal(
        np.concatenate([outputs["logits"] for outputs in got]),
        np.concatenate([outputs["logits"] for outputs in expected]),
    )


@pytest.mark.parametrize("boundary", ["compute", "end_to_end"])
def test_a_timing_has_its_samples_and_conditions(host: SshHost, boundary: Boundary) -> None:
    plan = MeasurePlan(0.01, 0.05, 12, batch_size=2, boundary=boundary, soak_s=0.2)
    with opened(float_onnx()) as session:
        measured = session.measure(plan)
    assert measured.conditions["soak"]["seconds"] >= 0.2
    assert measured.conditions["telemetry"]["seconds"] > 0.2
    assert len(measured.samples_ms) >= 12
    assert (measured.samples_ms > 0).all()
    conditions = measured.conditions
    assert (conditions["threads"], conditions["batch_size"], conditions["boundary"]) == (1, 2, boundary)
    assert conditions["versions"]["python"] == "{}.{}.{}".format(*sys.version_info[:3])
    assert conditions["file_sha256"] == {"model.onnx": float_onnx().manifest.files["model.onnx"].sha256}
    assert conditions["cpu"]["logical_cores"] > 0
    json.dumps(dict(conditions))


@pytest.mark.parametrize(
    "scenario", [{"scenario": "offline", "batch_sizes": (1, 3)}, {"scenario": "fixed_rate", "rate_hz": 200.0}]
)
def test_a_profile_there_has_starts_and_scenarios(host: SshHost, tmp_path: Path, scenario: dict[str, Any]) -> None:
    fields = {"stage": "profile", "id": "latency", "model": "onnx", "target": "board", "starts": 2, "retry_s": 0}
    config = Profile.model_validate({**fields, "warmup_s": 0.01, "duration_s": 0.1, "min_runs": 12, **scenario})
    contents = profile.run(config, {"model": float_onnx()}, Context(), tmp_path)
    record = LatencyRecord.of_metrics(json.loads(json.dumps(contents.metrics)))
    assert record.starts == 2
    assert record.start is not None
    if batches := record.offline:
        assert [batch.batch_size for batch in batches] == [1, 3]
        assert all(batch.low is not None for batch in batches)
    else:
        assert record.fixed_rate is not None
        assert record.fixed_rate.rate_hz == 200
        assert record.fixed_rate.frames_per_s <= 205


def test_two_models_take_turns_there(host: SshHost) -> None:
    (raced,) = target_for("board", Context()).race((float_onnx(), int8_onnx()), SessionOptions(), QUICK)
    assert raced.ratio > 0
    assert raced.a.samples_ms.size == raced.b.samples_ms.size >= 12


def test_a_recipe_runs_there_and_is_finished_without_the_machine(
    host: SshHost, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, context = load_recipe(tmp_path / "recipe.yaml"), Context()
    done = pipeline.run(recipe, tmp_path, tmp_path / "runs", context)
    there, here = (json.loads(done[id].file("evaluation.json").read_text()) for id in ("there", "here"))
    assert done["there"].metrics["top1"] == done["here"].metrics["top1"]
    assert there.keys() == here.keys()
    assert done["latency"].metrics["target"] == "board"
    # This machine calibrates, and the board times.
    assert set(done["int8"].manifest.ingredients["target"]) == {"local-cpu", "board"}
    page = done["report"].file("report.html").read_text()
    assert "on board" in page
    assert f"python {'.'.join(map(str, sys.version_info[:3]))}." in page
    # Nobody is there any more.
    visits.forget()
    host.accept(None)
    reasons = pipeline.why(recipe, tmp_path, tmp_path / "runs")
    assert not any(reason.runs for reason in reasons)
    visits.forget()
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(TargetError, match="refuses your key"):
        pipeline.why(recipe, tmp_path, tmp_path / "runs")


def test_commands_take_the_name(host: SshHost, tmp_path: Path) -> None:
    file = float_onnx().file("model.onnx")
    runner = CliRunner()
    latency = runner.invoke(
        app, ["profile", str(file), "--target", "board", "--duration", "0.1", "--starts", "1", "--json"]
    )
    assert json.loads(latency.stdout)["target"] == "board"
    compared = runner.invoke(app, ["compare", str(file), str(file), "--target", "board", "--duration", "0.1", "--json"])
    assert json.loads(compared.stdout)["speedup"]["value"] > 0
    named = user_file()
    assert named is not None
    add_target("away", MachineTarget(host="ssh://127.0.0.1:1"), named)
    named.write_text(f"{named.read_text()}all: [local-cpu, away, board]\n")
    several = runner.invoke(
        app, ["profile", str(file), "--target", "all", "--duration", "0.1", "--starts", "1", "--json"]
    )
    assert [metrics["target"] for metrics in json.loads(several.stdout)] == ["local-cpu", "board"]
    assert "error: away: the host is there, but no SSH server answers" in several.stderr
    assert several.exit_code == 2
    wrong = runner.invoke(app, ["profile", str(file), "--target", "board,bord"])
    assert isinstance(wrong.exception, TargetError)
    assert wrong.exception.next == "Did you mean 'board'?"


def test_the_second_time_only_the_request_travels(host: SshHost) -> None:
    stored = host.home / "work" / "files"
    with opened(int8_onnx()) as session:
        list(session.outputs(photos(3), 3))
        before = {file.name for file in stored.iterdir()}
        list(session.outputs(photos(3), 3))
        assert {file.name for file in stored.iterdir()} == before


def test_another_runtime_there_takes_nothing_of_an_earlier_one(host: SshHost) -> None:
    jobs = host.home / "work" / "jobs"
    with opened(float_onnx()) as session:
        assert isinstance(session, RemoteSession)
        list(session.outputs(photos(2), 2))
        before = len(list(jobs.iterdir()))
        newer = session._worker.info.model_copy(update={"versions": {"onnxruntime": "9.9.9"}})
        session._worker = replace(session._worker, info=newer)
        list(session.outputs(photos(2), 2))
        assert len(list(jobs.iterdir())) == before + 1


def test_a_model_with_weights_beside_it(host: SshHost, tmp_path: Path) -> None:
    model = onnx.load(float_onnx().file("model.onnx"))
    onnx.save_model(model, tmp_path / "big.onnx", save_as_external_data=True, location="big.data", size_threshold=0)
    with opened(artifact_from_onnx(tmp_path / "big.onnx")) as there, opened(float_onnx()) as whole:
        (outputs,), (expected,) = there.outputs(photos(2), 2), whole.outputs(photos(2), 2)
    np.testing.assert_array_equal(outputs["logits"], expected["logits"])


GOOD_OUTPUT = {"outputs": [{"type": "float32", "shape": [2, 10]}], "versions": {}}
MOMENT: dict[str, object] = {"load_average_1min": 0.0, "cpu_frequency": {}, "thermal_zones": {}}
CONDITIONS: dict[str, object] = {"cpu": {}, "before": MOMENT, "after": MOMENT}


@pytest.mark.parametrize(
    ("result", "content"),
    [
        ("no JSON", b""),
        (GOOD_OUTPUT, b""),  # fewer bytes than the shapes say
        (GOOD_OUTPUT, bytes(81)),
        ({**GOOD_OUTPUT, "outputs": []}, bytes(80)),
        ({**GOOD_OUTPUT, "outputs": [{"type": "float32", "shape": [2, 9]}]}, bytes(72)),
        ({**GOOD_OUTPUT, "outputs": [{"type": "float32", "shape": [10**12, 10**9]}]}, bytes(80)),
        ({**GOOD_OUTPUT, "outputs": [{"type": "object", "shape": [2, 10]}]}, bytes(80)),
        ({**GOOD_OUTPUT, "more": 1}, bytes(80)),
        ([], bytes(80)),
    ],
)
def test_outputs_that_deceive_are_refused(host: SshHost, result: object, content: bytes) -> None:
    lie(host, result, content)
    with opened(float_onnx()) as session, pytest.raises(TargetError, match="not one of edgevit's worker"):
        list(session.outputs(photos(2), 2))


@pytest.mark.parametrize("samples", [[], [0.0], [1.0], [-1.0] * 20, ["x"] * 20, [1e999] * 20])
def test_times_that_deceive_are_refused(host: SshHost, samples: list[object]) -> None:
    told = {
        "start": [1.0, 1.0, 1, 1],
        "warm_up": [1.0, 1, None],
        "seconds": 1.0,
        "cpu_s": 1.0,
        "parts_ms": {},
        "soak": None,
    }
    lie(host, {"samples_ms": samples, **told, "conditions": CONDITIONS, "versions": {}})
    with opened(float_onnx()) as session, pytest.raises(TargetError, match="not one of edgevit's worker"):
        session.measure(QUICK)
    lie(host, {"starts": [[samples, samples]], "conditions": CONDITIONS, "versions": {}})
    with pytest.raises(TargetError, match="not one of edgevit's worker"):
        target_for("board", Context()).race((float_onnx(), float_onnx()), SessionOptions(), QUICK)


def lie(host: SshHost, result: object, content: bytes = b"") -> None:
    """A host whose worker writes this, whatever it is asked."""
    (host.home / "result.json").write_text(result if isinstance(result, str) else json.dumps(result))
    (host.home / "outputs.bin").write_bytes(content)
    lying = f'if [ "$1" = -B ]; then cp {host.home}/result.json {host.home}/outputs.bin .; exit 0; fi'
    name_board(host, str(host.script("lying", lying, f'exec {sys.executable} "$@"')))


def test_what_is_asked_of_the_machine_and_is_not_so_is_said(host: SshHost) -> None:
    name_board(host, power_mode="25W")
    said: list[str] = []
    with AgentHost(named_target("board"), said.append).open(float_onnx(), SessionOptions()):
        pass
    assert said == ["note: board: power mode asked: 25W, but the target names no power mode; leave power_mode out"]


def test_a_file_that_the_runtime_refuses(host: SshHost, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no model")
    broken = artifact_of(tmp_path / "model.onnx", float_onnx())
    with opened(broken) as session, pytest.raises(TargetError, match="does not take the model"):
        session.measure(QUICK)


def test_a_checkpoint_and_a_compiled_model_stay_here(host: SshHost) -> None:
    with pytest.raises(TargetError, match="torch does not run on board") as caught, opened(checkpoint()):
        pass
    assert str(caught.value.next).startswith("export the model first")
    with pytest.raises(TargetError, match="compiled for another machine"), opened(engine()):
        pass
    with pytest.raises(TargetError, match="openvino does not run on board"):
        target_info("board", "openvino", Context())


def test_a_python_without_the_runtime(host: SshHost) -> None:
    bare = host.script("bare", f'exec {sys.executable} -I -S "$@"')
    name_board(host, python=str(bare))
    with pytest.raises(TargetError, match="ONNX Runtime is not installed on the target") as caught:
        target_info("board", "onnxruntime", Context())
    assert "brings it along" in str(caught.value.next)


def test_the_fingerprint_is_equal_at_every_call(host: SshHost) -> None:
    first = target_info("board", "onnxruntime", Context())
    visits.forget()
    assert target_info("board", "onnxruntime", Context()) == first
    assert first["versions"]["onnxruntime"]
    assert first["hardware"]["cpus"] > 0


def test_an_input_of_another_size_is_said(host: SshHost) -> None:
    with opened(float_onnx()) as session, pytest.raises(ArtifactError, match="does not fit its description"):
        session.infer({"image": random_images(float_onnx().io, 1)[:, :, :16]})


@pytest.mark.slow
def test_the_guide_of_devices_word_by_word(server: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands in their order, with the wheels that pip gets. Only the address is another one."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    server.accept("user_key")
    server.know("host_key")
    make_folder(tmp_path)
    name_in_guide = "edgevit devices add board ssh://me@board.local"
    guide = (ROOT / "docs" / "guides" / "devices.md").read_text(encoding="utf-8")
    lines = [line for block in re.findall(r"```sh\n(.*?)```", guide, re.DOTALL) for line in block.splitlines()]
    assert name_in_guide in lines
    exported = "edgevit export --model deit_tiny_patch16_224 --classes 10 --out deit.onnx"
    quantized = "edgevit quantize deit.onnx --calibration photos/ --out deit.int8.onnx"
    for line in (exported, quantized, *(line for line in lines if " board" in line)):
        command = line.replace("ssh://me@board.local", f"{server.address} --work-folder {server.home / 'work'}")
        if line == "edgevit run board.yaml":
            command += " --set stages.student.epochs=1 --anyway"
            if not (tmp_path / "board.yaml").exists():
                continue
        ended = run(command, tmp_path)
        is_busy = ended.returncode == 2 and "the timing is invalid" in ended.stderr  # by other work
        may_be_1 = line.startswith(("edgevit compare", "edgevit run"))
        assert is_busy or ended.returncode in ((0, 1) if may_be_1 else (0,)), f"{command}\n{ended.stderr}"
        assert "Traceback" not in ended.stderr, f"{command}\n{ended.stderr}"


@pytest.mark.slow
def test_arm64_has_the_accuracy_of_this_machine(
    server: SshHost, arm64_python: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole recipe with a trained INT8 model, on an emulated processor whose rounding differs."""
    monkeypatch.setenv("PATH", server.path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(base, "CHOICE", QUICK)
    server.accept("user_key")
    server.know("host_key")
    name_board(server, shlex.join(arm64_python), onnxruntime=arm64.ONNXRUNTIME)
    trained = (
        RECIPE.replace(
            "{stage: load, id: student, model: deit_tiny_patch16_224, classes_of: digits.test, image_size: 32,",
            "{stage: train, id: student, model: deit_tiny_patch16_224, data: digits.train, image_size: 32, epochs: 15,"
            " learning_rate: 3e-3, augmentation: {scale: [0.9, 1.0], horizontal_flip: 0},",
        )
        .replace(", few_shot: {shots: 5}", "")
        .replace("digits.pool", "digits.train")
    )
    (tmp_path / "recipe.yaml").write_text(trained)
    done = pipeline.run(load_recipe(tmp_path / "recipe.yaml"), tmp_path, tmp_path / "runs", Context())
    here, there = (done[id].metrics["top1"] for id in ("here", "there"))
    assert here["value"] > 0.5
    assert here["low"] <= there["value"] <= here["high"]
    assert done["latency"].manifest.ingredients["target"]["hardware"]["architecture"] == "aarch64"
