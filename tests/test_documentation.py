"""What the README shows runs, and every recipe is valid."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from edgevit.configs import Digits
from edgevit.data import dataset_artifacts, open_dataset
from edgevit.recipe import load_recipe

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line and not line.startswith("#")]
QUICK = [line for line in COMMANDS if line.startswith("edgevit init")]
NOT_HERE = {
    "make test": "is what runs this",
    "edgevit run photos.yaml": "takes pretrained weights from a hub; checked with --dry-run",
}
SLOW = [line for line in COMMANDS if line not in QUICK and line not in NOT_HERE]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos/CLASS/*.png and photo.jpg, made of scanned digits; and a model from elsewhere."""
    folder = tmp_path_factory.mktemp("readme")
    config = Digits(source="digits")
    digits = open_dataset(dataset_artifacts({"digits": config}, folder, ["digits.train"])["digits.train"])
    assert digits.labels is not None
    for index in range(200):
        home = folder / "photos" / f"class {digits.labels[index]}"
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(index)).save(home / f"{index}.png")
    Image.fromarray(digits.image(0)).save(folder / "photo.jpg")
    onnx.save_model(_foreign_model(), folder / "own.onnx")
    (folder / "names.txt").write_text("".join(f"class {digit}\n" for digit in range(10)))
    return folder


def _foreign_model() -> onnx.ModelProto:
    """Ten scores of a 32-pixel picture, and no word about how it is prepared."""
    weight = np.random.default_rng(0).standard_normal((10, 3, 3, 3)).astype(np.float32)
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "w"], ["conv"]),
            helper.make_node("GlobalAveragePool", ["conv"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["logits"]),
        ],
        "own",
        [helper.make_tensor_value_info("image", float32, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", float32, ["batch", 10])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(shlex.split(command), cwd=folder, env=here, capture_output=True, text=True, check=False)


def test_the_readme_begins_with_its_two_commands() -> None:
    assert COMMANDS[:2] == ["make quickstart", "make test"]
    assert len(COMMANDS) == 12


def test_nothing_is_left_to_fill_in() -> None:
    assert not re.findall(r"[A-Z]+_TABLE|OVERHEAD", README)


@pytest.mark.parametrize("command", QUICK)
def test_quick_commands(command: str, photos: Path) -> None:
    answer = run(command, photos)
    assert answer.returncode == 0, answer.stderr
    recipe = load_recipe(photos / "photos.yaml")
    assert recipe.budget.latency_ms == 10
    dry = run("edgevit run photos.yaml --dry-run", photos)
    assert dry.returncode == 0, dry.stderr
    assert "to run" in dry.stdout


@pytest.mark.slow
def test_long_commands(photos: Path, tmp_path: Path) -> None:
    for command in SLOW:
        if command.startswith("make"):
            answer = run("edgevit run recipes/quickstart.yaml --runs " + shlex.quote(str(tmp_path)), ROOT)
        else:
            answer = run(command, photos)
        allowed = (0, 1) if command.startswith("edgevit compare") else (0,)  # untrained weights: either may be better
        assert answer.returncode in allowed, f"{command}\n{answer.stderr}"


def test_every_command_of_the_table_exists() -> None:
    named = set(re.findall(r"`([\w-]+)`", "".join(line for line in README.splitlines() if line.startswith("| `"))))
    answer = run("edgevit --help", ROOT)
    shown = set(re.findall(r"^│ ([a-z][\w-]*) ", answer.stdout, re.MULTILINE))
    assert len(shown) == 20
    assert shown <= named


@pytest.mark.parametrize("text", blocks("yaml"))
def test_the_readmes_recipes_are_valid(text: str, tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(text)
    assert load_recipe(file).stages


def test_recipes_are_there() -> None:
    assert [recipe.stem for recipe in RECIPES] == ["cifar10-10way-5shot", "methods", "photos", "quickstart"]
    assert all(f"recipes/{recipe.name}" in README for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_valid(recipe: Path) -> None:
    loaded = load_recipe(recipe)
    assert loaded.name == recipe.stem
    assert {stage.name() for stage in loaded.stages} >= {"distill", "evaluate", "report"}
