"""An agent on this machine, as a child process. A stand-in plays a PC with a GPU: outputs are real, times replayed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

import edgevit
from edgevit import pipeline
from edgevit.artifacts import Artifact
from edgevit.cli import app
from edgevit.context import Context
from edgevit.errors import ArtifactError, MissingDependency, ParityError, RecipeError, TargetError
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.profiling import MeasurePlan, conditions, loop
from edgevit.recipe import load_recipe
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.runtimes.onnxruntime.cuda_provider import has_cuda_provider
from edgevit.runtimes.onnxruntime.cuda_session import cuda_opener
from edgevit.targets import base, probing, target_for, target_info, visits
from edgevit.targets.boards import PROBED_COMMANDS
from edgevit.targets.boards.request import NVIDIA_SMI
from edgevit.targets.connection import connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.local import LocalCpu
from edgevit.targets.named import NamedTarget
from tests.runtimes.cuda_library import install_cuda_library
from tests.small_models import checkpoint, engine, float_onnx, workbench
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.small_recipe import SMALL_STUDENT
from tests.targets.ssh_host import is_gone, number_in
from tests.targets.standin import BuiltStandin, Standin, build
from tests.targets.standin.trtexec.settings import TrtexecSettings

L4 = TrtexecSettings((10, 13, 3), "b9", 240, "NVIDIA L4", "8.9", 58, 22491, 23)
ANSWERS = {
    "nvidia-smi": "NVIDIA L4, 570.86.15, 8.9\n",
    "trtexec": f"&&&& RUNNING TensorRT.trtexec {L4.title} # trtexec --help\n=== Model Options ===\n",
}
ZONE = "/sys/class/thermal/thermal_zone0"
FILES = {
    "/proc/cpuinfo": "model name\t: A Processor\n",
    f"{ZONE}/type": "x86_pkg_temp\n",
    f"{ZONE}/temp": "51000\n",
}
WITHOUT_TRTEXEC = {"nvidia-smi": ANSWERS["nvidia-smi"]}
PC = Standin(FILES, ANSWERS, trtexec=L4)
RECIPE = (
    f"name: pc\n{SMALL_STUDENT}"
    """\
  - {stage: quantize, id: int8, model: onnx, runtime: tensorrt, calibration: digits.pool, calibration_images: 32,
     placement: all, min_sqnr_db: 0}
  - {stage: compile, id: engine, model: int8, runtime: tensorrt, target: local-gpu, max_batch: 448}
  - {stage: evaluate, id: here, model: int8, data: digits.test}
  - {stage: evaluate, id: accuracy, model: engine, data: digits.test, target: local-gpu, batch_size: 448}
  - {stage: profile, id: latency, model: engine, target: local-gpu, duration_s: 0.1, starts: 1}
  - {stage: report, id: report, of: [here, accuracy, latency]}
"""
)
PLAN = MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12)
# A client whose job tells its own process and sleeps.
CLIENT = """\
import sys
from pathlib import Path
from edgevit.targets.connection import connected
from edgevit.targets.jobs import Job, run_job
from edgevit.targets.named import NamedTarget
program = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(120)"
job = Job({}, (sys.executable, "-c", program, sys.argv[1]), {}, 120, is_repeatable=False)
with connected(NamedTarget("local-gpu"), print) as connection, connection.locked():
    run_job(connection, job, Path(sys.argv[2]))
"""
Play = Callable[[Standin], BuiltStandin]


without_cuda = pytest.mark.skipif(has_cuda_provider(), reason="needs an ONNX Runtime without CUDA")
has_no_module = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="needs a Python without tensorrt")


@pytest.fixture
def play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Play]:
    """From now on, this machine is a stand-in. Its user has a cache folder and settings of the test's own."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))

    def played(standin: Standin) -> BuiltStandin:
        shutil.rmtree(tmp_path / "standin", ignore_errors=True)
        built = build(standin, tmp_path / "standin")
        monkeypatch.setenv("EDGEVIT_ROOT", str(built.root))
        monkeypatch.setenv("PATH", str(built.path))
        visits.forget()
        conditions.gpus.cache_clear()
        return built

    yield played
    visits.forget()
    conditions.gpus.cache_clear()


def compiled(name: str, **fields: Any) -> Artifact:
    return workbench().run("compile", name, **{"model": int8().id, "runtime": "tensorrt", **fields}, target="local-gpu")


def test_a_recipe_builds_an_engine_on_this_machine_and_measures_it(play: Play, tmp_path: Path) -> None:
    play(PC)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    int8()  # the stages before the engine, which other tests have made
    shutil.copytree(workbench().store.root, tmp_path / "runs" / ".store", symlinks=True)
    done = pipeline.run(recipe, tmp_path, tmp_path / "runs", Context())
    bound_to = done["engine"].model_file.bound_to
    assert bound_to is not None
    assert (bound_to.name, bound_to.hardware["gpus"]) == ("local-gpu", ["NVIDIA L4"])
    assert (bound_to.versions["tensorrt"], bound_to.versions["driver"]) == ("10.13.3", "570.86.15")
    assert {row["got"] for row in done["engine"].metrics["products"] if row["asked"] == "int8"} == {"int8"}
    # The stand-in computes with the ONNX Runtime of this machine. Its batches and the printed digits differ.
    assert done["accuracy"].metrics["top1"] == pytest.approx(done["here"].metrics["top1"], abs=3 / 896)
    latency = done["latency"].metrics["latency_ms"]
    assert (latency["label"], latency["p50"]) == ("replayed", pytest.approx(3.14062, rel=0.01))
    telemetry = json.loads(done["latency"].file("telemetry.json").read_text())
    assert {(series["kind"], series["name"]) for series in telemetry["series"]} == {("temperature_c", "x86_pkg_temp")}
    device = json.loads(done["report"].file("report.json").read_text())["device"]
    assert (device["target"], device["name"], device["is_stand_in"]) == ("local-gpu", "A Processor", True)
    assert not any(reason.runs for reason in pipeline.why(recipe, tmp_path, tmp_path / "runs"))
    assert {folder.name for folder in (tmp_path / "cache").iterdir()} >= {"files", "jobs"}


@pytest.mark.slow
def test_engines_of_this_machine_are_compared_and_raced(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    play(PC)
    built, target, images = (
        compiled("raced-here", max_batch=8),
        target_for("local-gpu", Context()),
        random_images(int8().io, 10),
    )
    with target.open(built, SessionOptions()) as there:
        got = there.infer({"image": images})["logits"]
    with LocalCpu().open(int8(), SessionOptions()) as here:
        np.testing.assert_allclose(got, here.infer({"image": images})["logits"], rtol=1e-3, atol=1e-4)
    (raced,) = target.race((built, built), SessionOptions(), PLAN)
    assert raced.is_replayed
    assert raced.ratio == pytest.approx(1, rel=1e-3)
    play(PC).vary("int8-is-fast")
    in_float = compiled("float-here", model=float_onnx().id, max_batch=8)
    (slower,) = target.race((in_float, built), SessionOptions(), PLAN)
    assert np.median(slower.a.samples_ms) / np.median(slower.b.samples_ms) == pytest.approx(2, rel=1e-3)
    assert slower.ratio == pytest.approx(2, rel=1e-3)
    (faster,) = target.race((built, in_float), SessionOptions(), PLAN)
    assert faster.ratio == pytest.approx(1 / 2, rel=1e-3)
    with pytest.raises(TargetError, match="in turns with other engines only"):
        target.race((built, checkpoint()), SessionOptions(), base.CHOICE)
    # The GPU is replaced.
    play(Standin(FILES, {**ANSWERS, "nvidia-smi": "NVIDIA L40, 570.86.15, 8.9\n"}, trtexec=L4))
    with pytest.raises(TargetError, match="built for another machine") as caught, target.open(built, SessionOptions()):
        pass
    assert "NVIDIA L4'] and ['NVIDIA L40'" in str(caught.value.got)


def test_a_wrong_engine_is_refused(play: Play) -> None:
    play(PC).vary("wrong-outputs")
    with pytest.raises(ParityError, match="output 'logits' of the engine differs") as caught:
        compiled("wrong-here", max_batch=9)
    assert "--target local-gpu" in str(caught.value.next)


@pytest.mark.slow
def test_forms_are_built_and_raced_on_the_gpu(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "STARTS", 6)
    monkeypatch.setattr(base, "CHOICE", MeasurePlan(warmup_s=0.01, duration_s=0.06, min_runs=12))
    play(PC)
    made = workbench().run(
        "quantize", "fastest-here", model=float_onnx().id, calibration="digits.pool", calibration_images=32,
        runtime="tensorrt", placement="fastest", target="local-gpu", min_sqnr_db=5,
    )  # fmt: skip
    forms = {form["form"]: form for form in made.metrics["forms"]}
    assert {"float16", "int8 all", "float8 all"} <= forms.keys()  # an L4 has FP8
    assert all("failed" not in form for form in forms.values()), forms
    assert made.metrics["form"] == "float16"  # replayed times decide nothing
    targets = made.manifest.ingredients["target"]
    assert (targets["local-cpu"]["runtime"], targets["local-gpu"]["runtime"]) == ("onnxruntime", "tensorrt")


@has_no_module
@pytest.mark.parametrize(
    ("lacks", "says", "next_step"),
    [
        (("nvidia-smi", "trtexec"), "there is no NVIDIA GPU here", "set target: local-cpu"),
        (("nvidia-smi",), "there is no NVIDIA GPU here", "install NVIDIA's driver"),
        (("trtexec",), "with trtexec or TensorRT's Python module", f"{sys.executable} -m pip install 'tensorrt<12'"),
    ],
)
def test_what_this_machine_lacks_is_said(lacks: tuple[str, ...], says: str, next_step: str, play: Play) -> None:
    play(Standin(FILES, {name: answer for name, answer in ANSWERS.items() if name not in lacks}))
    with pytest.raises(TargetError, match=says) as caught:
        target_info("local-gpu", "tensorrt", Context())
    assert next_step in str(caught.value.next)
    with pytest.raises(TargetError, match=says):
        compiled("engine-of-nothing")


def findings_here() -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status and the findings of `devices check local-gpu`, by name."""
    checked = CliRunner().invoke(app, ["devices", "check", "local-gpu", "--json"])
    return checked.exit_code, {finding["name"]: finding for finding in json.loads(checked.stdout)["findings"]}


@has_no_module
@pytest.mark.parametrize(("standin", "state"), [(PC, "ok"), (replace(PC, answers=WITHOUT_TRTEXEC), "absent")])
def test_what_is_here_for_engines_is_looked_at(standin: Standin, state: str, play: Play) -> None:
    play(standin)
    status, findings = findings_here()
    assert [findings[name]["state"] for name in ("gpu", "tensorrt", "trtexec")] == ["ok", state, state]
    assert status == 0
    if state == "absent":
        with pytest.raises(TargetError) as caught:
            target_info("local-gpu", "tensorrt", Context())
        assert findings["tensorrt"]["mend"] == caught.value.next


@without_cuda
def test_what_is_here_for_onnx_files_is_looked_at(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(PC)
    _, findings = findings_here()
    assert findings["cuda provider"]["state"] == "absent"
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in findings["cuda provider"]["mend"]
    install_cuda_library(tmp_path / "site", monkeypatch)
    assert findings_here()[1]["cuda provider"]["state"] == "ok"


def test_an_nvidia_smi_that_hangs_is_no_missing_gpu(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    built = play(PC)
    (built.path / "nvidia-smi").write_text("#!/bin/sh\nexec /bin/sleep 60\n")
    quick = [replace(command, timeout_s=0.3) if command is NVIDIA_SMI else command for command in PROBED_COMMANDS]
    monkeypatch.setattr(visits, "WITHOUT_TELEMETRY", quick)
    with pytest.raises(TargetError, match="nvidia-smi does not answer in time"):
        target_info("local-gpu", "tensorrt", Context())
    monkeypatch.setattr(probing.probed, "__defaults__", (quick,))
    status, findings = findings_here()
    assert (status, findings["gpu"]["state"]) == (1, "broken")
    assert "does not answer" in findings["gpu"]["found"]


def test_gpus_of_several_kinds_build_no_engine(play: Play) -> None:
    play(replace(PC, answers={**ANSWERS, "nvidia-smi": "NVIDIA L4, 570.86.15, 8.9\nNVIDIA T4, 570.86.15, 7.5\n"}))
    with pytest.raises(TargetError, match="GPUs are of several kinds"):
        target_info("local-gpu", "tensorrt", Context())
    assert findings_here()[1]["gpu"]["state"] == "broken"


STAGES_ON_GPU = {
    "profile": "{stage: profile, id: there, model: onnx, target: local-gpu}",
    "quantize": "{stage: quantize, id: there, model: onnx, calibration: digits.train, target: local-gpu}",
    "prune": "{stage: prune, id: there, model: student, keep_latency: 0.7, data: digits.train, target: local-gpu}",
}


@without_cuda
@pytest.mark.parametrize("stage", STAGES_ON_GPU)
@pytest.mark.parametrize("options", [["--dry-run"], []])
def test_a_missing_cuda_provider_is_said_before_a_recipe_runs(
    stage: str, options: list[str], play: Play, tmp_path: Path
) -> None:
    play(PC)
    recipe = RECIPE[: RECIPE.index("  - {stage: quantize")] + f"  - {STAGES_ON_GPU[stage]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    ended = CliRunner().invoke(app, ["run", str(tmp_path / "recipe.yaml"), "--runs", str(tmp_path / "runs"), *options])
    assert isinstance(ended.exception, MissingDependency)
    assert "has no CUDA provider" in ended.exception.what
    assert not list((tmp_path / "runs").glob("*/student"))


@without_cuda
def test_an_onnxruntime_without_cuda_is_named(play: Play) -> None:
    play(PC)
    target = target_for("local-gpu", Context())
    with pytest.raises(MissingDependency, match="has no CUDA provider") as caught:
        target.open(float_onnx(), SessionOptions()).__enter__()
    assert caught.value.got == f"onnxruntime {onnxruntime.__version__}"
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in str(caught.value.next)
    with pytest.raises(MissingDependency, match="has no CUDA provider"):
        target.race((float_onnx(), float_onnx()), SessionOptions(), base.CHOICE)
    with pytest.raises(ArtifactError, match="was compiled for a CPU"):
        cuda_opener(engine(), SessionOptions())


def test_a_name_for_this_machine_has_settings(play: Play, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    play(PC)
    monkeypatch.chdir(tmp_path)
    python = tmp_path / "a python"
    python.symlink_to(sys.executable)
    command = ["devices", "add", "pc", "local", "--python", f"'{python}' -B", "--tensorrt", "trtexec", "--runtime"]
    named = CliRunner().invoke(app, [*command, "tensorrt", "--work-folder", str(tmp_path / "work")])
    assert named.exit_code == 0, named.output
    checked = json.loads(CliRunner().invoke(app, ["devices", "check", "pc", "--json"]).stdout)
    assert checked["facts"]["gpus"] == ["NVIDIA L4"]
    assert {finding["name"]: finding["state"] for finding in checked["findings"]}["trtexec"] == "ok"
    built = workbench().run(
        "compile", "of-pc", Context(folder=tmp_path), model=int8().id, runtime="tensorrt", target="pc", max_batch=4
    )
    assert built.model_file.bound_to is not None
    assert built.model_file.bound_to.name == "pc"
    assert (tmp_path / "work" / "files").is_dir()
    with pytest.raises(TargetError, match="torch does not run on pc"):
        target_for("pc", Context(folder=tmp_path)).open(checkpoint(), SessionOptions()).__enter__()


@pytest.mark.parametrize("python", ["/nowhere/python3", "~/nowhere/python3", "/etc/hostname"])
def test_a_python_that_is_not_there_is_said(python: str, play: Play, tmp_path: Path) -> None:
    play(PC)
    file = tmp_path / "config" / "edgevit" / "targets.yaml"
    file.parent.mkdir(parents=True)
    file.write_text(f"pc: {{host: local, python: {python}}}\n")
    with pytest.raises(TargetError, match="there is no Python at this command") as caught:
        target_info("pc", "tensorrt", Context(folder=tmp_path))
    assert python in str(caught.value.got)


def test_an_agent_that_is_killed_is_started_again(play: Play, tmp_path: Path) -> None:
    play(PC)
    said: list[str] = []
    job = Job({}, (sys.executable, "-c", "import os; print(os.getppid())"), {}, 60, is_repeatable=False)
    with connected(NamedTarget("local-gpu"), said.append) as connection:
        first = int(run_job(connection, job, tmp_path / "out").stdout)
        os.kill(first, signal.SIGKILL)
        second = int(run_job(connection, job, tmp_path / "out").stdout)
    assert first != second
    assert is_gone(second)  # it ends with the connection
    assert said == ["the agent of local-gpu has ended; starting it again"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_job_on_this_machine_ends_with_its_client(number: signal.Signals, play: Play, tmp_path: Path) -> None:
    play(PC)
    client = subprocess.Popen(
        [sys.executable, "-c", CLIENT, tmp_path / "job", tmp_path / "out"],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # nohup ignores it, and its children too
    )
    job = number_in(tmp_path / "job")
    client.send_signal(number)
    client.communicate(timeout=30)
    assert is_gone(job)
    said: list[str] = []
    with connected(NamedTarget("local-gpu"), said.append) as connection, connection.locked():
        pass
    assert said == []  # the lock is free: nobody is waited for


@pytest.mark.slow
def test_the_python_face_finds_the_first_wrong_node(play: Play) -> None:
    nodes = read_onnx(onnx_file(int8())).graph.node
    node = next(node.name for node in nodes if "blocks.1.mlp.fc2" in node.name and node.op_type == "MatMul")
    play(PC).vary("wrong-from", node)
    found = edgevit.first_difference(onnx_file(int8()), "local-gpu", max_batch=7)
    assert found.first is not None
    assert (found.first.node, found.is_whole) == (node, True)
    with pytest.raises(RecipeError, match="max_batch"):
        edgevit.first_difference(onnx_file(int8()), "local-gpu", max_batch=0)
