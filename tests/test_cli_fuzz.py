"""Commands with odd numbers and words end in 0, 1 or 2, as the README says, and never in a traceback."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgevit.cli import main
from tests.bundling.small_model import small_model

NUMBERS = [
    "0", "1", "2", "-1", "3.5", "1e9", "nan", "-inf", "1e400", "9" * 30, "9" * 5000, "", "x", "0x10", "1_0", "٣", "½",
]  # fmt: skip
WORDS = [
    "onnxruntime", "openvino", "tensorrt", "local-cpu", "local-gpu", "standard", "episodes", "corruptions", "int8",
    "crop", "nearest", "end_to_end", "", " ", "x,y", "blur,,fog", "1,9", "\x1b[31m", "\udcff", "[/]", "é", "--json",
    "x" * 300,
]  # fmt: skip
RECIPE = """\
name: x
datasets: {d: {source: digits, few_shot: {shots: 2}}}
stages: [{stage: train, id: t, model: resnet18, data: d.support}]
"""
# Of each command: what it needs, options that take a number, options that take a word. Their values are drawn.
COMMANDS = {
    "profile": ("model.onnx --duration 0.01", "--threads --batch", "--target --runtime --boundary"),
    "compare": ("model.onnx model.onnx --duration 0.01", "--threads --batch", "--data"),
    "estimate": ("model.onnx --board orin-nano-8gb", "--batch", "--precision --tensorrt --power-mode --board"),
    "predict": ("model.onnx images", "--top", ""),
    "describe": ("model.onnx --out out.onnx", "--crop-pct", "--resize --interpolation --labels --out"),
    "evaluate": (
        "model.onnx --data images",
        "--batch --max-images --ways --shots --queries --episodes",
        "--protocol --kinds --severities --methods --target --runtime",
    ),
    "export": ("--model none --out out.onnx", "--classes --image-size --opset", "--precision --weights"),
    "quantize": (
        "none.onnx --calibration images --out out.onnx",
        "--images --threads --min-sqnr-db --max-top1-drop --smoothquant",
        "--precision --placement --calibrator --validation",
    ),
    "models": ("", "--max-params --image-size", ""),
    "init": ("images --out new.yaml --force", "--latency-ms", "--target --out"),
    "select": ("--data images --latency-ms 0.001 --out new.yaml --force", "--students --epochs", "--target --board"),
    "run": ("recipe.yaml --dry-run", "--workers --ranks", "--device --set --fresh --runs"),
    "why": ("recipe.yaml", "", "--set --runs"),
    "lr-find": ("recipe.yaml t --steps 3", "--workers", "--set --runs --device"),
    "check": ("model.onnx --runtime onnxruntime", "", "--runtime"),
    "inspect": ("model.onnx", "", "--html"),
    "bundle": ("none.onnx --out b", "", "--support --out"),
    "enroll": ("images", "", "--class --remove"),
}
LOAD_TORCH = ("export", "run", "lr-find")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    small_model(folder, ("ant", "bee"))
    (folder / "recipe.yaml").write_text(RECIPE)
    for index, name in enumerate(["ant", "bee"] * 3):
        (folder / "images" / name).mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 255, (20, 30, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / name / f"{index}.png")
    return folder


def odd_arguments(command: str, draws: random.Random) -> list[str]:
    """What the command needs, and one or two odd options."""
    needed, numbers, words = (texts.split() for texts in COMMANDS[command])
    options = [(name, NUMBERS) for name in numbers] + [(name, WORDS) for name in words]
    drawn = draws.sample(options, min(len(options), draws.choice([1, 1, 2])))
    return [command, *needed, *(f"{option}={draws.choice(values)}" for option, values in drawn)]


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["edgevit", *arguments])
    try:
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def fuzz(
    command: str, count: int, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    draws = random.Random(command)
    for _ in range(count):
        arguments = odd_arguments(command, draws)
        status = status_of(arguments, monkeypatch)
        said = capsys.readouterr()
        assert status in (0, 1, 2), (arguments, said.err[-2000:])
        assert "Traceback" not in said.err, arguments
        assert "\x1b" not in said.out + said.err, arguments


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in LOAD_TORCH])
def test_odd_options_end_in_a_status_of_the_readme(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz(command, 4, folder, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_many_odd_options_end_in_a_status_of_the_readme(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fuzz(command, 40, folder, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["profile", "--help"], 0),
        (["nothing"], 2),
        (["profile"], 2),
        (["profile", "a", "b"], 2),
        (["profile", "none.onnx"], 2),
        (["profile", "a", "--nothing"], 2),
        (["profile", "a", "--threads"], 2),
        (["profile", "a", "--json=x"], 2),
        (["\udcff\x1b[31m"], 2),
    ],
)
def test_usage_has_the_statuses_of_the_readme(
    arguments: list[str], status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of(arguments, monkeypatch) == status
    assert "Traceback" not in capsys.readouterr().err
