"""The folder that readers of the documentation work in: photos, a model from elsewhere, names of classes."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

from edgevit.configs import Digits
from edgevit.data import dataset_artifacts, open_dataset

ROOT = Path(__file__).parents[1]


def make_folder(folder: Path) -> None:
    """Write photos/, unseen/, other/ and gasket/, photo.jpg, own.onnx and names.txt into a folder that is there.

    The photos are scanned digits. photos/ has 200 images of ten classes; unseen/ has 50 others of the same classes;
    other/ and gasket/ hold noise, 10 and 5 images.
    """
    digits = open_dataset(
        dataset_artifacts({"digits": Digits(source="digits")}, folder, ["digits.train"])["digits.train"]
    )
    assert digits.labels is not None
    for index in range(250):
        home = folder / ("photos" if index < 200 else "unseen") / f"class {digits.labels[index]}"
        home.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.image(index)).save(home / f"{index}.png")
    Image.fromarray(digits.image(0)).save(folder / "photo.jpg")
    noise = np.random.default_rng(0).integers(0, 256, (15, 32, 32, 3)).astype(np.uint8)
    for index, pixels in enumerate(noise):
        home = folder / ("other" if index < 10 else "gasket")
        home.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(home / f"{index}.jpg")
    onnx.save_model(_foreign_model(), folder / "own.onnx")
    (folder / "names.txt").write_text("".join(f"class {digit}\n" for digit in range(10)))


def run(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a command line, as it stands in the documentation, answers in a folder; this Python's programs are found."""
    return _run([word for part in shlex.split(command) for word in _as_a_shell_has_it(part, folder)], folder)


def run_python(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """What a block of Python answers in a folder."""
    return _run([sys.executable, "-c", text], folder)


def _run(words: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    if words[0] == "torchrun":  # its script may lie elsewhere than this Python
        words = [sys.executable, "-m", "torch.distributed.run", *words[1:]]
    here = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.run(words, cwd=folder, env=here, capture_output=True, text=True, check=False)


def _as_a_shell_has_it(word: str, folder: Path) -> list[str]:
    """The files that a pattern fits, as a shell puts them there; any other word as it is."""
    return [str(path.relative_to(folder)) for path in sorted(folder.glob(word))] if "*" in word else [word]


def _foreign_model() -> onnx.ModelProto:
    """Ten scores of a 32-pixel image, and no word about how it is prepared."""
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
