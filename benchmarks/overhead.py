"""What the store and the pipeline cost over calling the stages by hand, interleaved.

    python -m benchmarks.overhead [--pairs 5]

Both sides run the same stages on the same inputs in one process: `pipeline.run` into an empty store, and the stage
functions alone, which write into plain folders.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.common import publish, spread
from edgevit.artifacts import Artifact, FileEntry, Manifest
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.pipeline import resolve, run, stage_function
from edgevit.recipe import Recipe, load_recipe

RECIPE = """\
name: overhead
datasets: {digits: {source: digits}}
stages:
  - {stage: train, id: model, model: deit_tiny_patch16_224, image_size: 32, data: digits.train, epochs: 40,
     model_args: {img_size: 32, patch_size: 8, embed_dim: 96, depth: 4, num_heads: 3}}
  - {stage: export, id: onnx, model: model}
  - {stage: quantize, id: int8, model: onnx, calibration: digits.train, min_sqnr_db: 0}
  - {stage: evaluate, id: accuracy, model: int8, data: digits.test}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "recipe.yaml"
        file.write_text(RECIPE)
        recipe = load_recipe(file)
        _by_hand(recipe, Path(folder) / "warm-up")
        by_hand: list[float] = []
        piped: list[float] = []
        for pair in range(pairs):
            sides = [(by_hand, _by_hand), (piped, _piped)]
            for seconds, side in sides if pair % 2 == 0 else reversed(sides):
                start = time.perf_counter()
                side(recipe, Path(folder) / f"{side.__name__}{pair}")
                seconds.append(time.perf_counter() - start)
    ratios = [piped_s / by_hand_s for by_hand_s, piped_s in zip(by_hand, piped, strict=True)]
    publish(
        "overhead", {"by_hand_s": spread(by_hand), "pipeline_s": spread(piped), "pipeline_over_by_hand": spread(ratios)}
    )


def _piped(recipe: Recipe, folder: Path) -> None:
    run(recipe, Path.cwd(), folder, Context())


def _by_hand(recipe: Recipe, folder: Path) -> None:
    done = dataset_artifacts(recipe.datasets, Path.cwd(), recipe.dataset_names())
    for config in recipe.stages:
        out, work = folder / config.id, folder / "work" / config.id
        out.mkdir(parents=True)
        work.mkdir(parents=True)
        contents = stage_function(config.name())(
            config, resolve(config, done), Context().at(config.id, work, folder / "cache"), out
        )
        names = [path.name for path in out.iterdir()]
        manifest = Manifest.model_construct(
            kind=contents.kind, id=config.id, key="", digest=config.id, config={}, inputs={}, io=contents.io,
            files={name: FileEntry(sha256="", size=0) for name in names}, metrics=contents.metrics,
            stage=config.name(), stage_version=config.version, model_file=contents.model_file,
        )  # fmt: skip
        done[config.id] = _Plain(out, manifest)


class _Plain(Artifact):
    """A stage's folder as it is: no hash is taken."""

    def file(self, name: str) -> Path:
        return self.path / name


if __name__ == "__main__":
    main()
