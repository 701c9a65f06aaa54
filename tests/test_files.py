"""Commands on plain files, one after the other as a user would, and the recipe that init writes."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image
from typer.testing import CliRunner

from edgevit.artifacts import sha256_of_file
from edgevit.cli import app
from edgevit.configs import Digits
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.errors import DataError, EdgevitError, RecipeError
from edgevit.graphs.files import artifact_from_onnx, read_onnx, write_onnx
from edgevit.graphs.metadata import TensorRanges, trained_ranges_in
from edgevit.recipe import load_recipe
from tests.graphs.test_files import with_constant_nodes
from tests.graphs.test_outputs import classifier


def run(*arguments: object, status: int = 0) -> str:
    answer = CliRunner().invoke(app, [str(one) for one in arguments])
    if answer.exception is not None and not isinstance(answer.exception, SystemExit):
        raise answer.exception
    assert answer.exit_code == status, answer.output
    return answer.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/test/CLASS/*.png of three digits, and the files that the commands make of a small model."""
    folder = tmp_path_factory.mktemp("files")
    config = Digits(source="digits", include_classes=("0", "1", "2"))
    digits = open_dataset(dataset_artifacts({"digits": config}, folder, ["digits.test"])["digits.test"])
    assert digits.labels is not None
    for index in range(60):
        home = folder / "photos" / "test" / digits.classes[digits.labels[index]]
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(index)).save(home / f"{index}.png")
    model = ("--model", "test_efficientnet", "--image-size", 64, "--classes", 3)
    run("export", *model, "--out", folder / "float.onnx")
    calibrated = ("--calibration", folder / "photos", "--placement", "all")
    run("quantize", folder / "float.onnx", *calibrated, "--out", folder / "int8.onnx")
    return folder


def test_exporting_twice_gives_the_same_file(folder: Path, tmp_path: Path) -> None:
    run("export", "--model", "test_efficientnet", "--image-size", 64, "--classes", 3, "--out", tmp_path / "again.onnx")
    assert sha256_of_file(tmp_path / "again.onnx") == sha256_of_file(folder / "float.onnx")


def test_where_pretrained_weights_cannot_be_fetched_the_option_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    with pytest.raises(EdgevitError, match="cannot be fetched") as caught:
        run("export", "--model", "tiny_vit_5m_224", "--pretrained", "--out", tmp_path / "m.onnx")
    assert "--weights" in str(caught.value)


def test_a_file_of_labels_names_the_classes(folder: Path, tmp_path: Path) -> None:
    labels, out = tmp_path / "labels.txt", tmp_path / "named.onnx"
    labels.write_text("café\nbar\npub\n", encoding="utf-8")
    model = ("export", "--model", "test_efficientnet", "--image-size", 64, "--labels", labels, "--out", out)
    run(*model, "--classes", 3)
    assert artifact_from_onnx(out).io.classes == ("café", "bar", "pub")
    out.unlink()
    for text, says in (
        ("café\nbar\n", "number of names is not the model's number"),
        ("café\nbar\nbar\n", "two classes have the same name"),
        ("", "number of names is not the model's number"),
    ):
        labels.write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=says) as caught:
            run(*model, "--classes", 3)
        assert "labels.txt" in str(caught.value)
    labels.write_bytes("café".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8 text"):
        run(*model, "--classes", 3)
    assert not out.exists()


def test_a_quantized_file_is_smaller(folder: Path) -> None:
    assert (folder / "int8.onnx").stat().st_size < 0.5 * (folder / "float.onnx").stat().st_size


def test_a_file_from_elsewhere_is_described(folder: Path, tmp_path: Path) -> None:
    foreign, out, names = tmp_path / "own.onnx", tmp_path / "described.onnx", tmp_path / "names.txt"
    model = onnx.load(folder / "float.onnx")
    del model.metadata_props[:]
    onnx.save_model(model, foreign)
    names.write_text("nought\none\ntwo\n")
    said = CliRunner().invoke(app, ["predict", str(foreign), str(folder / "photos")]).stderr
    assert "does not say how images are prepared: ImageNet's mean and standard deviation are assumed" in " ".join(
        said.split()
    )
    run("describe", foreign, "--mean", 0.5, 0.5, 0.5, "--resize", "squash", "--labels", names, "--out", out)
    io, before = artifact_from_onnx(out).io, artifact_from_onnx(folder / "float.onnx").io
    assert io.preprocess == before.preprocess.model_copy(update={"mean": (0.5, 0.5, 0.5), "resize": "squash"})
    assert io.classes == ("nought", "one", "two")
    answer = CliRunner().invoke(app, ["predict", str(out), str(folder / "photos"), "--json"])
    assert "does not say" not in answer.stderr
    assert {one["labels"][0]["label"] for one in json.loads(answer.stdout)} <= set(io.classes)
    run("describe", out, "--std", 1, 1, 1, "--out", tmp_path / "again.onnx")
    assert artifact_from_onnx(tmp_path / "again.onnx").io.preprocess.std == (1, 1, 1)
    ranges = TensorRanges(runtime="onnxruntime", tensors={"image": (-1.0, 2.0)})
    write_onnx(read_onnx(out), tmp_path / "ranges.onnx", io, None, ranges)
    run("describe", tmp_path / "ranges.onnx", "--std", 1, 1, 1, "--out", tmp_path / "kept.onnx")
    assert trained_ranges_in(read_onnx(tmp_path / "kept.onnx"), "kept") == ranges
    run("describe", foreign, "--std", 0, 1, 1, "--out", tmp_path / "wrong.onnx", status=2)
    with pytest.raises(EdgevitError, match="Did you mean 'squash'"):
        run("describe", foreign, "--resize", "squish", "--out", tmp_path / "wrong.onnx")
    assert not (tmp_path / "wrong.onnx").exists()


def test_weights_in_constant_nodes_are_quantized_too(folder: Path, tmp_path: Path) -> None:
    onnx.save(with_constant_nodes(onnx.load(folder / "float.onnx")), tmp_path / "float.onnx")
    calibrated = ("--calibration", folder / "photos", "--placement", "all")
    run("quantize", tmp_path / "float.onnx", *calibrated, "--out", tmp_path / "int8.onnx")
    sizes = [(home / "int8.onnx").stat().st_size for home in (folder, tmp_path)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)


def test_quantize_says_what_labelled_images_lose(folder: Path, tmp_path: Path) -> None:
    home = folder / "photos" / "test"
    quantize = ("quantize", folder / "float.onnx", "--calibration", home, "--placement", "all", "--json")
    gate = ("--validation", home, "--max-top1-drop", 0.9)
    metrics = json.loads(run(*quantize, *gate, "--out", tmp_path / "int8.onnx"))["metrics"]
    top1 = [
        json.loads(run("evaluate", model, "--data", home, "--json"))["top1"]["value"]
        for model in (folder / "float.onnx", tmp_path / "int8.onnx")
    ]
    assert metrics["top1_drop"]["value"] == pytest.approx(top1[0] - top1[1], abs=1e-9)
    assert (metrics["top1_drop"]["n"], metrics["top1_drop"]["limit"]) == (60, 0.9)
    with pytest.raises(RecipeError, match="give them as 'validation'"):
        run(*quantize, "--max-top1-drop", 0.02, "--out", tmp_path / "other.onnx")
    with pytest.raises(DataError, match="no images in class folders"):
        run(*quantize, "--validation", home / "0", "--out", tmp_path / "other.onnx")
    assert not (tmp_path / "other.onnx").exists()


def test_quantize_says_so_where_the_float_model_ships(folder: Path, tmp_path: Path) -> None:
    """One small product: nothing that integers could speed up."""
    weight = np.random.default_rng(0).normal(size=(192, 3)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Flatten", ["x"], ["f"]), onnx.helper.make_node("MatMul", ["f", "w"], ["y"])],
        "linear",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1, 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1, 3])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, tmp_path / "float.onnx")
    calibrated = ("--calibration", folder / "photos")
    said = run("quantize", tmp_path / "float.onnx", *calibrated, "--out", tmp_path / "quantized.onnx")
    assert "this is the float model: no INT8 form was both faster and close enough" in said


def test_predict_says_of_an_empty_folder_what_lies_in_it_and_not_in_others(folder: Path, tmp_path: Path) -> None:
    for name in ("first", "empty"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").touch()
    shutil.copy(next((folder / "photos").rglob("*.png")), tmp_path / "first")
    with pytest.raises(DataError, match="no images in this folder") as caught:
        run("predict", folder / "float.onnx", tmp_path / "first", tmp_path / "empty")
    assert "empty.txt" in str(caught.value.got)
    assert "first.txt" not in str(caught.value.got)


def test_compile_evaluate_predict_and_bundle_agree(folder: Path, tmp_path: Path) -> None:
    run("compile", folder / "int8.onnx", "--out", tmp_path / "engine.onnx")
    answers = {}
    for name, model in (("file", folder / "int8.onnx"), ("engine", tmp_path / "engine.onnx")):
        answers[name] = json.loads(run("evaluate", model, "--data", folder / "photos", "--json"))["top1"]
    assert answers["file"] == answers["engine"]
    assert answers["file"]["n"] == 60
    run("bundle", folder / "int8.onnx", "--out", tmp_path / "bundle")
    predicted = [
        json.loads(run("predict", model, folder / "photos", "--json"))
        for model in (folder / "int8.onnx", tmp_path / "bundle")
    ]
    assert predicted[0] == predicted[1]
    assert len(predicted[0]) == 60


def test_an_image_that_cannot_be_read_costs_no_other_its_answer(folder: Path, tmp_path: Path) -> None:
    images = sorted((folder / "photos").rglob("*.png"))[:2]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    command = ["predict", folder / "int8.onnx", images[0], broken, "none.png", images[1], "--json"]
    answer = CliRunner().invoke(app, [str(one) for one in command])
    assert answer.exit_code == 2
    assert json.loads(answer.stdout) == json.loads(run("predict", folder / "int8.onnx", *images, "--json"))
    assert str(broken) in answer.stderr
    assert "none.png: there is no such file" in answer.stderr
    assert run("predict", folder / "int8.onnx", broken, status=2) == ""


def test_episodes_of_a_file(folder: Path) -> None:
    options = ("--protocol", "episodes", "--shots", 2, "--queries", 5, "--episodes", 4, "--methods", "ridge,auto")
    asked = ("evaluate", folder / "float.onnx", "--data", folder / "photos", *options)
    found = json.loads(run(*asked, "--json"))
    assert list(found["episodes"]) == ["ridge", "auto"]
    assert found["ways"] == 3
    shown = run(*asked)
    assert f"{found['episodes']['ridge']['value']:.2%}" in shown
    assert max(map(len, shown.splitlines())) <= 80
    with pytest.raises(EdgevitError, match="'shots' goes with protocol: episodes"):
        run("evaluate", folder / "float.onnx", "--data", folder / "photos", "--shots", 2)


def test_profile_and_compare(folder: Path) -> None:
    found = json.loads(run("profile", folder / "float.onnx", "--duration", 0.2, "--json"))
    assert 0 < found["latency_ms"]["p50_low"] <= found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    both = ("compare", folder / "float.onnx", folder / "float.onnx", "--data", folder / "photos", "--duration", 0.5)
    answer = json.loads(CliRunner().invoke(app, [str(one) for one in (*both, "--json")]).stdout)
    assert answer["speedup"]["low"] <= answer["speedup"]["value"] <= answer["speedup"]["high"]
    assert 0.5 < answer["speedup"]["value"] < 2  # the machine may be busy
    assert answer["top1_drop"]["value"] == 0


@pytest.mark.slow
def test_a_file_with_a_fixed_batch_runs_in_every_command(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "float.onnx")
    del model.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "four.onnx")
    image = next((folder / "photos").rglob("*.png"))
    whole, four = (
        json.loads(run("predict", one, image, "--json")) for one in (folder / "float.onnx", tmp_path / "four.onnx")
    )
    assert four[0]["labels"] == whole[0]["labels"]
    both = (tmp_path / "four.onnx", folder / "float.onnx", "--duration", 0.2)
    said = CliRunner().invoke(app, ["compare", *map(str, both)])
    assert said.exit_code in (0, 1)
    assert said.stdout.count("ms for 4 images") == 2
    assert "batch 4," in run("profile", tmp_path / "four.onnx", "--duration", 0.2)
    with pytest.raises(EdgevitError, match="fixed batch size") as caught:
        run("profile", tmp_path / "four.onnx", "--duration", 0.2, "--batch", 2)
    assert caught.value.expected == 4


def test_the_output_that_gives_the_classes_is_said_and_chosen(folder: Path, tmp_path: Path) -> None:
    two, out, names = tmp_path / "two.onnx", tmp_path / "described.onnx", tmp_path / "names.txt"
    onnx.save(classifier(outputs=(("features", 3), ("scores", 4))), two)
    said = CliRunner().invoke(app, ["predict", str(two), str(folder / "photos")]).stderr
    assert "output 'scores' is taken for the classes, not 'features'" in " ".join(said.split())
    names.write_text("red\ngreen\nblue\n")
    run("describe", two, "--output", "features", "--labels", names, "--out", out)
    assert artifact_from_onnx(out).io.outputs[0].name == "features"
    answers = json.loads(run("predict", out, folder / "photos", "--json"))
    assert {one["labels"][0]["label"] for one in answers} <= {"red", "green", "blue"}
    with pytest.raises(EdgevitError, match="no output 'logits'"):
        run("describe", two, "--output", "logits", "--out", tmp_path / "none.onnx")


def test_one_number_for_two_classes_in_a_bundle(folder: Path, tmp_path: Path) -> None:
    """predict and the bundle's own runner give what the file's sigmoid gives."""
    onnx.save(classifier("Sigmoid", classes=1), tmp_path / "one.onnx")
    image = next((folder / "photos").rglob("*.png"))
    run("bundle", tmp_path / "one.onnx", "--out", tmp_path / "bundle")
    command: list[Any] = [sys.executable, tmp_path / "bundle" / "infer.py", "--json", "--top", "2", image]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    found = json.loads(ran.stdout)
    expected = json.loads(run("predict", tmp_path / "one.onnx", image, "--top", 2, "--json"))
    assert [one["label"] for one in found["labels"]] == [one["label"] for one in expected[0]["labels"]]
    for one, other in zip(found["labels"], expected[0]["labels"], strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)
    assert sum(one["confidence"] for one in found["labels"]) == pytest.approx(1)


def test_a_bad_option_is_named(folder: Path) -> None:
    with pytest.raises(EdgevitError, match="--calibrator"):
        run("quantize", folder / "float.onnx", "--calibration", folder / "photos", "--out", "x", "--calibrator", "max")


def test_a_bundle_is_not_written_over(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(EdgevitError, match="already there"):
        run("bundle", folder / "int8.onnx", "--out", tmp_path)


def digest_or_none(path: Path) -> str | None:
    return sha256_of_file(path) if path.is_file() else None


def test_no_command_writes_over_what_it_reads(folder: Path, tmp_path: Path) -> None:
    model, weights = tmp_path / "m.onnx", tmp_path / "w.safetensors"
    for path, source in ((model, folder / "float.onnx"), (weights, folder / "int8.onnx")):
        path.write_bytes(source.read_bytes())
    (tmp_path / "link").symlink_to(tmp_path)
    run("bundle", model, "--out", tmp_path / "bundle")
    before = {path: digest_or_none(path) for path in tmp_path.rglob("*")}
    calibrated = ("--calibration", folder / "photos")
    for command in (
        ("quantize", model, *calibrated, "--out", tmp_path / "link" / "m.onnx"),
        ("compile", model, "--out", model),
        ("compile", tmp_path / "bundle", "--out", tmp_path / "bundle" / "model.onnx"),
        ("bundle", tmp_path / "bundle", "--out", tmp_path / "bundle" / "again"),
        ("export", "--model", "efficientvit_m0", "--weights", weights, "--out", weights),
        ("inspect", model, "--html", model),
    ):
        with pytest.raises(EdgevitError, match="overwrite its own input"):
            run(*command)
    assert {path: digest_or_none(path) for path in tmp_path.rglob("*")} == before


def test_a_compiled_file_is_not_quantized(folder: Path, tmp_path: Path) -> None:
    run("compile", folder / "float.onnx", "--out", tmp_path / "engine.onnx")
    with pytest.raises(EdgevitError, match="compiled") as caught:
        run("quantize", tmp_path / "engine.onnx", "--calibration", folder / "photos", "--out", tmp_path / "q.onnx")
    assert "quantize the file it was compiled from" in str(caught.value)


def test_out_is_looked_at_before_the_work(tmp_path: Path) -> None:
    """No model, weights or images are there: what --out says comes first."""
    (tmp_path / "file").write_text("mine")
    for out, says in ((tmp_path, "this is a folder"), (tmp_path / "file" / "new", "a file is in the way")):
        for command in (
            ("export", "--model", "efficientvit_m0", "--weights", "none", "--out", out),
            ("quantize", "none.onnx", "--calibration", "none", "--out", out),
            ("compile", "none.onnx", "--out", out),
            ("init", "none", "--out", out),
            ("inspect", "none.onnx", "--html", out),
        ):
            with pytest.raises(EdgevitError, match=says):
                run(*command)
    with pytest.raises(EdgevitError, match="a file is in the way"):
        run("bundle", "none.onnx", "--out", tmp_path / "file" / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_above_out_are_made(folder: Path, tmp_path: Path) -> None:
    run("compile", folder / "float.onnx", "--out", tmp_path / "a" / "b" / "engine.onnx")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["engine.onnx"]
    run("init", photos(tmp_path / "few", {"a": 12, "b": 12}), *SMALL, "--out", tmp_path / "c" / "d" / "new.yaml")
    assert load_recipe(tmp_path / "c" / "d" / "new.yaml")


def test_nothing_half_written_stays(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that appears at --out while the model is made is in the way of the last step."""
    made = Path.replace

    def replace(self: Path, target: Path) -> Path:
        if target.parent == tmp_path:
            target.mkdir()
        return made(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError):
        run("compile", folder / "float.onnx", "--out", tmp_path / "engine.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["engine.onnx"]


def test_a_bundle_appears_as_a_whole(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Path.replace

    def stopped(self: Path, target: Path) -> Path:
        if target.name != "bundle":
            return made(self, target)
        assert not (tmp_path / "bundle").exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", stopped)
    run("bundle", folder / "float.onnx", "--out", tmp_path / "bundle", status=130)
    assert not list(tmp_path.iterdir())


def test_control_c_says_that_nothing_was_written(folder: Path, tmp_path: Path) -> None:
    edgevit = Path(sys.executable).with_name("edgevit")
    quantize = [edgevit, "quantize", folder / "float.onnx", "--calibration", folder / "photos"]
    command = [*map(str, quantize), "--out", str(tmp_path / "int8.onnx")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, rest = process.communicate()
    assert process.returncode == 130
    assert "stopped; nothing was written" in rest
    assert not list(tmp_path.iterdir())


SMALL = ("--student", "test_vit", "--offline")  # for init


def photos(folder: Path, counts: dict[str, int]) -> Path:
    for number, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", (32, 32), (index, 2 * index, number)).save(folder / name / f"{index}.png")
    return folder


def test_what_init_says_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    out = tmp_path / "it's mine.yaml"
    folder = photos(tmp_path / "My Photos", {"a": 12, "b": 12})
    answer = CliRunner().invoke(app, ["init", str(folder), *SMALL, "--out", str(out)])
    next_command = answer.stderr.splitlines()[-1].removeprefix("next: ")
    assert shlex.split(next_command) == ["edgevit", "run", str(out)]
    written = out.read_text().splitlines()[0].removeprefix("# Run it:")
    assert shlex.split(written) == ["edgevit", "run", str(out)]


def test_a_file_with_blanks_in_its_name_can_be_pasted_into_a_shell(folder: Path, tmp_path: Path) -> None:
    model, engine = tmp_path / "my model.onnx", tmp_path / "my engine.onnx"
    model.write_bytes((folder / "float.onnx").read_bytes())
    for command, says in (
        (["compile", model, "--out", engine], ["edgevit", "profile", str(engine)]),
        (["inspect", model], ["edgevit", "profile", str(model)]),
    ):
        answer = CliRunner().invoke(app, [str(one) for one in command])
        assert shlex.split(answer.stderr.splitlines()[-1].removeprefix("next: ")) == says


def test_init_names_what_it_passes_over(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", {"a": 12, "b": 12})
    (folder / "fox").mkdir()
    (folder / "fox/IMG.HEIC").write_bytes(b"x")
    answer = CliRunner().invoke(app, ["init", str(folder), *SMALL, "--out", str(tmp_path / "new.yaml")])
    assert "note: 1 files of other types (.heic 1) are passed over: fox/IMG.HEIC" in answer.stderr


def test_init_for_many_images_trains_without_few_shot(tmp_path: Path) -> None:
    run("init", photos(tmp_path / "many", {"a": 40, "b": 40}), *SMALL, "--out", tmp_path / "new.yaml")
    recipe = load_recipe(tmp_path / "new.yaml")
    assert recipe.datasets["photos"].few_shot is None
    assert dataset_artifacts(recipe.datasets, tmp_path, recipe.dataset_names())


def test_init_names_a_class_that_is_too_small(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="too few images") as caught:
        run("init", photos(tmp_path / "few", {"a": 12, "lonely": 1}), "--out", tmp_path / "new.yaml")
    assert "lonely" in str(caught.value)
    assert not (tmp_path / "new.yaml").exists()


def test_init_does_not_write_over_a_recipe(tmp_path: Path) -> None:
    (tmp_path / "new.yaml").write_text("mine")
    with pytest.raises(EdgevitError, match="already there"):
        run("init", photos(tmp_path / "few", {"a": 12, "b": 12}), "--out", tmp_path / "new.yaml")
    assert (tmp_path / "new.yaml").read_text() == "mine"
