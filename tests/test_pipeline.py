"""The loop, its run folder, and the commands around it, on a recipe of seconds."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from edgevit import pipeline
from edgevit.artifacts import MANIFEST, Artifact, Contents
from edgevit.cli import main
from edgevit.configs import Load
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.progress import PlainProgress
from edgevit.recipe import Recipe, load_recipe
from edgevit.store import Store, ingredients

EDGEVIT = str(Path(sys.executable).with_name("edgevit"))
RECIPE = """\
name: small
budget: {size_mib: 0.01}
datasets: {digits: {source: digits, few_shot: {shots: 2}}}
stages:
  - {stage: load, id: model, model: deit_tiny_patch16_224, image_size: 32, classes_of: digits,
     model_args: {patch_size: 8, embed_dim: 48, depth: 1, num_heads: 3}}
  - {stage: evaluate, id: accuracy, model: model, data: digits.support}
  - {stage: report, id: report, of: [accuracy]}
"""


class Small:
    """The recipe in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.file, self.runs = folder / "recipe.yaml", folder / "runs"
        self.file.write_text(RECIPE)

    def recipe(self, old: str = "", new: str = "") -> Recipe:
        assert old in RECIPE
        self.file.write_text(RECIPE.replace(old, new) if old else RECIPE)
        return load_recipe(self.file)

    def run(self, recipe: Recipe | None = None, fresh: tuple[str, ...] = ()) -> dict[str, Artifact]:
        return pipeline.run(recipe or self.recipe(), self.file.parent, self.runs, Context(), fresh)

    def command(self, *arguments: str) -> int:
        """What `edgevit` with these arguments exits with."""
        return status_of(*arguments, "--runs", str(self.runs))


def status_of(*arguments: str) -> int:
    """What `edgevit` exits with, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["edgevit", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


@pytest.fixture
def small(tmp_path: Path) -> Small:
    return Small(tmp_path)


def test_the_run_folder_shows_each_stage(small: Small) -> None:
    done = small.run()
    for name in ("model", "accuracy", "report"):
        assert Artifact.load(small.runs / "small" / name) == done[name]
    assert small.run() == done
    assert not any(answer.runs for answer in pipeline.why(small.recipe(), small.file.parent, small.runs))


def test_why_names_what_changed(small: Small) -> None:
    small.run()
    changed = small.recipe("depth: 1", "depth: 2")
    answers = {answer.id: answer for answer in pipeline.why(changed, small.file.parent, small.runs)}
    assert answers["model"].reasons == ("model_args.depth: 1 → 2",)
    assert answers["report"].reasons == ("it needs accuracy, to be made first",)
    budget = small.recipe("size_mib: 0.01", "size_mib: 9")
    assert [answer.id for answer in pipeline.why(budget, small.file.parent, small.runs) if answer.runs] == ["report"]


def test_a_report_follows_the_names_in_it(small: Small) -> None:
    small.run()
    small.run(small.recipe("name: small", "name: other"))
    assert json.loads((small.runs / "other" / "report" / "report.json").read_text())["name"] == "other"


def test_a_report_is_of_one_run(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.run()
    small.run(small.recipe("name: small", "name: other"))
    assert status_of("report", str(small.runs)) == 2
    assert f"one of {small.runs / 'other'}, {small.runs / 'small'}" in capsys.readouterr().err
    assert status_of("report", str(small.runs / "other")) == 0
    assert capsys.readouterr().out.startswith("# other")


def test_an_id_that_becomes_a_folder(small: Small) -> None:
    first = small.run()
    report = "  - {stage: report, id: report, of: [accuracy]}\n"
    small.file.write_text(RECIPE.replace(report, "").replace("id: accuracy", "id: accuracy/float"))
    second = small.run(load_recipe(small.file))
    assert (small.runs / "small" / "accuracy" / "float" / MANIFEST).is_file()
    assert sorted(path.name for path in first["accuracy"].path.iterdir()) == sorted(
        path.name for path in second["accuracy/float"].path.iterdir()
    )


def test_runs_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "near").symlink_to(tmp_path / "far" / "away")
    small = Small(tmp_path)
    small.runs = tmp_path / "near" / "runs"
    small.run()
    assert (small.runs / "small" / "model" / MANIFEST).is_file()


def test_an_altered_checkpoint_is_refused_and_made_again(small: Small) -> None:
    done = small.run()
    weights = done["model"].path / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ArtifactError, match="altered"):
        small.run(fresh=("accuracy",))
    assert small.run(fresh=("model",))["model"].digest == done["model"].digest
    small.run(fresh=("accuracy",))


def test_a_damaged_manifest_is_made_again(small: Small) -> None:
    done = small.run()
    (done["accuracy"].path / MANIFEST).write_text("{")
    assert small.run()["accuracy"].digest == done["accuracy"].digest


def test_damage_in_the_run_folder_is_mended_and_said(
    small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = small.run()
    for name in ("model", "report"):
        manifest = done[name].path / MANIFEST
        manifest.write_text(manifest.read_text().replace('"seconds": ', '"seconds": 1'))
    assert "manifest.json was altered" in refused_report(small, capsys, monkeypatch)
    planned = {answer.id: answer for answer in pipeline.why(small.recipe(), small.file.parent, small.runs)}
    assert planned["model"].reasons == ("its manifest was altered",)
    assert pipeline.finished(small.recipe(), small.runs).keys() == {"accuracy"}
    said = io.StringIO()
    pipeline.run(small.recipe(), small.file.parent, small.runs, Context(progress=PlainProgress(said)))
    assert said.getvalue().count("manifest.json was altered after it was written; it is made again") == 2
    assert Artifact.load(small.runs / "small" / "model").digest == done["model"].digest


def test_an_altered_report_is_not_printed(
    small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = small.run()["report"].path
    for name in ("report.json", "report.md"):
        (report / name).write_text((report / name).read_text().replace("0.", "1.", 1))
    for arguments in ([], ["--json"]):
        assert "the file was altered after it was made" in refused_report(small, capsys, monkeypatch, *arguments)


def test_a_bundle_in_the_run_folder_with_a_damaged_manifest_is_shown_anew(tmp_path: Path) -> None:
    store, config = Store(tmp_path / "store"), Load(stage="load", id="model", model="resnet18")

    def write(out: Path, work: Path) -> Contents:
        (out / "labels.txt").write_text("cat")
        return Contents(kind="bundle")

    bundle = store.make(config, {}, ingredients(config, {}, None, None), write)
    run = tmp_path / "run"
    pipeline._show(bundle, run, "bundle")
    (run / "bundle" / MANIFEST).write_text("{")
    pipeline._show(bundle, run, "bundle")
    assert Artifact.load(run / "bundle").digest == bundle.digest
    assert len([*run.glob("bundle.before-*")]) == 1


def refused_report(
    small: Small, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> str:
    monkeypatch.setattr(sys, "argv", ["edgevit", "report", str(small.runs / "small"), *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_a_budget_that_is_not_met_is_status_1(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.command("run", str(small.file)) == 1
    assert "does not meet the budget" in capsys.readouterr().out
    assert small.command("run", str(small.file), "--check") == 1
    again = capsys.readouterr().out
    assert "nothing to do" in again
    assert "--check compared nothing" in again


def test_a_dry_run_checks_what_is_to_be_made_again(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    assert small.command("run", str(small.file), "--dry-run", "--fresh", "modell") == 2
    assert "Did you mean 'model'?" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_said(small: Small, capsys: pytest.CaptureFixture[str]) -> None:
    small.runs = Path("/proc/none")
    assert small.command("run", str(small.file)) == 2
    said = capsys.readouterr().err
    assert "error: /proc/none" in said
    assert "Traceback" not in said


def test_control_c_says_that_the_run_goes_on(small: Small) -> None:
    command = [EDGEVIT, "run", str(small.file), "--runs", str(small.runs)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert "[1/3] model" in process.stderr.readline()
    time.sleep(0.2)
    while process.poll() is None:  # while torch is being imported, Python may lose the first one
        os.kill(process.pid, signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
    _, rest = process.communicate()
    assert process.returncode == 130
    # The program is called by its name where the shell finds it: in an activated environment.
    assert re.search(
        rf"continues from here\nnext: (?:{re.escape(EDGEVIT)}|edgevit) run {re.escape(str(small.file))}", rest
    )


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell the peak of this process alone")
def test_the_largest_memory_is_that_of_the_run_and_not_of_the_process_that_started_it() -> None:
    run = "from edgevit.pipeline import _peak_rss_mib; print(_peak_rss_mib())"
    start = f"import subprocess, sys; held = b'1' * 2**30; subprocess.run([sys.executable, '-c', {run!r}], check=True)"
    shown = subprocess.run([sys.executable, "-c", start], check=True, capture_output=True, text=True).stdout
    assert 0 < float(shown) < 700
