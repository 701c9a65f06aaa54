import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image

import edgevit
from edgevit.actions.predict_images import predict_images
from edgevit.artifacts import Artifact
from edgevit.bundling import check_bundle, model_to_bundle, write_bundle
from edgevit.data.preprocess import open_image, preprocess
from edgevit.errors import ArtifactError, ParityError
from edgevit.graphs.files import artifact_from_onnx
from edgevit.model_file import AS_WRITTEN, OnnxruntimeOptions
from edgevit.progress import SilentProgress
from tests.bundling.enrolling import digits_of_eight, float8
from tests.bundling.small_model import CLASSES, small_model, with_weights_beside

PROGRAMS = {"infer.py", "preprocess.py", "runtimes.py", "answers.py"}
FILES = {"model.onnx", "labels.txt", "iospec.json", "requirements.txt", "README.md"} | PROGRAMS


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return small_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bundle(model: Artifact, tmp_path: Path) -> Path:
    return bundled(model, tmp_path / "bundle")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(3).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def bundled(model: Artifact, out: Path) -> Path:
    out.mkdir()
    write_bundle(model, out)
    return out


def infer(bundle: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / "infer.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)


def labels(bundle: Path, *arguments: object) -> list[dict[str, Any]]:
    answer = infer(bundle, "--json", *arguments)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def reference(model: Artifact, photo: Path) -> dict[str, float]:
    """Confidence by label from ONNX Runtime called by hand."""
    session = onnxruntime.InferenceSession(model.path / "model.onnx", providers=["CPUExecutionProvider"])
    pixels = preprocess(open_image(photo), **model.io.preprocess.model_dump())
    (logits,) = session.run(["logits"], {"image": pixels[None]})
    exponents = np.exp(logits[0].astype(np.float64))
    return dict(zip(model.io.classes, exponents / exponents.sum(), strict=True))


def test_bundle_record_has_the_hash_of_each_file(bundle: Path):
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["files"].keys() == FILES
    assert {path.name for path in bundle.iterdir()} == FILES | {"bundle.json"}
    for name, entry in record["files"].items():
        assert entry["sha256"] == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
    assert record["runtime"]["verified_with"]["onnxruntime"] == onnxruntime.__version__
    assert record["model"]["portable"] is True
    assert record["licences"]


def test_runner_and_preprocessing_are_copied_verbatim(bundle: Path):
    package = Path(edgevit.__file__).parent
    assert (bundle / "infer.py").read_bytes() == (package / "bundling" / "infer.py").read_bytes()
    assert (bundle / "preprocess.py").read_bytes() == (package / "data" / "preprocess.py").read_bytes()
    assert (bundle / "runtimes.py").read_bytes() == (package / "runtimes" / "loading.py").read_bytes()
    assert (bundle / "answers.py").read_bytes() == (package / "graphs" / "class_scores.py").read_bytes()
    for name in PROGRAMS:
        assert "import edgevit" not in (bundle / name).read_text()
        assert "from edgevit" not in (bundle / name).read_text()


def test_infer_gives_what_onnxruntime_gives(bundle: Path, model: Artifact, photo: Path):
    (found,) = labels(bundle, "--top", 4, photo)
    expected = reference(model, photo)
    assert [one["label"] for one in found["labels"]] == sorted(expected, key=lambda name: -expected[name])
    for one in found["labels"]:
        assert one["confidence"] == pytest.approx(expected[one["label"]], abs=1e-5)


def test_infer_takes_folders_and_prints_lines(bundle: Path, photo: Path, tmp_path: Path):
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    Image.open(photo).convert("L").save(folder / "deep" / "grey.JPG", "JPEG")
    shutil.copy(photo, folder / "a.png")
    (folder / "notes.txt").write_text("no image")
    answer = infer(bundle, folder)
    assert answer.returncode == 0
    assert [line.split(": ")[0] for line in answer.stdout.splitlines()] == [
        str(folder / "a.png"),
        str(folder / "deep" / "grey.JPG"),
    ]
    assert answer.stdout.splitlines()[0].endswith("%")


def test_classifier_in_a_program(bundle: Path, model: Artifact, photo: Path):
    code = (
        f"import sys; sys.path.insert(0, {str(bundle)!r})\n"
        "from infer import Classifier\n"
        "import numpy as np\n"
        f"one = Classifier({str(bundle)!r}).predict([{str(photo)!r}, np.zeros((5, 9, 3), np.uint8)], top=2)\n"
        "assert 'edgevit' not in sys.modules\n"
        "print(len(one), len(one[0]), one[0][0][0])"
    )
    answer = subprocess.run([sys.executable, "-B", "-c", code], capture_output=True, text=True, check=True)
    expected = reference(model, photo)
    assert answer.stdout.strip() == f"2 2 {max(expected, key=lambda name: expected[name])}"


def test_unreadable_images_are_named_and_the_others_labelled(bundle: Path, photo: Path, tmp_path: Path):
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    answer = infer(bundle, tmp_path / "broken.jpg", tmp_path / "missing.png", photo)
    assert answer.returncode == 1
    assert "broken.jpg" in answer.stderr
    assert "missing.png" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert len(answer.stdout.splitlines()) == 1


def test_a_folder_of_all_kinds_of_files_is_read_by_the_bundle_as_by_predict(
    bundle: Path, model: Artifact, photo: Path, tmp_path: Path
):
    folder = tmp_path / "photos"
    (folder / ".thumbnails").mkdir(parents=True)
    for name in ("a.jfif", "b.PNG", "IMG.HEIC", "._a.jfif", ".thumbnails/x.png", "Thumbs.db"):
        shutil.copy(photo, folder / name)
    Path(str(folder / "z\udcff.png")).write_bytes(photo.read_bytes())
    os.mkfifo(folder / "c.png")
    answer = infer(bundle, "--json", folder)
    assert answer.returncode == 1
    assert [json.loads(line)["image"] for line in answer.stdout.splitlines()] == [
        f"{folder}/{name}" for name in ("a.jfif", "b.PNG", "z\udcff.png")
    ]
    notes = [
        f"note: {folder}: 2 files of other types (.db 1, .heic 1) are passed over: IMG.HEIC, Thumbs.db",
        f"note: {folder}: 2 hidden files and folders are passed over: ._a.jfif, .thumbnails",
    ]
    assert answer.stderr.splitlines()[:2] == notes
    assert "c.png: " in answer.stderr.splitlines()[2]
    here = predict_images(model, [folder], top=1)
    assert [one["image"] for one in here.answers] == [json.loads(line)["image"] for line in answer.stdout.splitlines()]
    assert [f"note: {note}" for note in here.notes] == notes
    assert [str(error).splitlines()[0] for error in here.unread] == [
        f"{folder}/c.png: cannot be read: is a folder, a pipe or a device, not a file"
    ]


def test_a_reader_that_stops_early_is_no_error(bundle: Path, photo: Path):
    command = [sys.executable, "-u", "-B", str(bundle / "infer.py"), *[str(photo)] * 300]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout
        assert running.stderr
        assert running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 0


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "iospec.json"])
def test_nothing_altered_is_ever_loaded(bundle: Path, photo: Path, name: str):
    with (bundle / name).open("ab") as file:
        file.write(b" ")
    answer = infer(bundle, photo)
    assert answer.returncode == 2
    assert f"{name}: was altered" in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("name", sorted(FILES - PROGRAMS))
def test_verify_names_a_missing_file(bundle: Path, name: str):
    (bundle / name).unlink()
    answer = infer(bundle, "--verify")
    assert answer.returncode == 2
    assert f"{name}: is missing" in answer.stderr


def test_verify_names_an_altered_file_and_leaves_others_alone(bundle: Path):
    (bundle / "manifest.json").write_text("{}")
    assert infer(bundle, "--verify").returncode == 0
    (bundle / "preprocess.py").write_text((bundle / "preprocess.py").read_text() + "\n# altered\n")
    answer = infer(bundle, "--verify")
    assert answer.returncode == 2
    assert "preprocess.py: was altered" in answer.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--top", "0", "x.png"],
        ["--top", "1000001", "x.png"],
        ["--top", "9" * 5000, "x.png"],
        ["--threads", "0", "x.png"],
        ["--onnx", "--engine", "x.engine", "x.png"],
        ["--threads", "257", "x.png"],
        ["--threads", "1.5", "x.png"],
    ],
)
def test_wrong_calls_are_explained(bundle: Path, arguments: list[str]):
    answer = infer(bundle, *arguments)
    assert answer.returncode == 2
    assert "usage:" in answer.stderr


def test_session_options_are_those_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The real session is made; only what it was asked for is noted on the way."""
    chosen = OnnxruntimeOptions(graph_optimization_level="disabled", disabled_optimizers=("ConstantFolding",))
    folder = bundled(small_model(tmp_path / "model", options=chosen), tmp_path / "bundle")
    monkeypatch.syspath_prepend(str(folder))
    for name in ("infer", "preprocess"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import infer as bundled_infer  # type: ignore[import-not-found]

    asked: dict[str, Any] = {}
    real = onnxruntime.InferenceSession

    def noted(path: str, options: onnxruntime.SessionOptions, **rest: Any) -> onnxruntime.InferenceSession:
        asked.update(level=options.graph_optimization_level, threads=options.intra_op_num_threads, **rest)
        return real(path, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", noted)
    bundled_infer.Classifier(folder, threads=2)
    assert asked == {
        "level": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
        "threads": 2,
        "providers": ["CPUExecutionProvider"],
        "disabled_optimizers": ["ConstantFolding"],
    }
    for name in ("infer", "preprocess"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def test_a_fixed_batch_is_filled(tmp_path: Path, photo: Path, model: Artifact):
    fixed = small_model(tmp_path / "model", batch=4)
    bundle = bundled(fixed, tmp_path / "bundle")
    check_bundle(fixed, bundle, tmp_path)
    (one,) = labels(bundle, photo)
    expected = reference(model, photo)
    assert one["labels"][0]["label"] == max(expected, key=lambda name: expected[name])


def test_weights_beside_the_file_are_taken_in(model: Artifact, tmp_path: Path):
    apart = with_weights_beside(model, tmp_path / "apart")
    bundle = bundled(apart, tmp_path / "bundle")
    check_bundle(apart, bundle, tmp_path)
    assert not list(bundle.glob("*.data"))


def test_a_bundle_of_another_model_fails_the_check(bundle: Path, tmp_path: Path):
    other = small_model(tmp_path / "other", classes=CLASSES[::-1])
    with pytest.raises(ParityError, match="does not agree"):
        check_bundle(other, bundle, tmp_path)


def test_a_runner_that_does_not_run_fails_the_check(bundle: Path, model: Artifact, tmp_path: Path):
    (bundle / "preprocess.py").unlink()
    with pytest.raises(ParityError, match="does not run") as caught:
        check_bundle(model, bundle, tmp_path)
    assert "preprocess" in str(caught.value)


@pytest.mark.parametrize("name", ["two\nlines", "trailing\n", "trailing\r", "", "line\u2028separator"])
def test_class_names_that_are_no_line_are_refused(tmp_path: Path, name: str):
    with pytest.raises(ArtifactError, match="one line"):
        bundled(small_model(tmp_path / "model", classes=(name, "other")), tmp_path / "bundle")


def test_an_fp8_file_is_bundled_itself_and_is_portable():
    """edgevit turns graph optimizations off in FP8 files, as in compiled files."""
    model = float8()
    assert model.model_file.options == AS_WRITTEN
    for given in (model, artifact_from_onnx(model.path / "model.onnx")):
        assert not given.is_compiled
        assert model_to_bundle(given, compiled=False, progress=SilentProgress()) == (given, None)
    bundle = digits_of_eight().run("bundle", "eight-fp8-bundle", model=model.id)
    assert (bundle.path / "model.onnx").read_bytes() == (model.path / "model.onnx").read_bytes()
    assert json.loads(bundle.file("bundle.json").read_text())["model"]["portable"] is True
    assert "\nonnxruntime>=" in bundle.file("requirements.txt").read_text()
