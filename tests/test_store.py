"""The store: what decides a key, what is published, and what is never taken for whole."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevit.artifacts import (
    MANIFEST,
    Artifact,
    Contents,
    InputRef,
    ancestors,
    canonical_json,
    manifest_text,
    read_manifest,
    sha256_of,
)
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
        return Contents(kind=config.kind({}), logs=("log.txt",), log_metrics={"seconds": time.time()})

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
    with pytest.raises(RecipeError, match="there is no file for 'weights' of stage 'teacher'"):
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


@pytest.mark.parametrize("text", ["", "{", "[]", '{"kind": "onnx"}', '{"schema_version": 2}', '{"schema_version": 3}'])
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
    assert said == ["    waiting for another run, which is making this"]


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
    assert read_manifest(artifact.path / MANIFEST) == artifact.manifest


FLIPS = 100


def flipped(content: bytes, bit: int) -> bytes:
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def assert_noticed(artifact: Artifact, store: Store, content: bytes) -> None:
    """An altered manifest is no artifact, by its folder or by its key."""
    (artifact.path / MANIFEST).write_bytes(content)
    with pytest.raises(ArtifactError):
        Artifact.load(artifact.path)
    said: list[str] = []
    assert store.find(artifact.manifest.key, said.append) is None
    assert "it is made again" in said[0]


def assert_flips_are_noticed(folder: Path, seed: int, flips: int) -> None:
    store = Store(folder)
    artifact = made(store)
    content = (artifact.path / MANIFEST).read_bytes()
    for bit in random.Random(seed).sample(range(8 * len(content)), flips):
        changed = flipped(content, bit)
        if is_other_json(changed, content):
            assert_noticed(artifact, store, changed)
    assert made(store).digest == artifact.digest


def is_other_json(changed: bytes, content: bytes) -> bool:
    """False for a flip from one kind of white space to another."""
    try:
        return bool(json.loads(changed) != json.loads(content))
    except ValueError:
        return True


def test_a_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path) -> None:
    assert_flips_are_noticed(tmp_path, 0, FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_any_flipped_bit_of_a_manifest_is_noticed(tmp_path: Path, seed: int) -> None:
    assert_flips_are_noticed(tmp_path, seed, 5 * FLIPS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seconds": ', '"seconds": 1'),
        ('"seconds": ', '"seconds": 1e999, "was": '),
        ('"seconds": ', '"seconds": NaN, "was": '),
        ('"stage_version": ', '"stage_version": ' + "9" * 5000),
        ('"stage_version": ', '"stage_version": ' + "[" * 100_000),
        ('"schema_version": 3', '"schema_version": 1'),
        ('"schema_version": 3', '"schema_version": 2'),
        ('"sha256": "', '"sha256": "0'),
        ('"kind": "checkpoint"', '"kind": "onnx"'),
    ],
    ids=lambda text: text[-25:],
)
def test_an_altered_manifest_is_made_again(tmp_path: Path, old: str, new: str) -> None:
    store = Store(tmp_path)
    artifact = made(store)
    text = (artifact.path / MANIFEST).read_text()
    assert old in text
    assert_noticed(artifact, store, text.replace(old, new).encode())
    assert made(store).digest == artifact.digest
    assert store.find(artifact.manifest.key) is not None


def test_a_manifest_without_its_hash_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = made(store)
    fields = json.loads((artifact.path / MANIFEST).read_text())
    del fields["sha256"]
    assert_noticed(artifact, store, json.dumps(fields).encode())


def test_results_of_older_versions_stay_finished(tmp_path: Path) -> None:
    """Their manifests have schema version 1 and no hash."""
    store = Store(tmp_path)
    artifact = made(store)
    fields = json.loads((artifact.path / MANIFEST).read_text())
    del fields["sha256"], fields["model_file"]
    old = json.dumps({**fields, "schema_version": 1, "session_options": {}})
    (artifact.path / MANIFEST).write_text(old)
    assert store.find(artifact.manifest.key) == artifact
    (artifact.path / MANIFEST).write_text(old.replace('"seconds": ', '"seconds": 1e999, "a": '))
    assert store.find(artifact.manifest.key) is None


def test_swapped_results_are_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    other = LOAD.model_copy(update={"model": "resnet34"})
    one, two = made(store, text="one"), made(store, other, text="two")
    homes = [artifact.path.parent for artifact in (one, two)]
    homes[0].rename(tmp_path / "away")
    homes[1].rename(homes[0])
    (tmp_path / "away").rename(homes[1])
    said: list[str] = []
    assert [store.find(artifact.manifest.key, said.append) for artifact in (one, two)] == [None, None]
    assert "this is the result of another stage" in said[0]
    assert made(store, text="one").file("model.txt").read_text() == "one"
    assert made(store, other, text="two").file("model.txt").read_text() == "two"


def test_a_result_under_another_digest_is_made_again(tmp_path: Path) -> None:
    store = Store(tmp_path)
    artifact = made(store)
    (artifact.path.parent / "current").unlink()
    (artifact.path.parent / "current").symlink_to("other")
    artifact.path.rename(artifact.path.with_name("other"))
    assert store.find(artifact.manifest.key) is None
    assert made(store).path == artifact.path


def with_inputs(store: Store, artifact: Artifact, inputs: dict[str, InputRef]) -> None:
    """Write other inputs into a manifest, whose hash is right."""
    manifest = artifact.manifest.model_copy(update={"inputs": inputs})
    (artifact.path / MANIFEST).write_text(manifest_text(manifest))


@pytest.mark.parametrize("length", [1, 2, 1200])
def test_inputs_that_lead_back_are_an_error(tmp_path: Path, length: int) -> None:
    store = Store(tmp_path)
    first = made(store)
    chain = [
        first.ref().model_copy(update={"key": f"{number:040x}", "digest": f"{number:040x}"}) for number in range(length)
    ]
    for ref, behind in zip(chain, [*chain[1:], chain[0]], strict=True):
        folder = tmp_path / ref.key / ref.digest
        folder.mkdir(parents=True)
        with_inputs(
            store,
            Artifact(folder, first.manifest.model_copy(update={"key": ref.key, "digest": ref.digest})),
            {"model": behind},
        )
    with pytest.raises(ArtifactError, match="its inputs lead back to itself"):
        ancestors(Artifact.load(tmp_path / chain[0].key / chain[0].digest))


def test_inputs_outside_of_the_store_are_not_read(tmp_path: Path) -> None:
    outside, store = made(Store(tmp_path / "outside")), Store(tmp_path / "store")
    artifact = made(store)
    ref = outside.ref().model_copy(update={"key": f"../outside/{outside.manifest.key}"})
    with_inputs(store, artifact, {"model": ref})
    with pytest.raises(ArtifactError, match="another stage"):
        ancestors(Artifact.load(artifact.path))


@pytest.mark.parametrize(
    "place", ["lock", "lock/KEY", "work", "work/KEY", "work/KEY/last.pt", "tmp", "KEY", "cache/a/b"]
)
def test_nothing_is_written_through_a_link_in_a_store(tmp_path: Path, place: str) -> None:
    store, victim = Store(tmp_path / "store"), tmp_path / "victim"
    key = store.key(ingredients(LOAD, {}, None, None))
    if place.endswith(("lock/KEY", "last.pt", "b")):
        victim.write_text("kept")
    else:
        victim.mkdir()
    link = store.root / place.replace("KEY", key)
    link.parent.mkdir(parents=True)
    link.symlink_to(victim)
    with pytest.raises(ArtifactError, match="the store contains a link or a device"):
        made(store)
    assert victim.read_text() == "kept" if victim.is_file() else not [*victim.iterdir()]


def test_a_store_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".store").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match="the store contains a link or a device"):
        Store(tmp_path / ".store")


def test_a_pipe_in_a_work_folder_is_an_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    work = tmp_path / "work" / store.key(ingredients(LOAD, {}, None, None))
    work.mkdir(parents=True)
    os.mkfifo(work / "last.pt")
    with pytest.raises(ArtifactError, match="a link or a device"):
        made(store)
