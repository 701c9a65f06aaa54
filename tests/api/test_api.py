"""The Python interface: the snippet of the README, models of one's own, data set objects, and errors."""

from __future__ import annotations

import doctest
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import edgevit
from edgevit.actions.early_latency import deployed_chain
from edgevit.api import functions, workspace
from edgevit.api.inputs import labelled_images, support_images
from edgevit.context import Context
from edgevit.errors import ArtifactError, CheckFailed, DataError, EdgevitError, RecipeError
from edgevit.recipe import load_recipe
from edgevit.selection import kept
from edgevit.selection import timing as selection_timing
from edgevit.selection.records import Student
from tests.known_machine import keep_timings, timing

DIGITS = [str(digit) for digit in range(10)]
RECIPE = """\
name: small
budget: {latency_ms: 1000}
datasets:
  digits: {source: digits, few_shot: {shots: 5}}
stages:
  - {stage: train, id: student, model: test_vit, image_size: 32, data: digits.support, epochs: 1, batch_size: 16}
  - {stage: export, id: onnx, model: student}
  - {stage: evaluate, id: accuracy, model: onnx, data: digits.test}
  - {stage: profile, id: latency, model: onnx, duration_s: 0.05, warmup_s: 0.01, min_runs: 5, starts: 1}
  - {stage: report, id: report, of: [accuracy, latency]}
  - {stage: bundle, id: bundle, model: onnx}
"""


class DigitImages:
    """Scanned digits as a data set object."""

    classes = DIGITS

    def __init__(self, count: int = 40) -> None:
        digits = load_digits()
        self._pixels, self._labels = (digits.images[:count] * 15).astype(np.uint8), digits.target[:count]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        return self._pixels[index], int(self._labels[index])


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("api") / "photos"
    images = DigitImages()
    for index in range(len(images)):
        pixels, label = images[index]
        home = folder / DIGITS[label]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((40, 32)).save(home / f"{index}.png")
    return folder


def test_the_snippet_of_the_readme(photos: Path, onnx: edgevit.Model, tmp_path: Path) -> None:
    small = edgevit.quantize(onnx, calibration=photos, placement="all", calibration_images=16, min_sqnr_db=0.0)
    assert (onnx.metrics["precision"], small.metrics["precision"]) == ("float32", "int8")
    comparison = edgevit.compare(onnx, small, data=photos, duration_s=0.2)
    assert sum(line.startswith("p50 ") for line in str(comparison).splitlines()) == 2
    assert "onnx" in str(comparison)
    assert "quantized" in str(comparison)
    assert comparison._repr_html_().count("<tr>") == 3
    saved = small.save(tmp_path / "small.onnx")
    again = edgevit.load(saved)
    image = photos / "0" / "0.png"
    assert again.predict(image) == small.predict(image)
    with pytest.raises(ArtifactError, match="already taken"):
        small.save(photos, overwrite=True)


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe, whose student and whose faster students were timed before. tests/selection times a student."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(selection_timing, "time_student", None)  # not called
    file = tmp_path / "small.yaml"
    file.write_text(RECIPE)
    chain = deployed_chain(load_recipe(file))
    assert chain is not None
    keep_timings(10, chain.form)
    kept.keep(Student(model="test_vit", image_size=32, num_classes=10), chain.form, timing(1.0), Context())
    return file


def test_a_run_is_a_mapping_of_its_results(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = edgevit.run(recipe, {"stages.student.epochs": 1}, runs=tmp_path / "runs", workers=0)
    assert list(run) == ["student", "onnx", "accuracy", "latency", "report", "bundle"]
    accuracy = run["accuracy"]
    assert accuracy.interval[0] <= accuracy.top1 <= accuracy.interval[1]
    correct = accuracy.predictions()
    assert accuracy.top1 == np.mean(correct["labels"] == correct["predicted"])
    assert accuracy._repr_html_().count("<tr>") == 11
    assert run["latency"].percentile_ms(50) == run["latency"].p50_ms <= run["latency"].percentile_ms(99)
    assert run.report.meets_budget is True, "a latency was asked for, and no accuracy"
    assert run.report.doubts == [doubt["kind"] for doubt in run.report.data["verdict"]["doubts"]]
    assert run.report.data["deployed"] == "onnx"
    opened: list[str] = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    run.report.show()
    assert opened == [run.report.path.as_uri()]
    image = DigitImages()[3][0]
    by_bundle, by_student = run["bundle"].predict(image), run["student"].predict(image)
    assert by_bundle[0].label == by_student[0].label
    assert by_bundle[0].confidence == pytest.approx(by_student[0].confidence, abs=1e-3)
    with pytest.raises(KeyError, match="Did you mean 'student'"):
        run["studnet"]


def test_a_student_that_is_too_slow_is_not_trained(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckFailed, match=r"0\.0001 ms"):
        edgevit.run(recipe, {"budget.latency_ms": 1e-4}, runs=tmp_path / "runs", workers=0)


def test_a_module_of_ones_own_goes_through_export_evaluate_and_profile(photos: Path) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                           nn.Linear(8, 10))  # fmt: skip
    model = edgevit.export(module, classes=DIGITS, image_size=(24, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    assert (model.preprocess.height, model.preprocess.width) == (24, 32)
    assert module.training
    predicted = model.predict(photos, top=3)
    assert len(predicted) == 40
    assert all(len(prediction.labels) == 3 for prediction in predicted)
    evaluation = edgevit.evaluate(model, photos)
    hits = np.mean([Path(prediction.image).parent.name == prediction.label for prediction in predicted])
    assert evaluation.top1 == pytest.approx(hits)
    latency = edgevit.profile(model, duration_s=0.05, warmup_s=0.01, min_runs=5)
    assert 0 < latency.interval_ms[0] <= latency.p50_ms <= latency.interval_ms[1]
    assert "threads 1" in str(latency)


def test_a_data_set_object_gives_what_a_folder_gives(onnx: edgevit.Model, tmp_path: Path) -> None:
    images = DigitImages()
    for index in range(len(images)):
        pixels, label = images[index]
        (tmp_path / DIGITS[label]).mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / DIGITS[label] / f"{index}.png")
    from_object, from_folder = edgevit.evaluate(onnx, images), edgevit.evaluate(onnx, tmp_path)
    assert from_object.top1 == from_folder.top1
    assert (
        edgevit.quantize(onnx, images, placement="all", calibration_images=8, min_sqnr_db=0.0).metrics["precision"]
        == "int8"
    )


def test_labelled_images_judge_a_quantized_model(onnx: edgevit.Model) -> None:
    images = DigitImages()
    form = {"placement": "all", "calibration_images": 8, "min_sqnr_db": 0.0}
    small = edgevit.quantize(onnx, images, validation=images, max_top1_drop=0.9, **form)
    drop = small.metrics["top1_drop"]
    lost = edgevit.evaluate(onnx, images).top1 - edgevit.evaluate(small, images).top1
    assert (drop["value"], drop["n"], drop["limit"]) == (pytest.approx(lost, abs=1e-9), len(images), 0.9)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda onnx: edgevit.load("test_vitt"), RecipeError, "test_vit"),
        (lambda onnx: edgevit.load("absent.onnx"), EdgevitError, "absent.onnx"),
        (lambda onnx: edgevit.export(nn.Linear(3, 3)), RecipeError, "`classes` and `image_size`"),
        (lambda onnx: edgevit.export(onnx, classes=["a"]), RecipeError, "is for a torch module"),
        (lambda onnx: edgevit.evaluate(onnx, [1, 2]), DataError, "no data set"),  # type: ignore[call-overload]
        (lambda onnx: onnx.predict(np.zeros((4, 4, 3))), DataError, "float64"),
        (lambda onnx: edgevit.profile(onnx, threads=0), RecipeError, r"profile\(threads=…\)"),
        (lambda onnx: edgevit.quantize(onnx, "nowhere"), EdgevitError, "nowhere"),
        (lambda onnx: onnx.module, ArtifactError, "checkpoint"),
    ],
)
def test_errors_say_what_is_wrong(call: object, error: type[Exception], match: str, onnx: edgevit.Model) -> None:
    with pytest.raises(error, match=match):
        call(onnx)


def test_examples_in_docstrings_run() -> None:
    failures, examples = doctest.testmod(functions, extraglobs={"edgevit": edgevit})
    assert (failures, examples) == (0, 12)


def test_importing_edgevit_is_light() -> None:
    code = "import sys, edgevit; print(sorted({'torch', 'onnx', 'onnxruntime', 'timm', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_lie_in_the_temporary_folder(checkpoint: edgevit.Model) -> None:
    """Which is removed when the process ends, as the next test has it."""
    assert checkpoint.artifact.path.is_relative_to(workspace.new_folder("data").resolve().parent)


def test_a_forked_process_has_a_folder_of_its_own_and_removes_it(tmp_path: Path) -> None:
    code = (
        "import multiprocessing, os; from edgevit.api import workspace; mine = workspace.new_folder('data')\n"
        "def child(queue): queue.put(str(workspace.new_folder('data').parent))\n"
        "context = multiprocessing.get_context('fork'); queue = context.SimpleQueue()\n"
        "process = context.Process(target=child, args=(queue,)); process.start()\n"
        "theirs = queue.get(); process.join()\n"
        "print(theirs != str(mine.parent), os.path.exists(theirs), mine.exists())"
    )
    here = {**os.environ, "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=here, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["True", "False", "True"]
    assert [*tmp_path.glob("edgevit-*")] == []


def test_threads_share_one_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folders = workspace._Folders()
    with ThreadPoolExecutor(8) as pool:
        made = {pool.submit(folders.of_this_process) for _ in range(32)}
    assert len({future.result() for future in made}) == len([*tmp_path.glob("edgevit-*")]) == 1


def test_no_copy_of_a_data_set_object_stays(onnx: edgevit.Model) -> None:
    home = workspace.new_folder("probe").parent
    before = set(home.glob("data-*"))  # of other tests
    for count in (20, 30):
        edgevit.evaluate(onnx, DigitImages(count))
    assert set(home.glob("data-*")) == before


@pytest.mark.parametrize(("given", "expected"), [(None, "10000"), ("7", "7")])
def test_importing_edgevit_lets_idle_threads_of_openmp_sleep(given: str | None, expected: str) -> None:
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    code = "import os, edgevit; print(os.environ['GOMP_SPINCOUNT'])"
    env |= {} if given is None else {"GOMP_SPINCOUNT": given}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


@pytest.mark.skipif(sys.platform != "linux", reason="torch uses libgomp on Linux")
def test_libgomp_reads_the_spin_count_of_edgevit() -> None:
    env = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    env["OMP_DISPLAY_ENV"] = "verbose"
    done = subprocess.run(
        [sys.executable, "-c", "import edgevit, torch"], env=env, capture_output=True, text=True, check=True
    )
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch has no libgomp that shows its settings")
    assert "GOMP_SPINCOUNT = '10000'" in done.stderr


def test_every_public_name_is_there() -> None:
    for name in edgevit.__all__:
        assert getattr(edgevit, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgevit.nothing


def test_names_in_another_order_give_another_model(onnx: edgevit.Model, photos: Path, tmp_path: Path) -> None:
    onnx.save(tmp_path / "model.onnx")
    checkpoint = edgevit.load("test_vit", classes=DIGITS, image_size=32).save(tmp_path / "checkpoint")
    for source in (tmp_path / "model.onnx", checkpoint):
        forwards, backwards = edgevit.load(source, classes=DIGITS), edgevit.load(source, classes=DIGITS[::-1])
        one, other = (edgevit.evaluate(model, photos).predictions() for model in (forwards, backwards))
        assert (one["predicted"] == other["predicted"]).all()  # the outputs are the same, their names are not
        assert (one["labels"] == 9 - other["labels"].astype(int)).all()
    saved = backwards.save(tmp_path / "backwards")
    assert edgevit.load(saved).classes == tuple(DIGITS[::-1])
    with pytest.raises(DataError, match="same name"):
        edgevit.load(checkpoint, classes=["0"] * 10)


def test_a_support_is_the_folder_itself_and_frozen_parts_stay_frozen(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("train", "test"):
        shutil.copytree(photos, tmp_path / "photos" / name)
    stages = workspace.stages()
    folder = tmp_path / "photos", stages, "here"
    with support_images(*folder) as support, labelled_images(*folder) as tested:
        assert (support.metrics["images"], tested.metrics["images"]) == (80, 40)
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    )
    module.train()
    module[1].eval()
    edgevit.export(module, classes=["a", "b"], image_size=16)
    assert [part.training for part in module] == [True, False, True, True, True]
