"""Engines by TensorRT's Python module on a board over a real SSH server.

A stand-in plays the module and CUDA: outputs are real, and times are those of ONNX Runtime here.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from edgevit.artifacts import Artifact
from edgevit.bundling import check_engine_bundle
from edgevit.configs import Bundle
from edgevit.context import Context
from edgevit.errors import ArtifactError, ParityError, TargetError
from edgevit.graphs.files import onnx_file
from edgevit.profiling import MeasurePlan
from edgevit.runtimes.base import Session, SessionOptions, preprocessed, random_images
from edgevit.runtimes.tensorrt_program import random_input
from edgevit.stages import bundle as bundle_stage
from edgevit.targets import remote_worker, target_for, trtexec_program, visits
from edgevit.targets.shipped import TENSORRT_FILES
from edgevit.targets.trtexec.answers import times_in, version_in
from tests.said import Said
from tests.small_models import checkpoint, workbench
from tests.small_models import int8_onnx_for_tensorrt as int8
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.standin import STANDINS, build
from tests.targets.standin.module import module_of, needs_gcc
from tests.targets.test_tensorrt_journey import AGX, NANO, Board, board, compiled

__all__ = ["board"]  # a fixture
pytestmark = [needs_sshd, needs_gcc]


ANSWER = '{"labels": [{"label": "none", "confidence": 0.5}]}'  # of an infer.py that is wrong


def give_module(board: Board, server: SshHost, name: str = NANO, *, keeps_trtexec: bool = False) -> None:
    """From now on, the board's Python has TensorRT's module."""
    script = server.folder / f"python-of-{name}"
    exports = " ".join(f"{key}={shlex.quote(value)}" for key, value in module_of(board.standin).items())
    first, *rest = script.read_text().splitlines()
    script.write_text("\n".join([first, f"export {exports}", *rest, ""]))
    if not keeps_trtexec:
        (board.standin.path / "trtexec").unlink()
    visits.forget()


@contextmanager
def opened(engine: Artifact) -> Iterator[Session]:
    with target_for("orin", Context()).open(engine, SessionOptions()) as session:
        yield session


def outputs_here(images: np.ndarray) -> np.ndarray:
    """Independent of edgevit's sessions."""
    session = onnxruntime.InferenceSession(onnx_file(int8()), providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": images})[0]


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The command lines of the jobs that TensorRT does on the board."""
    started: list[tuple[str, ...]] = []
    for module, name in ((remote_worker, "run_job"), (trtexec_program, "ended_job")):
        starts = getattr(module, name)

        def counted(connection: Any, job: Any, out: Path, starts: Any = starts) -> Any:
            started.append(job.arguments)
            return starts(connection, job, out)

        monkeypatch.setattr(module, name, counted)
    return started


def test_without_trtexec_the_module_builds_and_computes_and_times(
    board: Board, server: SshHost, programs: list[tuple[str, ...]]
) -> None:
    give_module(board, server)
    engine = compiled("engine-by-module", int8(), max_batch=6)
    assert engine.model_file.bound_to.versions["tensorrt_by"] == "python"
    assert engine.file("build.log").read_text().startswith("&&&& RUNNING TensorRT.edgevit [TensorRT v100300]")
    assert {row["got"] for row in engine.metrics["products"] if row["asked"] == "int8"} == {"int8"}
    assert engine.metrics["products_untold"] == 0
    generator = np.random.default_rng(1)
    photos = [generator.integers(0, 256, (40, 50, 3), np.uint8) for _ in range(14)]
    programs.clear()
    with opened(engine) as session:
        rows = [rows["logits"] for rows in session.outputs(photos, batch_size=448)]
        measured = session.measure(MeasurePlan(0.01, 0.05, 12, batch_size=4))
    expected = outputs_here(preprocessed(photos, engine.io.preprocess))
    # All digits come back, and only the integer sums of another batch size differ.
    np.testing.assert_allclose(np.concatenate(rows), expected, rtol=1e-5, atol=1e-5)
    outputs, timing = programs  # 14 images in batches of 6: one program, which loads the engine once
    assert outputs[-1] == "worker.py"
    assert "tensorrt_program.py" in timing
    assert measured.label == "replayed"
    assert measured.conditions["timed_by"] == "TensorRT's Python module"
    assert len(measured.samples_ms) >= 12
    assert 0 < measured.conditions["to_gpu_ms"] < measured.percentile_ms(50)  # a copy in memory is faster than a ViT


@pytest.mark.slow
def test_with_both_trtexec_builds_and_times_and_the_module_computes(
    board: Board, server: SshHost, programs: list[tuple[str, ...]]
) -> None:
    give_module(board, server, keeps_trtexec=True)
    engine = compiled("engine-by-both", int8(), max_batch=5)
    assert "tensorrt_by" not in engine.model_file.bound_to.versions
    build, layers, *outputs = [Path(arguments[0]).name for arguments in programs]
    assert programs[0][:2] == ("/bin/sh", "-c")
    assert (build, layers) == ("sh", "trtexec")
    assert all("worker.py" in arguments for arguments in programs[2:])
    assert outputs
    board.standin.vary("wrong-outputs")
    with pytest.raises(ParityError, match="output 'logits' of the engine differs from its ONNX file's"):
        compiled("engine-by-both-wrong", int8(), max_batch=4)
    # The module is there, and is not to be used.
    board.standin.vary("good")
    programs.clear()
    set_target(server, tensorrt="trtexec")
    with opened(engine) as session:
        session.infer({"image": random_images(engine.io, 2)})
    assert [arguments[0] for arguments in programs] == ["trtexec"]


def set_target(server: SshHost, **settings: str) -> None:
    """Give the target orin more settings."""
    from edgevit.targets.named import add_target, user_file

    file = user_file()
    assert file is not None
    file.unlink()
    config = server.target(str(server.folder / f"python-of-{NANO}"), **settings).config
    assert config is not None
    add_target("orin", config, file)
    visits.forget()


@pytest.mark.slow
def test_the_options_of_compile_hold_for_the_module(board: Board, server: SshHost) -> None:
    give_module(board, server)
    built = compiled("engine-of-two-builds", int8(), max_batch=2, builds=2, version_compatible=True)
    assert len(built.metrics["build"]["p50_ms"]) == 2
    assert built.metrics["build"]["label"] == "replayed"
    with opened(built) as session:  # version-compatible engines need a permission to be loaded
        session.infer({"image": random_images(built.io, 1, seed=9)})
        assert len(session.measure(MeasurePlan(0.01, 0.05, 12)).samples_ms) >= 12
    caches = [
        compiled(f"engine-with-cache-{size}", int8(), max_batch=size).metrics["build"]["timing_cache"]
        for size in (2, 3)
    ]
    assert caches[0]["kept"] == caches[1]["offered"] != caches[1]["kept"]


@pytest.mark.slow
def test_a_bundle_is_tried_on_its_board(board: Board, server: SshHost, tmp_path: Path) -> None:
    give_module(board, server, keeps_trtexec=True)
    engine = compiled("engine-to-bundle", int8(), max_batch=2)
    config = Bundle(stage="bundle", id="bundle", model="engine", compiled=True)
    said = Said()
    context = Context(work=tmp_path, progress=said)
    (bundle := tmp_path / "bundle").mkdir()
    bundle_stage.run(config, {"model": engine}, context, bundle)
    assert "infer.py was run on orin: it answers as the engine does there" in said.lines
    program = (bundle / "infer.py").read_text()
    for line, what, got in (
        ("import a_module_that_nobody_has", "infer.py does not run", "a_module_that_nobody_has"),
        ("print('hello'); raise SystemExit", "infer.py gives no answer", "hello"),
        (f"print('{ANSWER}'); raise SystemExit", "infer.py does not agree with the model", "'none' at 0.5000"),
    ):
        (bundle / "infer.py").write_text(f"{line}\n")
        with pytest.raises(ParityError, match=what) as caught:
            check_engine_bundle(engine, bundle, context)
        assert got in str(caught.value.got)
        assert str(caught.value.where) == f"{bundle}, on orin"
    (bundle / "infer.py").write_text(program)
    set_target(server, tensorrt="trtexec")
    check_engine_bundle(engine, bundle, context)
    assert said.lines[-1].startswith("note: infer.py was not run on orin: its Python has no TensorRT module")


@pytest.mark.slow
def test_two_engines_race_by_the_module(board: Board, server: SshHost) -> None:
    give_module(board, server)
    large = workbench().run("export", "float-for-module", model=checkpoint().id)
    a, b = (compiled(f"engine-in-race-{model.id}", model, max_batch=2) for model in (large, int8()))
    plan = MeasurePlan(0.01, 0.2, 12)
    (compared,) = target_for("orin", Context()).race((a, b), SessionOptions(), plan)
    assert compared.is_replayed
    assert compared.interval.low <= compared.ratio <= compared.interval.high


@pytest.mark.slow
def test_what_the_target_lacks_is_named(board: Board, server: SshHost) -> None:
    set_target(server, tensorrt="python")
    with pytest.raises(TargetError, match="trtexec or TensorRT's Python module") as caught:
        compiled("engine-without-module", int8())
    assert "No module named 'tensorrt'" in str(caught.value.got)
    assert caught.value.next == "sudo apt install python3-libnvinfer"


@pytest.mark.slow
def test_a_module_of_another_version_computes_nothing(
    board: Board, server: SshHost, programs: list[tuple[str, ...]]
) -> None:
    give_module(board, server, keeps_trtexec=True)
    other = build(STANDINS[AGX], board.standin.root / "other")
    (board.standin.root / "python" / "tensorrt.py").write_text(
        Path(module_of(other)["PYTHONPATH"], "tensorrt.py").read_text()
    )
    compiled("engine-of-two-versions", int8(), max_batch=5)
    assert not any("worker.py" in arguments for arguments in programs)


@pytest.mark.slow
def test_an_engine_that_the_module_does_not_load_is_refused(board: Board, server: SshHost) -> None:
    give_module(board, server, keeps_trtexec=True)
    engine = compiled("engine-to-be-refused", int8(), max_batch=2)
    settings = json.loads(board.standin.settings.read_text())
    board.standin.settings.write_text(json.dumps({**settings, "serialization": settings["serialization"] + 1}))
    with opened(engine) as session:
        with pytest.raises(TargetError, match="of another GPU or another TensorRT") as caught:
            session.infer({"image": random_images(engine.io, 1)})
        assert "Version tag does not match" in str(caught.value.got)
        assert caught.value.next == "compile it again on this target"
        (board.standin.root / "lib" / "libcudart.so.12").unlink()
        with pytest.raises(TargetError, match="cannot be loaded on the target") as caught:
            session.infer({"image": random_images(engine.io, 1, seed=5)})
    assert "the CUDA runtime cannot be used" in str(caught.value.got)
    assert "tensorrt: trtexec" in str(caught.value.next)


@pytest.mark.slow
def test_a_model_that_tensorrt_refuses_is_refused_with_the_node(board: Board, server: SshHost) -> None:
    give_module(board, server)
    board.standin.vary("fails-at-node")
    with pytest.raises(ArtifactError, match=r"does not take the model: patch_embed.proj"):
        compiled("engine-by-module-fails", int8(), max_batch=9)
    board.standin.vary("out-of-memory")
    with pytest.raises(TargetError, match="has not enough memory for TensorRT"):
        compiled("engine-by-module-memory", int8(), max_batch=9)


class Local:
    """The module's program as a process of this machine."""

    def __init__(self, folder: Path, board: str = NANO) -> None:
        self.standin = build(STANDINS[board], folder / board)
        self.folder = folder / "job"
        self.folder.mkdir(exist_ok=True)
        for name, file in TENSORRT_FILES.items():
            (self.folder / name).write_bytes(file.read_bytes())

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-B", "tensorrt_program.py", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=module_of(self.standin), capture_output=True, text=True, check=False
        )


SHAPES = ("--minShapes=image:1x3x32x32", "--optShapes=image:2x3x32x32", "--maxShapes=image:4x3x32x32")


def test_the_program_takes_trtexecs_options_and_writes_its_files(tmp_path: Path) -> None:
    local = Local(tmp_path)
    (local.folder / "model.onnx").write_bytes(onnx_file(int8()).read_bytes())
    build_options = ("--stronglyTyped", "--noTF32", "--memPoolSize=workspace:64", "--timingCacheFile=timings.bin")
    ended = local.run("--onnx=model.onnx", "--saveEngine=model.engine", *SHAPES, *build_options)
    assert ended.returncode == 0, ended.stderr
    assert version_in(ended.stdout) == "10.3.0"
    first = (local.folder / "timings.bin").read_bytes()
    assert local.run("--onnx=model.onnx", "--saveEngine=b.engine", *SHAPES, *build_options).returncode == 0
    assert (local.folder / "timings.bin").read_bytes() == 2 * first  # the stand-in adds to what an earlier build left
    images = np.random.default_rng(0).normal(size=(3, 3, 32, 32)).astype(np.float32)
    (local.folder / "input.raw").write_bytes(images.tobytes())
    run = ("--loadEngine=model.engine", "--shapes=image:3x3x32x32", "--loadInputs=image:input.raw", "--warmUp=10")
    exports = [f"--export{name}={name}.json" for name in ("Times", "LayerInfo", "Profile")]
    assert local.run(*run, *exports, "--iterations=15", "--duration=0.01").returncode == 0
    times = times_in((local.folder / "Times.json").read_bytes(), 15, "here")
    assert 15 <= len(times.compute) < 1000
    layers = json.loads((local.folder / "LayerInfo.json").read_text())["Layers"]
    count, *rows = json.loads((local.folder / "Profile.json").read_text())
    assert count["count"] >= 15
    assert [row["name"] for row in rows] == [layer["Name"] for layer in layers]
    assert [row["medianMs"] for row in rows[:3]] == [0.001, 0.002, 0.003]  # of the stand-in
    # A build may be followed by a run, in batches of the size that the engine is tuned for.
    timed = ("--exportTimes=after.json", "--iterations=12", "--warmUp=0", "--duration=0")
    assert local.run("--onnx=model.onnx", "--saveEngine=c.engine", *SHAPES, *timed).returncode == 0
    assert len(times_in((local.folder / "after.json").read_bytes(), 12, "here").compute) == 12


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("--loadEngine=other.engine", "--exportTimes=t.json"),
            "Version tag does not match. Note: Current Version: 236",
        ),
        pytest.param(
            ("--loadEngine=none.engine", "--exportTimes=t.json"),
            "magicTag == rt::kPLAN_MAGIC_TAG failed",
            marks=pytest.mark.slow,
        ),
        (
            ("--loadEngine=model.engine", "--shapes=image:5x3x32x32", "--exportTimes=t.json"),
            "[1,3,32,32]..[4,3,32,32]",
        ),
        pytest.param(
            (
                "--loadEngine=model.engine",
                "--shapes=image:2x3x32x32",
                "--loadInputs=image:short.raw",
                "--exportTimes=t.json",
            ),
            "cannot reshape",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("--onnx=none.engine", "--saveEngine=x.engine"), "Failed to parse ONNX model", marks=pytest.mark.slow
        ),
    ],
)
def test_what_tensorrt_refuses_ends_the_program_with_its_words(
    arguments: tuple[str, ...], says: str, refusing: Local
) -> None:
    ended = refusing.run(*arguments)
    assert ended.returncode == 1
    assert says in ended.stderr
    assert "&&&& FAILED TensorRT.edgevit [TensorRT v100300]" in ended.stdout


def test_a_module_that_is_missing_is_named_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "tensorrt_program.py").write_bytes(TENSORRT_FILES["tensorrt_program.py"].read_bytes())
    (tmp_path / "tensorrt_loading.py").write_text("import a_module_that_nobody_has\n")
    command = [sys.executable, "-B", "tensorrt_program.py", "--onnx=model.onnx"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "[E] No module named 'a_module_that_nobody_has'" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("kind", "low", "high"),
    [
        ("float32", -1, 1),
        ("float16", -1, 1),
        ("int64", -128, 127),
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("bool", 0, 1),
    ],
)
def test_inputs_without_a_file_are_seeded_random_numbers(kind: str, low: float, high: float) -> None:
    values = random_input((20, 1000), kind)
    assert (values.shape, values.dtype) == ((20, 1000), kind)
    np.testing.assert_array_equal(values, random_input((20, 1000), kind))
    wide = values.astype(np.float64)
    assert (wide.min(), wide.max()) == (pytest.approx(low, abs=0.01), pytest.approx(high, abs=0.01))
    assert wide.std() == pytest.approx((high - low) / (2 if kind == "bool" else 12**0.5), rel=0.03)


@pytest.fixture(scope="module")
def refusing(tmp_path_factory: pytest.TempPathFactory) -> Local:
    """A folder with an engine of this board, one of another TensorRT, and files that are no engines."""
    folder = tmp_path_factory.mktemp("refusing")
    other, local = Local(folder, AGX), Local(folder)
    for each, name in ((other, "other"), (local, "model")):
        (each.folder / "model.onnx").write_bytes(onnx_file(int8()).read_bytes())
        assert each.run("--onnx=model.onnx", f"--saveEngine={name}.engine", *SHAPES).returncode == 0
    (local.folder / "none.engine").write_bytes(b"no engine")
    (local.folder / "short.raw").write_bytes(bytes(100))
    return local


def test_the_loader_is_as_those_of_other_runtimes(refusing: Local) -> None:
    """What bundles use: names of outputs and inputs to arrays, for batches of changing size, with errors by kind."""
    program = """
        import numpy as np, tensorrt_loading as loading
        from pathlib import Path
        run = loading.LOADERS["tensorrt"](Path("model.engine"), {"runtime": "tensorrt", "max_batch": 4}, 1)
        images = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
        parts = [run(["logits"], {"image": part})[0] for part in (images[:1], images[1:5], images[5:])]
        np.save("logits.npy", np.concatenate(parts))
        for names, feed in ((["scores"], {"image": images[:1]}), (["logits"], {"photo": images[:1]}),
                            (["logits"], {"image": images[:1].astype(np.float64)}), (["logits"], {"image": images})):
            try:
                run(names, feed)
            except loading.TensorrtError as error:
                print(error.kind, error)
        engine = loading.Engine(Path("model.engine").read_bytes())
        engine._log.log(loading.trt.ILogger.Severity.ERROR, "of an earlier call")
        try:
            engine.run(["logits"], {"image": images})
        except loading.TensorrtError as error:
            assert "of an earlier call" not in str(error), error
            assert "setInputShape" in str(error)
        try:
            loading.in_tensorrt(Path("none.engine"), {}, 1)
        except loading.EngineRefused as error:
            print(error.kind, error)
        try:
            loading.Buffer(loading.cuda(), (2**20, 2**20), np.dtype("float32"))
        except loading.TensorrtError as error:
            print(error)
    """

    command = [sys.executable, "-B", "-c", textwrap.dedent(program)]
    ended = subprocess.run(
        command, cwd=refusing.folder, env=module_of(refusing.standin), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    images = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    np.testing.assert_allclose(np.load(refusing.folder / "logits.npy"), outputs_here(images), rtol=1e-5, atol=1e-5)
    lines = ended.stdout.splitlines()
    assert lines[0] == "model the engine's outputs are ['logits'], not ['scores']"
    assert lines[1] == "model the engine's inputs are ['image'], not ['photo']"
    assert lines[2] == "model input 'image' is float32, not float64"
    assert lines[3].startswith("model Error[3]: IExecutionContext::setInputShape")
    assert lines[4].startswith("engine Error[1]: IRuntime::deserializeCudaEngine")
    assert lines[5] == "cudaMalloc: out of memory"


def test_without_cuda_the_error_names_the_library(refusing: Local) -> None:
    environment = {**module_of(refusing.standin), "LD_LIBRARY_PATH": ""}
    program = (
        "import tensorrt_loading as loading\ntry:\n loading.cuda()\nexcept loading.CudaMissing as e: print(e.kind, e)"
    )
    command = [sys.executable, "-B", "-c", program]
    ended = subprocess.run(command, cwd=refusing.folder, env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("import the CUDA runtime cannot be used: ")
