"""The first commands of edgevit, Ultralytics, lightly-train, Olive and timm, run as a newcomer runs them.

    python -m benchmarks.first_commands WORK PHOTOS WHEEL ONNX [--tools timm …] [--limit-s 600]

WORK is a folder for environments. PHOTOS holds train/, val/ and test/, each with a folder of images for each class.
WHEEL is edgevit's wheel, and ONNX a float model of `edgevit export`, which Olive quantizes.

Each tool gets an environment of its own by `pip install`, which is removed afterwards. Its commands run in an empty
folder, with an empty home folder. The commands of the source `README` or `documentation` are the first that the tool
shows. The commands of the source `without a network` are the nearest that need no download of weights or data, so
their models start from random weights, and their answers mean nothing. `what the error asks for` is an install that
the command before it asks for.

Counted are seconds, exit status, lines of output, and the files and bytes that a command leaves in its folder, in the
home folder and beside the photos. `no_network` says that the output names a download that failed: then the machine had
no network, and the figures say nothing about the tool. Usage data are switched off. Results of earlier runs stay for
tools that this one leaves out.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import RESULTS, conditions, publish
from benchmarks.environments import Environment

NAME = "first_commands"
README, DOCUMENTATION, OFFLINE = "README", "documentation", "without a network"
MENDED = "what the error asks for"
NO_USAGE_DATA = {"OLIVE_DISABLE_TELEMETRY": "1", "LIGHTLY_TRAIN_EVENTS_DISABLED": "1"}
# What libraries say of a download that failed.
NO_NETWORK = re.compile(
    r"resolve|not known|network|connect|max retries|urlopen|offline|cannot reach|download (failed|failure)|hub",
    re.IGNORECASE,
)

OLIVE = "olive optimize --model_name_or_path Qwen/Qwen2.5-0.5B-Instruct --precision int4 --output_path models/qwen"
TIMM = """import timm
m = timm.create_model('mobilenetv3_large_100', pretrained=True)
m.eval()
"""
TIMM_OFFLINE = """import sys
import timm, torch
from PIL import Image
model = timm.create_model('mobilenetv3_large_100', pretrained=False, num_classes=4).eval()
transform = timm.data.create_transform(**timm.data.resolve_data_config(model.pretrained_cfg))
image = transform(Image.open(sys.argv[1]).convert('RGB'))
print(torch.nn.functional.softmax(model(image.unsqueeze(0))[0], dim=0).topk(1))
"""
LIGHTLY = """import sys
from pathlib import Path
import lightly_train

if __name__ == "__main__":
    photos, model, image = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    out = "out/" + model.replace("/", "_")
    names = sorted(folder.name for folder in (photos / "train").iterdir())
    few = {"steps": 20, "batch_size": 8, "num_workers": 0} if "resnet" in model else {}
    lightly_train.train_image_classification(
        out=out,
        model=model,
        data={"train": str(photos / "train"), "val": str(photos / "val"), "classes": dict(enumerate(names))},
        **few,
    )
    model = lightly_train.load_model(out + "/exported_models/exported_best.pt")
    results = model.predict(image, topk=1)
    print([names[int(label)] for label in results["labels"]], results["scores"])
"""


class Step(NamedTuple):
    """A command of a tool. `{photos}`, `{photo}` and `{onnx}` stand for the inputs."""

    source: str
    command: str


class Tool(NamedTuple):
    """A tool: what pip installs, the distribution that has its version, and its scripts by their names."""

    requirements: tuple[str, ...]
    distribution: str
    steps: tuple[Step, ...]
    scripts: Mapping[str, str] = {}


TOOLS = {
    "edgevit": Tool(
        ("{wheel}",),
        "edgevit",
        (
            Step(README, "edgevit run quickstart"),
            Step(README, "edgevit init {photos} --latency-ms 10 --out photos.yaml"),
            Step(README, "edgevit run photos.yaml"),
        ),
    ),
    "Ultralytics": Tool(
        ("ultralytics",),
        "ultralytics",
        (
            Step(README, "yolo predict model=yolo26n.pt source='https://ultralytics.com/images/bus.jpg'"),
            Step(OFFLINE, "yolo classify train model=yolo26n-cls.yaml data={photos} epochs=1 imgsz=64 device=cpu"),
            Step(OFFLINE, "yolo classify predict model=runs/classify/train/weights/best.pt source={photo}"),
        ),
    ),
    "lightly-train": Tool(
        ("lightly-train",),
        "lightly-train",
        (
            Step(README, "python classify.py {photos} dinov3/vitt16 {photo}"),
            Step(OFFLINE, "python classify.py {photos} torchvision/resnet18 {photo}"),
        ),
        {"classify.py": LIGHTLY},
    ),
    "Olive": Tool(
        ("olive-ai", "transformers", "onnxruntime-genai"),
        "olive-ai",
        (
            Step(README, OLIVE),
            Step(MENDED, "python -m pip install -q requests"),
            Step(README, OLIVE),
            Step(
                OFFLINE,
                "olive quantize --model_name_or_path {onnx} --precision int4 --algorithm rtn --output_path models/onnx",
            ),
        ),
    ),
    "timm": Tool(
        ("timm",),
        "timm",
        (Step(DOCUMENTATION, "python first.py"), Step(OFFLINE, "python predict.py {photo}")),
        {"first.py": TIMM, "predict.py": TIMM_OFFLINE},
    ),
}


def main() -> None:
    asked = _asked()
    photo = next(path for path in sorted((asked.photos / "test").rglob("*")) if path.is_file())
    inputs = {"photos": asked.photos, "photo": photo, "wheel": asked.wheel, "onnx": asked.onnx}
    file = RESULTS / f"{NAME}.json"
    tried = json.loads(file.read_text())["tools"] if file.is_file() else {}
    for name in asked.tools:
        tried[name] = _tried(TOOLS[name], asked.work / name, inputs, asked)
        publish(NAME, {"tools": {name: tried[name] for name in TOOLS if name in tried}})


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("work", "photos", "wheel", "onnx"):
        parser.add_argument(name, type=lambda text: Path(text).absolute())
    parser.add_argument("--tools", nargs="+", choices=list(TOOLS), default=list(TOOLS))
    parser.add_argument("--limit-s", type=float, default=600)
    parser.add_argument("--keep", action="store_true", help="keep the environments")
    return parser.parse_args()


def _tried(tool: Tool, work: Path, inputs: Mapping[str, Path], asked: argparse.Namespace) -> dict[str, Any]:
    """A tool from the install to its last command."""
    environment = Environment(work, {name.upper(): path for name, path in inputs.items()}, NO_USAGE_DATA)
    install = environment.install([requirement.format(**inputs) for requirement in tool.requirements])
    for name, text in tool.scripts.items():
        (environment.folder / name).write_text(text)
    result = {
        **environment.about(tool.distribution),
        "install": install,
        "steps": [_step(step, environment, inputs, asked.limit_s) for step in tool.steps],
        "conditions": conditions(),
    }
    if not asked.keep:
        environment.remove()
    return result


def _step(step: Step, environment: Environment, inputs: Mapping[str, Path], limit_s: float) -> dict[str, Any]:
    quoted = {name: shlex.quote(str(path)) for name, path in inputs.items()}
    ran = environment.run(step.command.format(**quoted), limit_s)
    failed = ran["exit_status"] != 0
    no_network = failed and any(NO_NETWORK.search(line) for line in ran["last_lines"])
    return {"source": step.source, "no_network": no_network, **ran}


if __name__ == "__main__":
    main()
