"""load: whose order a classifier's outputs are in, which weights are taken, and whether anybody trained them."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from pydantic import ValidationError
from typer.testing import CliRunner

from edgevit.artifacts import Artifact
from edgevit.cli import app
from edgevit.configs import STAGES, ImageFolder, Npz
from edgevit.context import Context
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.data.class_order import in_order
from edgevit.errors import DataError, EdgevitError, RecipeError
from edgevit.models import BuiltModel, create_model, model_from_checkpoint
from edgevit.pipeline import make, resolve
from edgevit.provenance import WEIGHTS_FROM, untrained
from edgevit.recipe import load_recipe
from edgevit.stages import load
from edgevit.store import Store
from tests.said import Said
from tests.small_models import VIT, checkpoint, float_onnx, int8_onnx, workbench

CLASSES = tuple(f"class{index}" for index in range(1, 13))  # in timm's order
COUNT = len(CLASSES)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes that brightness tells apart, in folders class1 … class12, and in numbered ones."""
    root = tmp_path_factory.mktemp("photos")
    for index in range(COUNT):
        for folder in (f"named/class{index + 1}", f"numbered/{index}"):
            (root / folder).mkdir(parents=True)
            for number in range(3):
                image = np.full((16, 16, 3), index * 23, np.uint8)
                image[number, number] += 1
                Image.fromarray(image).save(root / folder / f"{number}.png")
    return root


def data(photos: Path, folder: str = "named") -> Artifact:
    config = ImageFolder(source="image_folder", path=str(photos / folder))
    return dataset_artifacts({"p": config}, Path(), ["p"])["p"]


@cache
def timm_model() -> torch.nn.Module:
    return create_model(VIT["model"], COUNT, VIT["image_size"], VIT["model_args"], seed=3).module


def weights(folder: Path, **more: Any) -> str:
    torch.save({"state_dict": timm_model().state_dict(), **more}, folder / "timm.pth")
    return str(folder / "timm.pth")


def loaded(folder: Path, context: Context | None = None, data: Artifact | None = None, **fields: Any) -> Artifact:
    if data is not None:
        fields["classes_of"] = "p"
    config = STAGES["load"].model_validate({"stage": "load", "id": "net", **VIT, **fields})
    return make(config, resolve(config, {"p": data} if data else {}), Store(folder / "store"), context or Context())


def test_two_orders_of_classes_are_asked_about_before_work(photos, tmp_path):
    with pytest.raises(DataError, match="the order of the model's classes is not known") as caught:
        loaded(tmp_path, data=data(photos), weights=weights(tmp_path))
    assert "class1, class2" in str(caught.value)
    assert "class1, class10" in str(caught.value)
    assert "class_order: natural or text" in str(caught.value)


@pytest.mark.parametrize("order", ["natural", "text"])
def test_outputs_are_named_in_the_order_that_is_given(photos, tmp_path, order):
    made = loaded(tmp_path, data=data(photos), weights=weights(tmp_path), class_order=order)
    assert made.io.classes == (CLASSES if order == "natural" else tuple(sorted(CLASSES)))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model_from_checkpoint(made)(images), timm_model()(images))


def test_names_in_the_checkpoint_give_the_order(photos, tmp_path):
    said = Said()
    named = weights(tmp_path, class_to_idx={name: index for index, name in enumerate(CLASSES)})
    assert loaded(tmp_path, Context(progress=said), data(photos), weights=named).io.classes == CLASSES
    assert any("the classes are called as in" in line for line in said.lines)
    assert loaded(tmp_path, weights=named).io.classes == CLASSES  # without any data set


def test_other_names_in_the_checkpoint_are_refused(photos, tmp_path):
    other = weights(tmp_path, class_names=[f"bird{index}" for index in range(COUNT)])
    with pytest.raises(DataError, match="not those of classes_of") as caught:
        loaded(tmp_path, data=data(photos), weights=other)
    assert "bird0" in str(caught.value)
    assert "class1" in str(caught.value)


def test_a_new_classifier_needs_no_order(photos, tmp_path):
    smaller = create_model(VIT["model"], 5, VIT["image_size"], VIT["model_args"]).module
    torch.save(smaller.state_dict(), tmp_path / "five.pth")
    made = loaded(tmp_path, data=data(photos), weights=str(tmp_path / "five.pth"))
    assert made.io.classes == tuple(sorted(CLASSES))
    assert made.manifest.provenance[WEIGHTS_FROM] == {"body": "file", "classifier": "random"}
    assert "classifier is random" in str(untrained(made))


def test_imagenets_classifier_is_not_called_after_a_thousand_other_classes(tmp_path, monkeypatch):
    images = np.arange(1000, dtype=np.uint16).view(np.uint8).reshape(1000, 1, 2, 1).repeat(3, 3)
    np.savez(tmp_path / "p.npz", images=images, labels=np.arange(1000))
    config = Npz(source="npz", path=str(tmp_path / "p.npz"))
    thousand = dataset_artifacts({"p": config}, Path(), ["p"])["p"]

    def without_a_hub(name: str, classes: int, size: int, args: dict[str, Any], pretrained: bool) -> BuiltModel:
        return create_model(name, classes, size, args)

    monkeypatch.setattr(load, "create_model", without_a_hub)
    said = Said()
    made = loaded(tmp_path, Context(progress=said), data=thousand, pretrained=True)
    assert made.io.classes == open_dataset(thousand).classes
    assert [line for line in said.lines if "have other names: the classifier for yours is new" in line]
    assert made.manifest.provenance[WEIGHTS_FROM] == {"body": "pretrained", "classifier": "random"}


def test_ema_weights_are_said_and_chosen(tmp_path):
    said, ema = Said(), {name: value + 1 for name, value in timm_model().state_dict().items()}
    file = weights(tmp_path, state_dict_ema=ema)
    taken = loaded(tmp_path, Context(progress=said), weights=file)
    assert any("'state_dict_ema' (EMA)" in line and "state_dict" in line for line in said.lines)
    raw = loaded(tmp_path, weights=file, weights_key="state_dict")
    key = "head.bias"
    assert torch.equal(model_from_checkpoint(taken).state_dict()[key], ema[key])
    assert torch.equal(model_from_checkpoint(raw).state_dict()[key], timm_model().state_dict()[key])


# Files without names ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unnamed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """ONNX files that tell the classes by brightness, their outputs in timm's and torchvision's order of folders."""
    folder = tmp_path_factory.mktemp("onnx")
    orders = {
        "timm": [CLASSES.index(name) for name in in_order(CLASSES, "natural")],
        "torchvision": [int(name) for name in in_order([str(index) for index in range(COUNT)], "text")],
    }
    return {name: brightness_model(folder / f"{name}.onnx", order) for name, order in orders.items()}


def brightness_model(file: Path, order: list[int]) -> Path:
    """Scores 2·m·b - b² of brightness m for the brightness b of each class: the nearest is the largest."""
    level = np.array(order, np.float32) * 23 / 255
    weight = np.zeros((3, len(order)), np.float32)
    weight[0], bias = 2000 * level * 0.229, 1000 * (2 * level * 0.485 - level**2)
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["embedding"]),
        helper.make_node("Gemm", ["embedding", "weight", "bias"], ["logits"]),
    ]
    shapes = {"logits": ["N", len(order)], "embedding": ["N", 3]}
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 3, 16, 16])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes[name]) for name in ("logits", "embedding")],  # type: ignore[arg-type]
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias.astype(np.float32), "bias")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), file)
    return file


def edgevit(*arguments: object) -> tuple[int, str]:
    answer = CliRunner().invoke(app, [str(one) for one in arguments])
    error = answer.exception
    return (error.exit_code, str(error)) if isinstance(error, EdgevitError) else (answer.exit_code, answer.output)


@pytest.mark.parametrize(("model", "folder"), [("timm", "named"), ("torchvision", "numbered")])
def test_evaluate_asks_for_the_order_of_an_unnamed_file(photos, unnamed, tmp_path, model, folder):
    command = ("evaluate", unnamed[model], "--data", photos / folder)
    status, said = edgevit(*command)
    assert status == 2
    assert "--class-order natural or text" in said
    right, wrong = ("natural", "text") if model == "timm" else ("text", "natural")
    assert "top-1 100.00%" in edgevit(*command, "--class-order", right)[1]
    assert "top-1 100.00%" not in edgevit(*command, "--class-order", wrong)[1]
    if model == "timm":
        (tmp_path / "names.txt").write_text("\n".join(CLASSES))
        assert "top-1 100.00%" in edgevit(*command, "--labels", tmp_path / "names.txt")[1]


@pytest.mark.parametrize(("model", "folder"), [("timm", "named"), ("torchvision", "numbered")])
def test_a_bundle_finds_the_order_by_its_support(photos, unnamed, tmp_path, model, folder):
    from edgevit.bundling import named_by
    from edgevit.graphs.files import artifact_from_onnx

    said, support = Said(), open_dataset(data(photos, folder))
    named = named_by(support, artifact_from_onnx(unnamed[model]), said)
    assert named.io.classes == in_order(support.classes, "natural" if model == "timm" else "text")
    assert named.io.names_its_classes
    assert any("36 of its 36 predictions are right" in line for line in said.lines)


def test_names_that_the_answers_contradict_are_refused(photos, unnamed, tmp_path):
    from edgevit.bundling import named_by
    from edgevit.graphs.files import artifact_from_onnx

    words = ("zero", "one", "two", "three", "four", "five", "six", "seven")
    for index, word in enumerate(words):
        (tmp_path / word).symlink_to(photos / "numbered" / str(index))
    root = tmp_path / "words"
    for index, word in enumerate(words):
        (root / word).mkdir(parents=True)
        for file in (photos / "numbered" / str(index)).iterdir():
            (root / word / file.name).write_bytes(file.read_bytes())
    model = artifact_from_onnx(brightness_model(tmp_path / "eight.onnx", [*range(8)]))
    with pytest.raises(DataError, match="its predictions do not show") as caught:
        named_by(open_dataset(data(tmp_path, "words")), model, Said())
    assert "five, four, one" in str(caught.value)
    assert "0, 1, 2" in str(caught.value)


# Untrained weights, and arguments that have no effect ------------------------------------------------------------


def test_random_weights_are_known_of_every_model_made_of_them():
    for model in (checkpoint(), float_onnx(), int8_onnx()):
        assert model.manifest.provenance[WEIGHTS_FROM] == {"body": "random", "classifier": "random"}
        assert "it was not trained" in str(untrained(model))
    head = workbench().run(
        "fewshot", "centroids", model=checkpoint().id, support="digits.support", method="nearest_centroid",
        random_views=0,
    )  # fmt: skip
    assert head.manifest.provenance[WEIGHTS_FROM] == {"body": "random", "classifier": "trained"}
    assert "only its classifier was trained" in str(untrained(head))


def test_random_weights_are_said_when_a_model_is_loaded_and_exported():
    said = Said()
    workbench().run("load", "again", Context(progress=said), True, classes_of="digits.test", **VIT)
    workbench().run("export", float_onnx().id, Context(progress=said), model=checkpoint().id)  # found in the store
    assert [line for line in said.lines if "again: the weights" in line and "random" in line]
    assert [line for line in said.lines if f"{float_onnx().id}: its weights are random" in line]


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "features_only"])
def test_model_args_read_no_files(tmp_path, argument):
    (tmp_path / "r.yaml").write_text(
        f"name: r\nstages:\n  - {{stage: load, id: net, model: test_vit, model_args: {{{argument}: x}}}}\n"
    )
    with pytest.raises(RecipeError, match=f"'{argument}' does not belong in model_args") as caught:
        load_recipe(tmp_path / "r.yaml")
    assert "r.yaml:3" in str(caught.value)
    with pytest.raises(RecipeError, match=f"'{argument}' does not belong in model_args"):
        create_model("test_vit", 3, model_args={argument: "x"})


def test_how_images_are_prepared_may_be_laid_over():
    overlay = {"mean": [0.5, 0.5, 0.5], "interpolation": "bilinear"}
    built = create_model("test_vit", 3, model_args={"pretrained_cfg_overlay": overlay})
    assert (built.preprocess.mean, built.preprocess.interpolation) == ((0.5, 0.5, 0.5), "bilinear")
    with pytest.raises(RecipeError, match="'pretrained_cfg_overlay' does not belong in model_args"):
        create_model("test_vit", 3, model_args={"pretrained_cfg_overlay": {**overlay, "file": "w.pth"}})


@pytest.mark.parametrize(
    ("stage", "fields"),
    [
        ("prune", {"keep_macs": 0.8, "score": "magnitude"}),
        ("factorize", {"keep_macs": 0.8, "data": "digits.support", "images": 8}),
        ("merge_tokens", {"per_block": 1}),
        (
            "distill",
            {
                **VIT,
                "streams": ({"data": "digits.pool"},),
                "objectives": ({"loss": "soft"},),
                "epochs": 0,
            },
        ),
    ],
)
def test_positions_of_outputs_do_not_become_names(tmp_path, stage, fields):
    bench = workbench()
    whole = bench.run("load", "of-nobody", **VIT, weights=weights(tmp_path))
    assert not whole.io.names_its_classes
    model = {"teacher" if stage == "distill" else "model": whole.id}
    assert not bench.run(stage, f"of-nobody-{stage}", **model, **fields).io.names_its_classes


def test_a_number_of_classes_leaves_them_unnamed_or_named_by_the_file(tmp_path):
    assert not loaded(tmp_path, weights=weights(tmp_path), num_classes=COUNT).io.names_its_classes
    named = weights(tmp_path, class_names=[f"cafe\u0301{index}" for index in range(COUNT)])
    made = loaded(tmp_path, weights=named, num_classes=COUNT)
    assert made.io.classes[:2] == ("caf\u00e90", "caf\u00e91")
    with pytest.raises(ValidationError, match="'num_classes' goes without"):
        loaded(tmp_path, num_classes=2, classes=("a", "b"))


def test_a_training_of_no_epochs_is_none():
    bench, fields = workbench(), {"data": "digits.support", "epochs": 0}
    new = bench.run("train", "train-of-none", **VIT, **fields)
    assert new.manifest.provenance[WEIGHTS_FROM] == {"body": "random", "classifier": "random"}
    goes_on = bench.run("train", "goes-on-of-none", init=new.id, **fields)
    assert goes_on.manifest.provenance[WEIGHTS_FROM] == {"body": "random", "classifier": "random"}


def test_compare_takes_an_order_only_where_it_is_needed(photos, unnamed, tmp_path):
    named = tmp_path / "named.onnx"
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    assert edgevit("describe", unnamed["timm"], "--labels", tmp_path / "names.txt", "--out", named)[0] == 0
    status, said = edgevit("compare", named, named, "--data", photos / "named", "--class-order", "text")
    assert (status, "all models name their classes" in said) == (2, True)
    status, said = edgevit("compare", named, named, "--class-order", "bogus")
    assert (status, "there is no such order" in said) == (2, True)
