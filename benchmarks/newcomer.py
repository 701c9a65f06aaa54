"""A newcomer's minutes: from an empty folder to the first prediction of a model of the newcomer's own photos.

    python -m benchmarks.newcomer WORK WHEEL PHOTOS [--weights FILE] [--init OPTIONS] [--run OPTIONS]

WORK is a folder for the environment, WHEEL edgevit's wheel (`make dist`), and PHOTOS a folder of images for each class.
The wheel is installed in an environment of its own; with pip's cache filled or not, its seconds stand apart. Then the
commands of the README run in an empty folder with an empty home folder: `init`, `run`, `predict`, and the `infer.py`
of the bundle. `--init` and `--run` are further options of these two commands, in which WEIGHTS stands for FILE.

Counted are commands, seconds, CPU seconds and lines of output, with the load of the machine before each command (the
mean number of busy processes of one minute). CPU seconds of `edgevit --help` and of `import edgevit` are of 20 runs in
that environment.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.common import cpu_and_wall_s, publish, spread
from benchmarks.environments import Environment

REPEATS = 20
BUDGET_MS = 10
IMAGE_TYPES = (".jpg", ".jpeg", ".png")
HAS_TORCH = "import sys, edgevit; print('torch' in sys.modules)"


def main() -> None:
    asked = _asked()
    inputs = {"WHEEL": asked.wheel, "PHOTOS": asked.photos, **({"WEIGHTS": asked.weights} if asked.weights else {})}
    environment = Environment(asked.work, inputs)
    install = environment.install([str(asked.wheel)])
    commands = _commands(environment, asked)
    result = {
        "images": len(_images(asked.photos)),
        "install": install,
        "commands": commands,
        "count": len(commands),
        "seconds": sum(command["seconds"] for command in commands),
        "cpu_s": sum(command["cpu_s"] for command in commands),
        "done": all(command["exit_status"] in (0, 1) for command in commands),  # 1: the budget is not met
        **_startup(environment),
    }
    if not asked.keep:
        environment.remove()
    publish("newcomer", result)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("work", "wheel", "photos"):
        parser.add_argument(name, type=lambda text: Path(text).absolute())
    parser.add_argument("--weights", type=lambda text: Path(text).absolute(), help="a file of pretrained weights")
    parser.add_argument("--init", default="", help="further options of `edgevit init`")
    parser.add_argument("--run", default="", help="further options of `edgevit run`")
    parser.add_argument("--limit-s", type=float, default=3600)
    parser.add_argument("--keep", action="store_true", help="keep the environment")
    return parser.parse_args()


def _commands(environment: Environment, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """The newcomer's commands, up to the first that fails."""
    photo = _images(asked.photos)[0]
    (environment.folder / "photo").with_suffix(photo.suffix).symlink_to(photo)
    image = f"photo{photo.suffix}"
    lines = (
        f"edgevit init {shlex.quote(str(asked.photos))} --latency-ms {BUDGET_MS} --out photos.yaml {asked.init}",
        f"edgevit run photos.yaml {asked.run}",
        f"edgevit predict BUNDLE {image}",
        f"python BUNDLE/infer.py {image}",
    )
    commands: list[dict[str, Any]] = []
    for line in lines:
        bundles = [str(path.relative_to(environment.folder)) for path in environment.folder.glob("runs/*/bundle")]
        line = line.replace("BUNDLE", "".join(bundles)).replace("WEIGHTS", str(asked.weights))
        commands.append(environment.run(line.strip(), asked.limit_s))
        if commands[-1]["exit_status"] not in (0, 1):
            break
    return commands


def _startup(environment: Environment) -> dict[str, Any]:
    python, edgevit = environment.program("python"), environment.program("edgevit")
    has_torch = subprocess.check_output([python, "-c", HAS_TORCH], text=True).strip()
    return {
        "help_cpu_s": spread([cpu_and_wall_s([edgevit, "--help"])[0] for _ in range(REPEATS)]),
        "import_cpu_s": spread([cpu_and_wall_s([python, "-c", "import edgevit"])[0] for _ in range(REPEATS)]),
        "import_loads_torch": has_torch == "True",
    }


def _images(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in IMAGE_TYPES]


if __name__ == "__main__":
    main()
