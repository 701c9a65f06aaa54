"""The store: what decides a key, what is published, and what is never taken for whole."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import MANIFEST, Artifact, Contents, Manifest, ancestors, canonical_json, sha256_of
from edgevit.configs import Evaluate, Export, Load
from edgevit.errors import ArtifactError, RecipeError
from edgevit.store import Store, changed_fields, ingredients

LOAD = Load(stage="load", id="teacher", model="resnet18")


def made(
    store: Store, config: Any = LOAD, text: str = "weights", inputs: dict[str, Artifact] | None = None, **how: Any
) -> Artifact:
    inputs = inputs or {}

    def write(out: Path, work: Path) -> Contents:
        (out / "model.txt").write_text(text)
        (out / "log.txt").write_text(str(time.time_ns()))
        return Contents(kind=config.makes, logs=("log.txt",), log_metrics={"seconds": time.time()})

    return store.make(config, inputs, ingredients(config, inputs, None, None), write, **how)


def test_what_was_made_is_found_and_not_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = made(store)
    assert made(store, text="other").path == first.path
    assert store.find(first.manifest.key) == first
    assert first.file("model.txt").read_text() == "weights"
    assert not (tmp_path / "work" / first.manifest.key).exists()
    assert not any((tmp_path / "tmp").iterdir())


def test_the_digest_is_of_content_and_not_of_logs(tmp_path: Path) -> None:
    one, two, other = (made(Store(tmp_path / name), text=text) for name, text in (("a", "x"), ("b", "x"), ("c", "y")))
    assert one.digest == two.digest != other.digest
    assert one.manifest.key == other.manifest.key


def test_making_again_replaces_current(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = made(store)
    again = made(store, text="better", again=True)
    assert again.digest != first.digest
    assert store.find(first.manifest.key) == again
    assert made(store, text="better", again=True).path == again.path


def test_an_altered_file_is_refused(tmp_path: Path) -> None:
    artifact = made(Store(tmp_path))
    (artifact.path / "model.txt").write_text("weightz")
    with pytest.raises(ArtifactError, match="altered") as caught:
        Artifact.load(artifact.path).file("model.txt")
    assert "--fresh teacher" in str(caught.value)


def test_a_truncated_or_missing_file_is_a_miss(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = made(store)
    (artifact.path / "model.txt").write_text("we")
    assert store.find(artifact.manifest.key) is None
    assert made(store).file("model.txt").read_text() == "weights"


def test_a_failed_stage_leaves_nothing_finished(tmp_path: Path) -> None:
    store = Store(tmp_path)

    def write(out: Path, work: Path) -> Contents:
        (out / "half").write_text("half")
        raise OSError(28, "No space left on device")

    parts = ingredients(LOAD, {}, None, None)
    with pytest.raises(OSError, match="space"):
        store.make(LOAD, {}, parts, write)
    assert store.find(store.key(parts)) is None
    assert sorted(made(store).manifest.files) == ["log.txt", "model.txt"]


def test_keys_follow_content_and_not_names(tmp_path: Path) -> None:
    store = Store(tmp_path)
    teacher = made(store)
    renamed = made(Store(tmp_path / "other"), Load(stage="load", id="backbone", model="resnet18"))
    one = ingredients(Export(stage="export", id="a", model="teacher"), {"model": teacher}, None, None)
    two = ingredients(Export(stage="export", id="b", model="backbone"), {"model": renamed}, None, None)
    assert one == two
    changed = made(Store(tmp_path / "third"), text="other weights")
    three = ingredients(Export(stage="export", id="a", model="teacher"), {"model": changed}, None, None)
    assert changed_fields(one, three) == ["model: its content changed"]
    four = ingredients(Export(stage="export", id="a", model="teacher", opset=18), {"model": teacher}, None, None)
    assert changed_fields(one, four) == ["opset: 20 → 18"]


def test_the_content_of_a_weights_file_enters_the_key(tmp_path: Path) -> None:
    file = tmp_path / "w.safetensors"
    file.write_bytes(b"one")
    config = Load(stage="load", id="teacher", model="resnet18", weights=str(file))
    before = ingredients(config, {}, None, None)
    file.write_bytes(b"two")
    assert changed_fields(before, ingredients(config, {}, None, None)) == ["weights: its content changed"]
    file.unlink()
    with pytest.raises(RecipeError, match="'weights' of stage 'teacher' is no file"):
        ingredients(config, {}, None, None)


def test_the_target_enters_the_key_of_a_measurement(tmp_path: Path) -> None:
    config = Evaluate(stage="evaluate", id="e", model="m", data="d")
    model = {"model": made(Store(tmp_path)), "data": made(Store(tmp_path))}
    one = ingredients(config, model, {"cpu": "a"}, None)
    assert changed_fields(one, ingredients(config, model, {"cpu": "b"}, None)) == ["target.cpu: a → b"]


def test_ancestors_come_before_their_children(tmp_path: Path) -> None:
    store = Store(tmp_path)
    teacher = made(store)
    onnx = made(store, Export(stage="export", id="onnx", model="teacher"), "graph", {"model": teacher})
    assert [one.id for one in ancestors(onnx)] == ["teacher", "onnx"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "onnx"}', '{"schema_version": 2}'])
def test_a_broken_manifest_is_no_artifact(tmp_path: Path, text: str) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(ArtifactError):
        Artifact.load(tmp_path)


def test_a_link_left_by_a_stage_is_refused(tmp_path: Path) -> None:
    def write(out: Path, work: Path) -> Contents:
        (out / "link").symlink_to("/etc/hostname")
        return Contents(kind="checkpoint")

    with pytest.raises(ArtifactError, match="link"):
        Store(tmp_path).make(LOAD, {}, ingredients(LOAD, {}, None, None), write)


def _make_slowly(root: Path, log: Path) -> None:
    def write(out: Path, work: Path) -> Contents:
        with log.open("a") as file:
            file.write("made\n")
        time.sleep(0.3)
        (out / "model.txt").write_text("weights")
        return Contents(kind="checkpoint")

    Store(root).make(LOAD, {}, ingredients(LOAD, {}, None, None), write)


def test_two_processes_make_a_key_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    both = [spawn.Process(target=_make_slowly, args=(tmp_path, tmp_path / "log")) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "log").read_text() == "made\n"


def test_who_waits_for_another_run_says_so(tmp_path: Path) -> None:
    store, waits, said = Store(tmp_path), threading.Event(), list[str]()

    def write(out: Path, work: Path) -> Contents:
        began.set()
        assert waits.wait(10)
        return Contents(kind="checkpoint")

    def say(line: str) -> None:
        said.append(line)
        waits.set()

    began = threading.Event()
    first = threading.Thread(target=store.make, args=(LOAD, {}, ingredients(LOAD, {}, None, None), write))
    first.start()
    assert began.wait(10)
    made(store, say=say)
    first.join()
    assert said == ["    another run is making this: waiting for it"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), values, max_size=4))
def test_canonical_json_does_not_depend_on_order(value: dict[str, Any]) -> None:
    turned = dict(reversed(value.items()))
    assert canonical_json(value) == canonical_json(turned)
    assert json.loads(canonical_json(value)) == value
    assert sha256_of(value) == sha256_of(turned)
    assert changed_fields(value, turned) == []


def test_a_manifest_survives_its_file(tmp_path: Path) -> None:
    artifact = made(Store(tmp_path))
    text = (artifact.path / MANIFEST).read_text()
    assert Manifest.model_validate_json(text) == artifact.manifest
