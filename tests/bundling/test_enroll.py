"""A class that the model never saw, enrolled in a real INT8 bundle by the bundle's own program and by edgevit's."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import unicodedata
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from PIL import Image
from typer.testing import CliRunner

from edgevit.actions.single_stage import single_stages
from edgevit.artifacts import sha256_of_file
from edgevit.bundling import ClassImages, check_bundle, classes, classes_since, enroll, write_bundle
from edgevit.bundling.prototypes import FILE, head_of, read_support, write_support
from edgevit.bundling.runner import ENROLLING, RUNNER, write_runner
from edgevit.cli import app
from edgevit.context import Context
from edgevit.data.preprocess import preprocess
from edgevit.errors import ArtifactError, CheckFailed, DataError
from edgevit.fewshot.heads import nearest_centroid
from edgevit.graphs.files import read_onnx, write_onnx
from edgevit.pipeline import _show
from edgevit.progress import SilentProgress
from tests.bundling.enrolling import KNOWN, copied_bundle, data, digit_files, digits_of_eight, made_bundle, quantized
from tests.bundling.small_model import small_model
from tests.said import Said


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return copied_bundle(tmp_path / "bundle")


def test_the_guide_lists_every_file_of_a_bundle_that_takes_new_classes():
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "devices.md").read_text(encoding="utf-8")
    section = guide.partition("## Make a bundle")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| ([^|]+) \|", section, re.MULTILINE)[1:]
    assert {file for cell in cells for file in re.findall(r"`([^`]+)`", cell)} == {
        path.name for path in made_bundle().path.iterdir()
    }


@pytest.fixture
def fours(tmp_path: Path) -> list[Path]:
    return digit_files(tmp_path / "fours", "4", 5)


def program(bundle: Path, name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-B", str(bundle / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=60, check=False)


PROGRAMS = TemporaryDirectory()


@cache
def shipped_enroll() -> ModuleType:
    """The shipped enroll.py, imported with the files that lie beside it."""
    write_runner(Path(PROGRAMS.name), RUNNER | ENROLLING)
    sys.path.insert(0, PROGRAMS.name)
    try:
        return import_module("enroll")
    finally:
        sys.path.remove(PROGRAMS.name)


def enrolling(bundle: Path, *arguments: object) -> tuple[int, str, str]:
    """Exit status, output and errors of enroll.py; in this process, which is quicker than one of its own."""
    with redirect_stdout(StringIO()) as out, redirect_stderr(StringIO()) as err:
        try:
            status = shipped_enroll().main(["--bundle", str(bundle), *map(str, arguments)])
        except SystemExit as ended:  # argparse
            status = ended.code
    return status, out.getvalue(), err.getvalue()


def done(bundle: Path, *arguments: object) -> dict[str, Any]:
    status, out, err = enrolling(bundle, "--json", *arguments)
    assert status == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


def refused(bundle: Path, *arguments: object, status: int = 2) -> str:
    """What it says when it refuses; nothing of the bundle may have changed."""
    before = {path.name: sha256_of_file(path) for path in bundle.iterdir()}
    got, out, err = enrolling(bundle, *arguments)
    assert got == status, out + err
    assert {path.name: sha256_of_file(path) for path in bundle.iterdir()} == before
    return err


def labels(bundle: Path, *arguments: object) -> list[dict[str, Any]]:
    answer = program(bundle, "infer.py", "--json", *arguments)
    assert answer.returncode == 0, answer.stderr
    return [json.loads(line) for line in answer.stdout.splitlines()]


def session_outputs(bundle: Path, images: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Logits and embeddings from ONNX Runtime called by hand, one image at a time."""
    record = json.loads((bundle / "bundle.json").read_text())
    spec = json.loads((bundle / "iospec.json").read_text())
    session = onnxruntime.InferenceSession(
        bundle / "model.onnx",
        providers=["CPUExecutionProvider"],
        disabled_optimizers=record["session_options"]["disabled_optimizers"],
    )
    given = [session.run(None, {"image": preprocess(image, **spec["preprocess"])[None]}) for image in images]
    names = [output.name for output in session.get_outputs()]
    return {name: np.concatenate([one[i] for one in given]) for i, name in enumerate(names)}


def test_support_is_what_the_shipped_model_sees(bundle: Path) -> None:
    support, images = read_support(bundle / FILE), data("eight.support")
    assert support.classes == KNOWN
    names = [images.classes[label] for label in images.labels]
    assert [support.classes[label] for label in support.labels] == names
    expected = session_outputs(bundle, [images.image(index) for index in range(len(images))])["embedding"]
    np.testing.assert_array_equal(support.embeddings, expected)


def test_bundling_again_gives_the_same_bytes() -> None:
    again = digits_of_eight().run("bundle", "eight-bundle", again=True, model=quantized().id, support="eight.support")
    assert again.digest == made_bundle().digest


def test_record_pins_every_file_but_the_one_that_may_change(bundle: Path) -> None:
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["files"].keys() | {"bundle.json", "manifest.json", FILE} == {path.name for path in bundle.iterdir()}
    assert list(record["changeable"]) == [FILE]
    assert record["changeable"][FILE]["sha256_as_bundled"] == read_support(bundle / FILE).sha256
    assert "enroll.py" in (bundle / "README.md").read_text()
    assert "enroll.py" in record["licences"][0]


def test_five_images_make_a_class(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    tests = digit_files(tmp_path / "tests", "4", 40, role="others.test")
    old = data("eight.test")
    before = {one["labels"][0]["label"] for one in labels(bundle, *tests)}
    assert before <= set(KNOWN)
    start = getrusage(RUSAGE_CHILDREN)
    answer = json.loads(program(bundle, "enroll.py", "--json", "--class", "four", *fours).stdout)
    end = getrusage(RUSAGE_CHILDREN)
    assert end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime < 2  # seconds
    assert (answer["taken"], answer["classes"], answer["nearer_to"]) == (5, 9, {})
    assert answer["accuracy_before"]["value"] > 0.85
    assert answer["accuracy"]["value"] > 0.85
    assert answer["accuracy"]["optimistic"]  # the support is among what the perceptron was trained on
    assert not answer["accuracy_of_class"]["optimistic"]
    found = [one["labels"][0]["label"] for one in labels(bundle, *tests)]
    assert found.count("four") > 0.8 * len(found)
    folder = tmp_path / "old"
    folder.mkdir()
    for index in range(100):
        Image.fromarray(old.image(index)).save(folder / f"{index:03d}.png")
    kept = [one["labels"][0]["label"] for one in labels(bundle, folder)]
    assert np.mean([name == old.classes[label] for name, label in zip(kept, old.labels[:100], strict=True)]) > 0.8


def test_answers_are_those_of_edgevits_nearest_centroid(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    done(bundle, "--class", "four", *fours)
    support = read_support(bundle / FILE)
    features = support.embeddings.astype(np.float64)
    head = nearest_centroid(features, support.labels, 9, features.mean(0))
    tests = digit_files(tmp_path / "tests", "4", 12, role="others.test")
    queries = session_outputs(bundle, [np.asarray(Image.open(file)) for file in tests])["embedding"]
    logits = head.logits(queries.astype(np.float64))
    # Its direction; the scale is fitted to images left out of their own centre, too.
    logits *= np.abs(head_of(support).logits(queries)).max() / np.abs(logits).max()
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    for one, probabilities in zip(labels(bundle, "--top", 9, *tests), expected, strict=True):
        got = {label["label"]: label["confidence"] for label in one["labels"]}
        assert got == pytest.approx(dict(zip(support.classes, probabilities, strict=True)), abs=1e-5)


def test_before_a_change_and_after_it_is_undone_the_models_own_classifier_answers(
    bundle: Path, fours: list[Path], tmp_path: Path
) -> None:
    tests = digit_files(tmp_path / "tests", "9", 6)
    logits = session_outputs(bundle, [np.asarray(Image.open(file)) for file in tests])["logits"].astype(np.float64)
    expected = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).max(1)
    whole = (bundle / FILE).read_bytes()
    assert done(bundle, "--list")["by_model"]
    first = labels(bundle, *tests)
    assert [one["labels"][0]["confidence"] for one in first] == pytest.approx(expected, abs=1e-5)
    done(bundle, "--class", "four", *fours)
    changed = labels(bundle, *tests)
    assert [one["labels"] for one in changed] != [one["labels"] for one in first]
    assert not done(bundle, "--list")["by_model"]
    assert done(bundle, "--remove", "four")["by_model"]
    assert (bundle / FILE).read_bytes() == whole
    assert labels(bundle, *tests) == first


def test_a_class_of_the_model_can_be_removed(bundle: Path, tmp_path: Path) -> None:
    assert done(bundle, "--remove", "3")["classes"] == 7
    found = labels(bundle, *digit_files(tmp_path / "threes", "3", 10, role="eight.test"))
    assert all(one["labels"][0]["label"] != "3" for one in found)


def test_images_can_be_added_to_a_class_in_turns(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    other = copied_bundle(tmp_path / "other")
    assert done(bundle, "--class", "four", fours[0].parent)["images"] == 5
    status, said, _ = enrolling(other, "--class", "four", fours[0])
    assert status == 0
    assert "a single image, which cannot be checked" in said
    assert done(other, "--class", "four", "--add", *fours[1:])["images"] == 5
    assert (other / FILE).read_bytes() == (bundle / FILE).read_bytes()


def test_list_says_what_there_is(bundle: Path, fours: list[Path]) -> None:
    done(bundle, "--class", "four", *fours)
    listed = done(bundle, "--list")
    assert [one["class"] for one in listed["classes"]] == [*KNOWN, "four"]
    assert {one["images"] for one in listed["classes"]} == {5}
    _, printed, _ = enrolling(bundle, "--list")
    assert "four: 5 images" in printed
    assert f"cosine is below {listed['threshold']:.3f}" in printed


def test_unknown_is_what_is_far_from_every_class(bundle: Path, tmp_path: Path) -> None:
    threshold = done(bundle, "--list")["threshold"]
    nines = digit_files(tmp_path / "nines", "9", 40)
    known = digit_files(tmp_path / "known", "0", 40, role="eight.test")
    answers = labels(bundle, "--unknown", *nines, *known)
    assert all(one["unknown"] == (one["cosine"] < threshold) for one in answers)
    far, near = ([one["unknown"] for one in part] for part in (answers[:40], answers[40:]))
    assert np.mean(far) > np.mean(near) + 0.2
    lines = program(bundle, "infer.py", "--unknown", *nines).stdout.splitlines()
    assert sum(": unknown (cosine" in line for line in lines) == sum(far)
    assert ": unknown" not in program(bundle, "infer.py", *nines).stdout


def test_verify_knows_the_file_that_changes(bundle: Path, fours: list[Path]) -> None:
    done(bundle, "--class", "four", *fours)
    assert program(bundle, "infer.py", "--verify").returncode == 0
    content = bytearray((bundle / FILE).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / FILE).write_bytes(content)
    for arguments in (("infer.py", "--verify"), ("infer.py", fours[0]), ("enroll.py", "--list")):
        answer = program(bundle, *arguments)
        assert answer.returncode == 2
        assert FILE in answer.stderr
        assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("3", "has a class '3' already"),
        ("", "not a valid class name"),
        ("  ", "not a valid class name"),
        ("two\nlines", "not a valid class name"),
        ("\x1b[31mred", "not a valid class name"),
        ("unknown", "not a valid class name"),
    ],
)
def test_names_that_cannot_be_are_refused(bundle: Path, fours: list[Path], name: str, said: str) -> None:
    assert said in refused(bundle, f"--class={name}", *fours)


@pytest.mark.parametrize("name", ["naïve <cat>", "-dash", "汉字", "a/b", "../up"])
def test_odd_names_are_names(bundle: Path, fours: list[Path], name: str) -> None:
    assert done(bundle, f"--class={name}", *fours)["class"] == name
    assert labels(bundle, fours[0])[0]["labels"][0]["label"] == name


def test_a_name_is_the_same_in_each_of_its_forms(bundle: Path, fours: list[Path]) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert done(bundle, "--class", decomposed, *fours[:3])["class"] == composed
    assert done(bundle, "--class", composed, "--add", *fours[3:])["images"] == len(fours)
    assert done(bundle, "--remove", decomposed)["class"] == composed


def test_same_image_twice_is_refused(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    Image.open(fours[1]).save(tmp_path / "copy.bmp")
    assert "is the same image as" in refused(bundle, "--class", "four", *fours, tmp_path / "copy.bmp")
    done(bundle, "--class", "four", *fours)
    assert "is already an image of 'four'" in refused(bundle, "--class", "quatre", *fours)


def test_unreadable_images_are_refused(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff but no more")
    (tmp_path / "empty").mkdir()
    assert "broken.jpg" in refused(bundle, "--class", "four", *fours, tmp_path / "broken.jpg")
    assert "missing.png" in refused(bundle, "--class", "four", tmp_path / "missing.png")
    assert "no images" in refused(bundle, "--class", "four", tmp_path / "empty")


def test_a_class_that_looks_like_others_is_refused_unless_forced(bundle: Path, tmp_path: Path) -> None:
    mixed = [file for label in "0123" for file in digit_files(tmp_path / "mixed", label, 2, role="eight.test")]
    said = refused(bundle, "--class", "mixed", *mixed, status=1)
    assert "'mixed' cannot be told from the other classes" in said
    assert "of 8 images are nearer to another class" in said
    assert "--force" in said
    answer = done(bundle, "--class", "mixed", "--force", *mixed)
    assert sum(answer["nearer_to"].values()) > 4


def test_wrong_removals_are_refused(bundle: Path) -> None:
    assert "there is no class '4'" in refused(bundle, "--remove", "4")
    for name in KNOWN[2:]:
        done(bundle, "--remove", name)
    assert "and one would be left" in refused(bundle, "--remove", "0")


@pytest.mark.parametrize(
    "arguments", [[], ["--class", "four"], ["--remove", "3", "x.png"], ["--list", "--remove", "3"]]
)
def test_wrong_calls_are_explained(bundle: Path, arguments: list[str]) -> None:
    assert "usage:" in refused(bundle, *arguments)


def test_classes_of_another_model_are_refused(bundle: Path, fours: list[Path]) -> None:
    write_support(replace(read_support(bundle / FILE), model="0" * 64), bundle / FILE)
    assert "is of another model" in refused(bundle, "--class", "four", *fours)


def test_missing_classes_are_refused(bundle: Path, fours: list[Path]) -> None:
    (bundle / FILE).unlink()
    assert "missing from the bundle" in refused(bundle, "--class", "four", *fours)


def test_a_stored_result_is_not_changed(fours: list[Path]) -> None:
    store = made_bundle().path
    assert store.parent.parent == digits_of_eight().store.root
    folder = store.parent.parent.parent / ".store" / "key"
    shutil.copytree(store, folder / "digest")
    try:
        said = refused(folder / "digest", "--class", "four", *fours)
        assert "runs/NAME/ID" in said
        assert "cp -rL" in said
    finally:
        shutil.rmtree(folder.parent)


def test_a_run_shows_a_copy_and_keeps_what_was_enrolled(fours: list[Path], tmp_path: Path) -> None:
    shown = tmp_path / "runs" / "recipe" / "bundle"
    before = made_bundle().file(FILE).read_bytes()
    for _ in range(2):
        _show(made_bundle(), shown.parent, shown.name)
        if "four" not in read_support(shown / FILE).classes:
            done(shown, "--class", "four", *fours)
    assert "four" in read_support(shown / FILE).classes
    assert made_bundle().file(FILE).read_bytes() == before
    assert [path.name for path in shown.parent.iterdir()] == ["bundle"]


@pytest.mark.parametrize(("owner", "step"), [(shutil, "copytree"), (Path, "rename")])
def test_two_runs_may_show_a_bundle_at_once(owner: Any, step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The other one is done with it just before this one copies, or moves its copy into place."""
    shown, act, copytree = tmp_path / "run" / "bundle", getattr(owner, step), shutil.copytree

    def after_the_other(*arguments: Any) -> Any:
        copytree(made_bundle().path, shown)
        return act(*arguments)

    monkeypatch.setattr(owner, step, after_the_other)
    _show(made_bundle(), shown.parent, shown.name)
    assert [path.name for path in shown.parent.iterdir()] == ["bundle"]
    assert (shown / FILE).read_bytes() == made_bundle().file(FILE).read_bytes()


LOOP = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import enroll
print("ready", flush=True)
while True:
    enroll.enroll(Path(sys.argv[1]), "four", [Path(name) for name in sys.argv[2:]])
    enroll.remove(Path(sys.argv[1]), "four")
"""


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_classes(bundle: Path, fours: list[Path]) -> None:
    before = read_support(bundle / FILE)
    done(bundle, "--class", "four", *fours)
    after = read_support(bundle / FILE)
    done(bundle, "--remove", "four")
    found = []
    for number in range(8):
        command = [sys.executable, "-B", "-c", LOOP, str(bundle), *map(str, fours)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
            assert running.stdout
            assert running.stdout.readline() == "ready\n"
            time.sleep(random.Random(number).uniform(0.005, 0.12))
            running.send_signal(signal.SIGKILL)
        found.append(read_support(bundle / FILE).sha256)
        assert found[-1] in (before.sha256, after.sha256)
        if found[-1] == after.sha256:
            done(bundle, "--remove", "four")
    assert labels(bundle, fours[0])


def test_two_at_a_time_both_count(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    nines = digit_files(tmp_path / "nines", "9", 5)
    commands = [
        [sys.executable, "-B", str(bundle / "enroll.py"), "--force", "--class", name, *map(str, files)]
        for name, files in (("four", fours), ("nine", nines))
    ]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in commands]
    assert [one.wait() for one in running] == [0, 0]
    assert set(read_support(bundle / FILE).classes) == {*KNOWN, "four", "nine"}


# From edgevit --------------------------------------------------------------------------------------------------


def edgevit(*arguments: object, status: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(one) for one in arguments])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return answer.stdout


def test_edgevit_enrolls_and_predicts_as_the_bundle_does(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    other = copied_bundle(tmp_path / "other")
    assert "four: 5 images added" in edgevit("enroll", bundle, "--class", "four", *fours)
    done(other, "--class", "four", *fours)
    assert (bundle / FILE).read_bytes() == (other / FILE).read_bytes()
    tests = digit_files(tmp_path / "tests", "4", 10, role="others.test")
    predicted = json.loads(edgevit("predict", bundle, *tests, "--top", 2, "--json"))
    for one, other_answer in zip(predicted, labels(bundle, "--top", 2, *tests), strict=True):
        assert [label["label"] for label in one["labels"]] == [label["label"] for label in other_answer["labels"]]
    assert "four: 5 images" in edgevit("enroll", bundle, "--list")
    edgevit("enroll", bundle, "--remove", "four")
    assert classes_since(bundle) is None


def test_edgevit_runs_no_code_of_the_bundle(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    for name in ("infer.py", "preprocess.py", "enroll.py", "prototypes.py"):
        (bundle / name).write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    edgevit("enroll", bundle, "--class", "four", *fours)
    assert not (tmp_path / "ran").exists()


def test_edgevits_errors_keep_their_words_and_status(bundle: Path, fours: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="already"):
        edgevit("enroll", bundle, "--class", "3", *fours)
    mixed = [file for label in "0123" for file in digit_files(tmp_path / "mixed", label, 2, role="eight.test")]
    with pytest.raises(CheckFailed, match="cannot be told from"):
        edgevit("enroll", bundle, "--class", "mixed", *mixed)
    with pytest.raises(ArtifactError, match="no bundle here"):
        enroll(tmp_path, ["--list"])
    for arguments in ([], ["--class", "x"], ["--list", "--remove", "3"], [*fours]):
        edgevit("enroll", bundle, *arguments, status=2)


def test_other_commands_say_that_they_use_the_models_own_classes(bundle: Path, fours: list[Path]) -> None:
    done(bundle, "--class", "four", *fours)
    said = Said()
    with single_stages(Context(progress=said)) as stages:
        assert stages.model(bundle).io.classes == KNOWN
    assert "9 classes" in said.lines[0]
    assert "own 8" in said.lines[0]


def test_a_plain_bundle_takes_no_classes(tmp_path: Path, fours: list[Path]) -> None:
    (tmp_path / "plain").mkdir()
    write_bundle(small_model(tmp_path / "model"), tmp_path / "plain")
    with pytest.raises(ArtifactError, match="takes no classes") as caught:
        enroll(tmp_path / "plain", ["--class", "four", *map(str, fours)])
    assert "embedding: true" in str(caught.value)
    answer = program(tmp_path / "plain", "infer.py", "--unknown", fours[0])
    assert answer.returncode == 2
    assert "--unknown needs a classes.npz" in answer.stderr


def test_the_command_bundles_with_a_folder_of_classes(fours: list[Path], tmp_path: Path) -> None:
    for label in KNOWN:
        digit_files(tmp_path / "support" / label, label, 3, role="eight.train")
    file, out = quantized().file("model.onnx"), tmp_path / "bundle"
    edgevit("bundle", file, "--out", out, "--support", tmp_path / "support")
    assert {one["images"] for one in done(out, "--list")["classes"]} == {3}
    assert "four: 5 images added; 9 classes" in edgevit("enroll", out, "--class", "four", fours[0].parent)


def test_a_model_without_class_names_gets_those_of_the_folder(tmp_path: Path) -> None:
    names = [f"digit {label}" for label in KNOWN]
    for label, name in zip(KNOWN, names, strict=True):
        digit_files(tmp_path / "support" / name, label, 3, role="eight.train")
    file, out = tmp_path / "model.onnx", tmp_path / "bundle"
    unnamed = quantized().io.model_copy(update={"classes": tuple(map(str, range(len(KNOWN))))})
    write_onnx(read_onnx(quantized().file("model.onnx")), file, unnamed, quantized().model_file.options)
    edgevit("bundle", file, "--out", out, "--support", tmp_path / "support")
    assert (out / "labels.txt").read_text().splitlines() == names
    assert json.loads((out / "iospec.json").read_text())["classes"] == names
    assert [one["class"] for one in done(out, "--list")["classes"]] == names
    image = digit_files(tmp_path, "3", 1, role="eight.train")[0]
    said = json.loads(program(out, "infer.py", "--json", image).stdout)["labels"][0]["label"]
    assert said == "digit 3"
    assert json.loads(edgevit("predict", out, image, "--json"))[0]["labels"][0]["label"] == said


# Bundling ------------------------------------------------------------------------------------------------------


def test_support_needs_an_embedding(tmp_path: Path) -> None:
    bench = digits_of_eight()
    bench.made["plain"] = small_model(tmp_path / "model", classes=KNOWN)
    with pytest.raises(ArtifactError, match="has no embedding output") as caught:
        bench.run("bundle", "no-embedding", model="plain", support="eight.support")
    assert "embedding: true" in str(caught.value)


@pytest.mark.parametrize(
    ("support", "said"),
    [
        ("eight.pool", "need labelled images"),
        ("others.train", "the model lacks 2 of the 2 classes"),
        ("three.train", "the support set lacks classes"),
    ],
)
def test_support_has_to_fit_the_model(support: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        digits_of_eight().run("bundle", "unfit", model=quantized().id, support=support)


def test_support_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "LARGEST_FILE", 4 * 64 * 39)
    with pytest.raises(DataError, match="too many images") as caught:
        write_bundle(quantized(), tmp_path, ClassImages(data("eight.support")))
    assert "at most 39" in str(caught.value)


def test_support_is_matched_by_name(tmp_path: Path) -> None:
    images = data("eight.support")
    order = np.random.default_rng(0).permutation(len(KNOWN))
    renumbered = replace(images, classes=tuple(KNOWN[i] for i in order), labels=np.argsort(order)[images.labels])
    write_bundle(quantized(), tmp_path, ClassImages(renumbered))
    check_bundle(quantized(), tmp_path, tmp_path)
    assert read_support(tmp_path / FILE).sha256 == read_support(made_bundle().file(FILE)).sha256


def test_notes_of_enroll_are_said(tmp_path: Path):
    """A file beside the images that is no image: it is passed over, and the note reaches the user."""

    class Heard(SilentProgress):
        lines: list[str] = []

        def say(self, line: str) -> None:
            self.lines.append(line)

    bundle = copied_bundle(tmp_path / "bundle")
    digit_files(tmp_path / "fours", "4", 5)
    (tmp_path / "fours" / "notes.txt").write_text("no image")
    enroll(bundle, ["--class", "four", str(tmp_path / "fours")], heard := Heard())
    assert heard.lines == [f"note: {tmp_path / 'fours'}: 1 files of other types (.txt 1) are passed over: notes.txt"]
