"""EasyFSL's methods on features and episodes from a file; runs in an environment of its own, without edgevit.

    PYTHON easyfsl_episodes.py TASKS.npz ANSWER.json [--slow-episodes 100]

PYTHON has easyfsl 1.5.0. TASKS.npz holds `features` (n, d), `centre` (d,) and, flat over all episodes, the positions
`support` and `queries`, the labels `support_labels` and `query_labels`, and `query_counts`, one for each episode.

Every method runs as its authors' benchmark runs it (scripts/methods_configs.json, chosen on miniImageNet's validation
classes): features divided by their length, and these step counts, rates and temperatures. All but PT-MAP, which needs
features that are not negative, also run on features relative to `centre`, as SimpleShot's paper has it. Left out:
MatchingNetworks, RelationNetworks and FEAT, which need trained modules of their own.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import easyfsl
import numpy as np
import torch
from easyfsl.methods import (
    BDCSPN,
    PTMAP,
    TIM,
    FewShotClassifier,
    Finetune,
    LaplacianShot,
    PrototypicalNetworks,
    SimpleShot,
    TransductiveFinetuning,
)
from torch import Tensor

Episode = tuple[Tensor, Tensor, Tensor, Tensor]  # positions and labels of the support, then of the queries
NORMALISED = {"feature_normalization": 2}
FINETUNE = {"fine_tuning_steps": 50, "fine_tuning_lr": 1e-4, "temperature": 10.0}
METHODS: dict[str, tuple[type[FewShotClassifier], dict[str, Any]]] = {
    "prototypical_networks": (PrototypicalNetworks, {}),
    "simple_shot": (SimpleShot, {}),
    "finetune": (Finetune, FINETUNE),
    "bd_cspn": (BDCSPN, {}),
    "laplacian_shot": (LaplacianShot, {"inference_steps": 10, "knn": 3, "lambda_regularization": 0.1}),
    "pt_map": (
        PTMAP,
        {"fine_tuning_steps": 30, "fine_tuning_lr": 0.3, "lambda_regularization": 10, "power_factor": 0.5},
    ),
    "tim": (
        TIM,
        {
            "fine_tuning_steps": 50,
            "fine_tuning_lr": 1e-3,
            "cross_entropy_weight": 1.0,
            "marginal_entropy_weight": 1.0,
            "conditional_entropy_weight": 0.5,
            "temperature": 10.0,
        },
    ),
    "transductive_finetuning": (
        TransductiveFinetuning,
        {"fine_tuning_steps": 10, "fine_tuning_lr": 1e-4, "temperature": 10.0},
    ),
}
SLOW = ("pt_map",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tasks", type=Path)
    parser.add_argument("answer", type=Path)
    parser.add_argument("--slow-episodes", type=int, default=100, help="how many of the episodes PT-MAP runs on")
    parser.add_argument("--threads", type=int, default=2)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    with np.load(asked.tasks) as file:
        tasks = {name: torch.from_numpy(file[name]) for name in file.files}
    episodes = list(_episodes(tasks))
    rows = {}
    for name, (method, settings) in METHODS.items():
        played = episodes[: asked.slow_episodes] if name in SLOW else episodes
        rows[name] = _play(method, settings, tasks["features"], played)
        if method is not PTMAP:
            rows[f"{name}, centred"] = _play(method, settings, tasks["features"], played, tasks["centre"])
    asked.answer.write_text(json.dumps(rows))


def _episodes(tasks: dict[str, Tensor]) -> Iterator[Episode]:
    counts = tasks["query_counts"].tolist()
    supports = zip(*(tasks[name].chunk(len(counts)) for name in ("support", "support_labels")), strict=True)
    queries = zip(*(tasks[name].split(counts) for name in ("queries", "query_labels")), strict=True)
    for support, query in zip(supports, queries, strict=True):
        yield (*support, *query)


@torch.no_grad()
def _play(
    method: type[FewShotClassifier],
    settings: dict[str, Any],
    features: Tensor,
    episodes: list[Episode],
    centre: Tensor | None = None,
) -> dict[str, Any]:
    classifier = method(torch.nn.Identity(), feature_centering=centre, **NORMALISED, **settings)
    accuracies, seconds = [], 0.0
    for support, support_labels, queries, query_labels in episodes:
        start = time.perf_counter()
        classifier.process_support_set(features[support], support_labels)
        predicted = classifier(features[queries]).argmax(1)
        seconds += time.perf_counter() - start
        accuracies.append(float((predicted == query_labels).float().mean()))
    return {
        "transductive": method.is_transductive(),
        "settings": {"easyfsl": easyfsl.__version__, "centred": centre is not None, **NORMALISED, **settings},
        "accuracies": accuracies,
        "seconds": seconds,
    }


if __name__ == "__main__":
    main()
