"""Few-shot heads against EasyFSL's methods: Omniglot episodes, the same features and the same draws for both.

    python -m benchmarks.omniglot_episodes OMNIGLOT.npz --peer PYTHON [--episodes 600] [--slow-episodes 100]

OMNIGLOT.npz holds `background_bits`, `background_chars` and the same of the evaluation set: rows of bits, 1 where there
is ink. PYTHON has easyfsl 1.5.0 (see benchmarks/peers/easyfsl_episodes.py); without it, edgevit's methods run alone.

A small ResNet learns the 964 background characters at 32 pixels: scale and small rotations, no flips, and no classes
made by turning characters by 90°, as many papers add them. What enters its classifier is computed once for each of the
13,180 evaluation images. Each setting is 600 episodes with 15 queries a class; the imbalanced one has 8 a class on
average, shares from Dirichlet(2) that leave no class more than the 15 that it has beside five shots.

edgevit takes all features relative to the mean of the background's; EasyFSL's methods run with and without (PT-MAP
without). Transductive methods answer all queries of an episode at once. `gain` is each method's mean difference, paired
by episode, to the best of EasyFSL's methods that sees as much (inductive or transductive), over the episodes that both
have run. The two sides take turns, setting by setting; auto, α-TIM and PT-MAP run on the first 100 episodes, and
seconds are of the n episodes that a row says. About an hour on two cores, of which the backbone is five minutes and is
trained once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from ruamel.yaml import YAML
from threadpoolctl import threadpool_limits

from benchmarks.common import publish
from edgevit import pipeline
from edgevit.cli.output import terminal_context
from edgevit.data import Dataset, dataset_artifacts, open_dataset
from edgevit.data.dataset import Labels
from edgevit.fewshot.episodes import Episode, EpisodePlan, draw_episodes, mean_interval, run_episodes
from edgevit.fewshot.heads import Floats
from edgevit.fewshot.methods import INDUCTIVE, TRANSDUCTIVE
from edgevit.inference.over_dataset import outputs_of
from edgevit.models import open_checkpoint
from edgevit.models.embedding import Pooled
from edgevit.progress import SilentProgress
from edgevit.recipe import load_recipe

PEER = Path(__file__).parent / "peers" / "easyfsl_episodes.py"
SIDE = 32
BACKBONE = {
    "model": "resnet10t",
    "model_args": {"channels": [32, 64, 128, 256], "stem_width": 16},
    "image_size": SIDE,
    "batch_size": 64,
    "learning_rate": 2e-3,
    "warmup_fraction": 0.1,
    "label_smoothing": 0.1,
    "augmentation": {"horizontal_flip": 0, "scale": [0.75, 1], "rotate_degrees": 10},
}
SLOW = ("auto", "alpha_tim")


class Features(NamedTuple):
    """Of the evaluation images (n, d), their labels (n,), and the mean of the background's (d,)."""

    values: Floats
    labels: Labels
    centre: Floats


class Row(NamedTuple):
    """What one method did."""

    transductive: bool
    accuracies: Floats
    seconds: float
    settings: dict[str, Any] | None = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("omniglot", type=Path)
    parser.add_argument("--peer", type=Path, help="a Python that has easyfsl 1.5.0", metavar="PYTHON")
    parser.add_argument("--episodes", type=int, default=600)
    parser.add_argument("--slow-episodes", type=int, default=100, help="how many of them auto, α-TIM and PT-MAP run on")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    asked = parser.parse_args()
    folder = (asked.runs / "omniglot-episodes").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(asked.threads)
    with np.load(asked.omniglot) as file:
        for split, role in (("background", "train"), ("evaluation", "test")):
            write_dataset(file[f"{split}_bits"], file[f"{split}_chars"][file[f"{split}_labels"]], role, folder / split)
    features = trained_features(folder, asked.epochs, asked.runs)
    settings: dict[str, Any] = {}
    for name, plan in plans(asked.episodes).items():
        load = os.getloadavg()[0]
        rows = play_both(features, plan, asked, folder, ours_first=len(settings) % 2 == 0)
        settings[name] = {"plan": plan._asdict(), "load_average_at_start": load, "methods": summary(rows)}
        print(table(name, settings[name]["methods"]), flush=True)
    publish(
        "omniglot_episodes",
        {"backbone": {**BACKBONE, "epochs": asked.epochs}, "threads": asked.threads, "settings": settings},
    )


def plans(episodes: int) -> dict[str, EpisodePlan]:
    """Every setting by its name."""
    balanced = {
        f"{ways}-way {shots}-shot": EpisodePlan(ways, shots, 15, episodes)
        for ways, shots in ((5, 1), (5, 5), (10, 5), (20, 1), (20, 5))
    }
    return {**balanced, "5-way 5-shot, imbalanced": EpisodePlan(5, 5, 8, episodes, imbalance=2.0)}


def write_dataset(bits: npt.NDArray[np.uint8], names: npt.NDArray[np.str_], role: str, stem: Path) -> None:
    """Rows of bits as an .npz data set of this role: white on black, SIDE × SIDE."""
    ink = np.unpackbits(bits, axis=-1)[..., : bits.shape[1]] * np.uint8(255)
    images = [np.asarray(Image.fromarray(drawing).resize((SIDE, SIDE), Image.Resampling.BOX)) for drawing in ink]
    arrays: dict[str, Any] = {f"{role}_images": np.stack(images), f"{role}_labels": names}
    np.savez(stem.with_suffix(".npz"), **arrays)


def trained_features(folder: Path, epochs: int, runs: Path) -> Features:
    """Train the backbone on folder/background.npz, or find it under `runs`; features of folder/evaluation.npz."""
    datasets = {name: {"source": "npz", "path": str(folder / f"{name}.npz")} for name in ("background", "evaluation")}
    train = {"stage": "train", "id": "backbone", "data": "background.train", "epochs": epochs, **BACKBONE}
    recipe_file = folder / "recipe.yaml"
    with recipe_file.open("w") as file:
        YAML().dump({"name": "omniglot-episodes", "datasets": datasets, "stages": [train]}, file)
    recipe, context = load_recipe(recipe_file), terminal_context()
    done = pipeline.run(recipe, folder, runs, context)
    evaluation = open_dataset(dataset_artifacts(recipe.datasets, folder, ["evaluation.test"])["evaluation.test"])
    checkpoint = open_checkpoint(done["backbone"])

    def of(dataset: Dataset) -> Floats:
        pooled = Pooled(checkpoint.module)
        features: Floats = outputs_of(pooled, dataset, checkpoint.preprocess, torch.device("cpu")).numpy()
        return features.astype(np.float64)

    assert evaluation.labels is not None
    return Features(of(evaluation), evaluation.labels, of(open_dataset(done["background.train"])).mean(0))


def play_both(
    features: Features, plan: EpisodePlan, asked: argparse.Namespace, folder: Path, ours_first: bool
) -> dict[str, Row]:
    """The rows of edgevit and, where there is one, of the peer; one side after the other."""
    episodes = list(draw_episodes(features.labels, None, plan))
    sides = [lambda: played(features, episodes, asked.slow_episodes, asked.threads)]
    if asked.peer is not None:
        sides.append(lambda: peer_played(features, episodes, asked, folder))
    rows: dict[str, Row] = {}
    for side in sides if ours_first else reversed(sides):
        rows |= side()
    return rows


def played(features: Features, episodes: list[Episode], slow_episodes: int, threads: int) -> dict[str, Row]:
    """Every method of edgevit."""
    rows = {}
    fast = [name for name in (*INDUCTIVE, "auto", *TRANSDUCTIVE) if name not in SLOW]
    with threadpool_limits(threads):
        for names, chosen in ((fast, episodes), (SLOW, episodes[:slow_episodes])):
            values, progress = features.values, SilentProgress()
            result = run_episodes(chosen, names, values, values, None, features.centre, progress)
            for name, accuracies, seconds in zip(result.methods, result.accuracies, result.seconds, strict=True):
                settings = {"chosen": result.chosen} if name == "auto" else {}
                rows[f"edgevit {name}"] = Row(name in TRANSDUCTIVE, accuracies, seconds, settings)
    return rows


def peer_played(features: Features, episodes: list[Episode], asked: argparse.Namespace, folder: Path) -> dict[str, Row]:
    """Every method of EasyFSL, in the peer's Python."""
    tasks, answer = folder / "tasks.npz", folder / "answer.json"
    drawn: dict[str, Any] = {
        field: np.concatenate([getattr(episode, field) for episode in episodes]) for field in Episode._fields
    }
    np.savez(
        tasks,
        features=features.values.astype(np.float32),
        centre=features.centre.astype(np.float32),
        query_counts=np.array([len(episode.queries) for episode in episodes]),
        **drawn,
    )
    limits = ["--slow-episodes", str(asked.slow_episodes), "--threads", str(asked.threads)]
    subprocess.run([asked.peer, PEER, tasks, answer, *limits], check=True)
    rows = json.loads(answer.read_text())
    return {
        f"EasyFSL {name}": Row(row["transductive"], np.array(row["accuracies"]), row["seconds"], row["settings"])
        for name, row in rows.items()
    }


def summary(rows: dict[str, Row]) -> dict[str, Any]:
    """Of each method its accuracy over episodes, its seconds, and edgevit's gain over the best peer of its kind."""
    methods = {}
    for name, row in rows.items():
        methods[name] = {
            "transductive": row.transductive,
            **mean_interval(row.accuracies),
            "min": float(row.accuracies.min()),
            "max": float(row.accuracies.max()),
            "seconds": row.seconds,
            "ms_per_episode": 1e3 * row.seconds / len(row.accuracies),
            "settings": row.settings,
        }
        peers = [name for name in rows if name.startswith("EasyFSL") and rows[name].transductive == row.transductive]
        if peers and name.startswith("edgevit"):
            best = max(peers, key=lambda peer: rows[peer].accuracies.mean())
            n = min(len(row.accuracies), len(rows[best].accuracies))
            methods[name]["gain"] = {"over": best, **mean_interval(row.accuracies[:n] - rows[best].accuracies[:n])}
    return methods


def table(title: str, methods: dict[str, Any]) -> str:
    """A few columns for the eye: per cent, the gain in points, milliseconds an episode."""
    lines = [title]
    for name, row in sorted(methods.items(), key=lambda item: (item[1]["transductive"], -item[1]["value"])):
        half, gain = row["high"] - row["value"], row.get("gain")
        against = f"{100 * gain['value']:+.2f} ± {100 * (gain['high'] - gain['value']):.2f}" if gain else ""
        kind = "transductive" if row["transductive"] else "inductive"
        accuracy = f"{100 * row['value']:.2f} ± {100 * half:.2f}"
        lines.append(f"  {kind:<12} {name:<40} {accuracy:<14} {against:<16} {row['ms_per_episode']:9.2f} ms")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
