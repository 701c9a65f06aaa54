"""Several ranks train as one process does, and where one dies the run ends, says so, and can go on."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from typer.testing import CliRunner

from edgevit.artifacts import Artifact, Contents, IOSpec
from edgevit.cli import app
from edgevit.configs import (
    Augmentation,
    CrossEntropy,
    FeatureDistillation,
    HardDistillation,
    Objective,
    SoftDistillation,
    TeacherCache,
    Train,
)
from edgevit.context import Context
from edgevit.data.dataset import Dataset
from edgevit.errors import DataError, RecipeError, TrainingError
from edgevit.models import create_model
from edgevit.pipeline import ingredients_of
from edgevit.progress import PlainProgress
from edgevit.sealed_files import opened_sealed
from edgevit.training.classifier_learner import ClassifierLearner
from edgevit.training.distillation.feature_projectors import teacher_taps, with_projectors
from edgevit.training.distillation.teacher_cache import CachedTeacher
from edgevit.training.distillation.teachers import LiveTeacher, PlainTeacher, Teacher
from edgevit.training.distributed.processes import on_ranks, rank
from edgevit.training.distributed.sharding import check_can_shard, is_asked, local, shard, units
from edgevit.training.loop.batches import Batch, Batches, TrainingStream
from edgevit.training.loop.fit import fit
from edgevit.training.loop.optimization import optimizer_for
from edgevit.training.loop.setup import label_loss
from edgevit.training.loop.streams import sampled
from edgevit.training.loop.training_state import TrainingState
from edgevit.training.loop.validation import top1_on
from edgevit.training.objectives import ObjectiveFunction, Outputs, distillation_objective, label_objective
from tests.learning import blobs, published_checkpoint, tiny_token_vit, tiny_vit, train_config, unbalanced_blobs

PREPROCESS = tiny_vit().preprocess
MIXED = Augmentation(scale=(0.9, 1.0), mixup=0.8, cutmix=1.0)
LABELLED = (TrainingStream(blobs()),)
# Rows 0 to 2 of 7 have labels: two of rank 0's four rows, one of rank 1's three.
UNEVEN = (
    TrainingStream(blobs(), 0.4),
    TrainingStream(blobs("blobs.pool", seed=5, labelled=False), 0.6, labelled=False),
)
TERMS = (CrossEntropy(weight=0.5), SoftDistillation(weight=0.3), HardDistillation(weight=0.2, samples="unlabelled"))
FEATURES = (FeatureDistillation(student=0, teacher=0),)


def train(folder: Path, context: Context, **changes: Any) -> nn.Module:
    """A training run of 12 steps or so, in and into a folder of its own."""
    folder.mkdir(exist_ok=True)
    return fitted(tiny_vit().module, label_objective(3), LABELLED, folder, context, **changes)


def train_balanced(folder: Path, context: Context, option: str) -> nn.Module:
    folder.mkdir(exist_ok=True)
    config = train_config(**{option: "balanced"})
    streams = sampled([TrainingStream(unbalanced_blobs())], config.sampling)
    objective = label_objective(3, label_loss=label_loss(config, streams))
    changes: dict[str, Any] = {"accumulation": 2, "augmentation": MIXED, "epochs": 6}
    return fitted(tiny_vit().module, objective, tuple(streams), folder, context, **changes)


def fitted(
    model: nn.Module,
    objective: ObjectiveFunction,
    streams: tuple[TrainingStream, ...],
    folder: Path,
    context: Context,
    val: Dataset | None = None,
    save_every_s: float = 20.0,
    **changes: Any,
) -> nn.Module:
    config = train_config(**{"epochs": 3, "optimizer": "sgd", "learning_rate": 0.1, **changes})
    at = replace(context, work=folder)
    learner = ClassifierLearner(model, objective, PREPROCESS)
    validate = None if val is None else top1_on(val, PREPROCESS, "cpu", config.batch_size)
    trained, _ = fit(learner, streams, config, at, out=folder, validate=validate, save_every_s=save_every_s)
    assert isinstance(model, FSDPModule) == is_asked(context)
    return trained


def teacher(taps: tuple[Objective, ...] = (), shard: bool = False) -> LiveTeacher:
    io, cpu = IOSpec.for_classifier(PREPROCESS, ("a", "b", "c")), torch.device("cpu")
    return LiveTeacher(tiny_vit(seed=7).module, io, io.classes, cpu, teacher_taps(taps) or None, shard=shard)


def distil(folder: Path, context: Context, who: Teacher | None = None, **changes: Any) -> nn.Module:
    folder.mkdir(exist_ok=True)
    objective = distillation_objective(TERMS, who or teacher(shard=is_asked(context)), 3, label_smoothing=0.1)
    changes = {"batch_size": 7, "augmentation": MIXED, "epochs": 2, **changes}
    return fitted(tiny_token_vit().module, objective, UNEVEN, folder, context, **changes)


def distil_features(folder: Path, context: Context) -> nn.Module:
    folder.mkdir(exist_ok=True)
    asked = teacher(FEATURES, is_asked(context))
    student = with_projectors(tiny_vit(), FEATURES, asked.channels, seed=0)
    return fitted(student, distillation_objective(FEATURES, asked, 3), LABELLED, folder, context, weight_decay=0.1)


def distil_from_cache(folder: Path, context: Context) -> nn.Module:
    cached = CachedTeacher(teacher, folder / "cache", {"ranks": "any"}, TeacherCache(), 3, 7)
    distil(folder, context, cached)
    assert cached.found == 0
    again = distil(folder / "again", context, cached)
    assert cached.found == cached.computed
    return again


def distil_by_plain_images(folder: Path, context: Context) -> nn.Module:
    io, cpu = IOSpec.for_classifier(PREPROCESS, ("a", "b", "c")), torch.device("cpu")
    datasets = [stream.dataset for stream in UNEVEN]
    who = PlainTeacher(
        tiny_vit(seed=7).module, io, ("a", "b", "c"), cpu, datasets, [], folder / "cache", context.progress
    )
    keys = []
    for file in (folder / "cache").rglob("*.npz"):
        with opened_sealed(file, f"embeddings {file.parent.name}") as stream:
            assert stream is not None
            keys += [key.tobytes() for key in np.load(stream)["keys"]]
    assert len(keys) == len(set(keys)), "one rank computes what the others find"
    return distil(folder, context, who)


LONG: dict[str, Any] = {"epochs": 12, "learning_rate": 0.02}
Case = Callable[[Path, Context], nn.Module]
CASES: dict[str, Case] = {
    "labels": train,
    "adamw": lambda folder, context: train(folder, context, optimizer="adamw", learning_rate=2e-3),
    "long": lambda folder, context: train(folder, context, **LONG),
    "validated": lambda folder, context: train(folder, context, val=blobs("blobs.val", 2, seed=9), ema_decay=0.9),
    "uneven": lambda folder, context: train(folder, context, batch_size=5, clip_grad_norm=1.0),
    "computed again": lambda folder, context: train(folder, context, grad_checkpointing=True),
    "parts": lambda folder, context: train(folder, context, accumulation=2),
    "precision of rank 0": lambda folder, context: train(folder, context, precision="auto"),
    "uneven in parts": lambda folder, context: train(folder, context, batch_size=5, accumulation=3),
    "balanced": lambda folder, context: train_balanced(folder, context, "sampling"),
    "weighted": lambda folder, context: train_balanced(folder, context, "class_weights"),
    "mixed": lambda folder, context: train(folder, context, augmentation=MIXED),
    "distilled": distil,
    "distilled in parts": lambda folder, context: distil(folder, context, accumulation=2),
    "features": distil_features,
    "cached": distil_from_cache,
    "plain": distil_by_plain_images,
}
QUICK = ("validated", "distilled", "distilled in parts")
GROUPS = {"quick": QUICK, "slow": tuple(name for name in CASES if name not in QUICK)}  # each is started once


@on_ranks
def cases_of_group(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    """The id of the configuration is the name of the group."""
    for name in GROUPS[config.id]:
        trained = CASES[name](context.work / name, context)
        torch.save(trained.state_dict(), out / f"{name}.pt")
    context.progress.say(f"rank {rank()} is done")
    return Contents(kind="checkpoint", metrics={"stage": context.stage_id})


class Heard(PlainProgress):
    """Progress that is remembered."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)


def launch(run: Callable[..., Contents], folder: Path, ranks: int, group: str = "quick", **changes: Any) -> Contents:
    folder.mkdir(exist_ok=True)
    context = Context(**{"ranks": ranks, "work": folder, "workers": 0, "stage_id": "student", **changes})
    return run(train_config(id=group), {}, context, folder)


class Trainings(NamedTuple):
    """The folders of a group's cases with one rank, with two, and with two that hold half of the weights each."""

    one: Path
    whole: Path
    halves: Path
    lines: list[str]
    metrics: Mapping[str, Any]


@on_ranks
def all_on_two(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    metrics: dict[str, Any] = {}
    for name, in_halves in (("whole", False), ("halves", True)):
        at, files = replace(context, work=context.work / name, shard=in_halves), out / name
        for folder in (at.work, files):
            folder.mkdir(exist_ok=True)
        metrics |= cases_of_group(config, inputs, at, files).metrics
    break_off_and_go_on(config, inputs, at, files)
    metrics |= hold_halves(config, inputs, at, files).metrics
    return Contents(kind="checkpoint", metrics=metrics)


@pytest.fixture(scope="module")
def trainings_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Trainings]:
    @cache
    def started(group: str) -> Trainings:
        two, heard = tmp_path_factory.mktemp("two"), Heard()
        metrics = launch(all_on_two, two, 2, group, progress=heard).metrics
        assert metrics["stage"] == "student"
        assert "student: 12/12 steps" in heard.lines[0]
        assert heard.lines.count("rank 0 is done") == 2
        assert "rank 1 is done" not in heard.lines
        one = tmp_path_factory.mktemp("one")
        launch(cases_of_group, one, 1, group)
        return Trainings(one, two / "whole", two / "halves", heard.lines, metrics)

    return started


@pytest.fixture(scope="module")
def quick(trainings_of: Callable[[str], Trainings]) -> Trainings:
    return trainings_of("quick")


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("halves", [False, True], ids=["whole", "in halves"])
@pytest.mark.parametrize(
    ("group", "name"),
    [
        pytest.param(group, name, id=name, marks=pytest.mark.slow if group == "slow" else [])
        for group, names in GROUPS.items()
        for name in names
    ],
)
def test_two_ranks_train_as_one_process_does(
    trainings_of: Callable[[str], Trainings], group: str, name: str, halves: bool
) -> None:
    trainings = trainings_of(group)
    pair = trainings.one, trainings.halves if halves else trainings.whole
    one, two = (rows(folder / name) for folder in pair)
    assert len(one) == len(two) >= 12
    for ours, theirs in zip(one, two, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
        assert all(ours[key] == theirs[key] for key in ("step", "epoch", "learning_rate"))
        for key in ("top1", "val_top1"):  # a rounding may turn one answer of a batch of five
            assert (key in ours) == (key in theirs)
            assert ours.get(key, 0) == pytest.approx(theirs.get(key, 0), abs=0.2 + 1e-6)
    weights, others = (torch.load(folder / f"{name}.pt", weights_only=True) for folder in pair)
    for key, weight in weights.items():
        torch.testing.assert_close(weight, others[key], atol=1e-4, rtol=1e-4, msg=key)


def test_parts_of_a_batch_are_weighted_by_what_has_labels(quick: Trainings) -> None:
    """Some of the parts have no label at all."""
    whole, parts = (rows(quick.one / name) for name in ("distilled", "distilled in parts"))
    for ours, theirs in zip(whole, parts, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


def slowly(outputs: Outputs, batch: Batch) -> Tensor:
    time.sleep(0.03)
    return label_objective(3)(outputs, batch)


@on_ranks
def train_slowly(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    trained = fitted(tiny_vit().module, slowly, LABELLED, context.work, context, save_every_s=0.0, **LONG)
    torch.save(trained.state_dict(), out / "weights.pt")
    return Contents(kind="checkpoint")


def processes_of(session: int) -> set[int]:
    found = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rsplit(")", 1)[1].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.add(int(status.parent.name))
    return found


def wait_until(true: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.slow
def test_kill_9_of_a_rank_ends_the_run_which_then_goes_on(
    trainings_of: Callable[[str], Trainings], tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    before = processes_of(os.getsid(0))
    killed: list[float] = []

    def kill() -> None:
        while not (broken / "last.pt").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        second = max(multiprocessing.active_children(), key=lambda process: int(process.name.rsplit("-", 1)[1]))
        os.kill(second.pid or 0, signal.SIGKILL)
        killed.append(time.monotonic())

    threading.Thread(target=kill).start()
    with pytest.raises(TrainingError) as ended:
        launch(train_slowly, broken, 2, workers=1)
    assert time.monotonic() - killed[0] < 60  # rather than the half hour that a lost rank is waited for
    wait_until(lambda: processes_of(os.getsid(0)) <= before, 60)
    step = TrainingState(Context(work=broken)).saved_step()
    assert step is not None
    assert 0 < step < 48
    assert "stage 'student': a process of the training died" in str(ended.value)
    assert "rank 1 of 2" in str(ended.value)
    assert "was ended by SIGKILL" in str(ended.value)
    assert f"the same command goes on after step {step}" in str(ended.value)

    heard = Heard()
    launch(train_slowly, broken, 2, progress=heard)
    assert heard.lines[0] == f"    goes on after step {step} of 48"
    unbroken = torch.load(trainings_of("slow").whole / "long.pt", weights_only=True)
    resumed = torch.load(broken / "weights.pt", weights_only=True)
    for key, weight in unbroken.items():
        assert torch.equal(weight, resumed[key]), key


@on_ranks
def fail(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    def objective(outputs: Outputs, batch: Batch) -> Tensor:
        if rank() == 1 and batch.step == 2:
            raise DataError("this image cannot be read", where="7.jpg")
        return label_objective(3)(outputs, batch)

    fitted(tiny_vit().module, objective, LABELLED, context.work, context)
    return Contents(kind="checkpoint")


@pytest.mark.slow
def test_error_of_a_rank_is_the_error_of_the_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"7\.jpg: this image cannot be read"):
        launch(fail, tmp_path, 2)
    assert not multiprocessing.active_children()


@on_ranks
def has_a_bug(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    return Contents(kind="checkpoint", metrics={"one over the rank": 1 / rank()})


@pytest.mark.slow
def test_bug_keeps_the_traceback_of_its_rank(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)rank 0: Traceback.*ZeroDivisionError"):
        launch(has_a_bug, tmp_path, 2)


HALF_TRAINED: dict[str, Any] = {"optimizer": "adamw", "learning_rate": 2e-3, "ema_decay": 0.9, "save_every_s": 0.0}


@on_ranks
def break_off_and_go_on(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    def breaks_off(outputs: Outputs, batch: Batch) -> Tensor:
        if batch.step == 9:
            raise DataError("broken off")
        return label_objective(3)(outputs, batch)

    folders = [context.work / name for name in ("unbroken", "broken")]
    for folder in folders:
        folder.mkdir(exist_ok=True)
    with pytest.raises(DataError, match="broken off"):
        fitted(tiny_vit().module, breaks_off, LABELLED, folders[1], context, **HALF_TRAINED)
    unbroken, resumed = (train(folder, context, **HALF_TRAINED).state_dict() for folder in folders)
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    return Contents(kind="checkpoint")


def test_training_of_weights_in_parts_goes_on_to_the_same_bits(quick: Trainings) -> None:
    assert "    goes on after step 9 of 12" in quick.lines


@on_ranks
def hold_halves(config: Train, inputs: Mapping[str, Artifact], context: Context, out: Path) -> Contents:
    model = tiny_vit(depth=4).module
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(rank()))
    whole = sum(parameter.numel() for parameter in model.parameters())
    expected = model.eval()(images)
    shard(model, torch.device("cpu"))
    torch.testing.assert_close(model(images), expected)
    model(images).sum().backward()
    optimizer = optimizer_for(model, config)
    optimizer.step()
    kept = list(model.parameters())
    gradients = [parameter.grad for parameter in kept if parameter.grad is not None]
    moments = [state["exp_avg"] for state in optimizer.state.values()]
    shares = [sum(local(one).numel() for one in held) / whole for held in (kept, gradients, moments)]
    gathered = sum(isinstance(module, FSDPModule) for module in model.modules())
    return Contents(kind="checkpoint", metrics={"shares": shares, "units": gathered})


def test_a_rank_of_two_holds_half_of_weights_gradients_and_moments(quick: Trainings) -> None:
    found = quick.metrics
    assert found["shares"] == pytest.approx([0.5] * 3, abs=0.05)
    assert found["units"] == 5, "four blocks, and the rest"


def names_of_units(network: nn.Module) -> list[str]:
    names = {module: name for name, module in network.named_modules()}
    return [names[unit] for unit in units(network)]


def test_units_are_blocks_also_where_a_stage_is_no_sequence() -> None:
    found = names_of_units(create_model("regnety_002", 3, 32).module)
    assert len(found) >= 8
    assert all(re.fullmatch(r"s\d\.b\d", name) for name in found)
    assert names_of_units(tiny_vit(depth=3).module) == ["blocks.2", "blocks.1", "blocks.0"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [({"optimizer": "muon"}, "adamw"), ({"precision": "float16"}, "bfloat16"), ({"compile": True}, "compile: false")],
)
def test_options_that_weights_in_parts_do_not_allow_are_refused(changes: dict[str, Any], expected: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"(?s)stage 'model'.*'{next(iter(changes))}' does not go with --shard.*{expected}"
    ):
        check_can_shard(train_config(**changes))
    check_can_shard(train_config())


def test_shard_without_ranks_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    answer = subprocess.run(
        [*EDGEVIT, "run", str(tmp_path / "recipe.yaml"), "--shard"], capture_output=True, text=True, check=False
    )
    assert answer.returncode == 2
    assert "--ranks 2" in answer.stderr


def test_batch_smaller_than_its_ranks_is_refused() -> None:
    with pytest.raises(RecipeError, match="too small for its ranks"):
        Batches(LABELLED, PREPROCESS, None, batch_size=2, epochs=1, seed=0, part=0, parts=3)


def test_help_names_ranks() -> None:
    text = CliRunner(env={"COLUMNS": "80", "TERM": "dumb"}).invoke(app, ["run", "--help"]).stdout
    assert "--ranks" in text
    assert "Processes that share a training" in text


def test_keys_know_nothing_of_ranks(tmp_path: Path) -> None:
    inputs = {"data": published_checkpoint(tmp_path, tiny_vit(), ("a", "b", "c"))}
    contexts = (Context(), Context(ranks=2), Context(ranks=2, shard=True))
    first, *others = (ingredients_of(train_config(), inputs, context) for context in contexts)
    assert others == [first, first]


RECIPE = """\
name: small
datasets: {digits: {source: digits, few_shot: {shots: 8}}}
stages:
  - {stage: train, id: teacher, model: vit_tiny_patch16_224, image_size: 32, data: digits.support, epochs: 40,
     batch_size: 16, model_args: &small {patch_size: 8, embed_dim: 48, depth: 2, num_heads: 3}}
  - {stage: distill, id: student, teacher: teacher, model: vit_tiny_patch16_224, image_size: 32, epochs: 5,
     batch_size: 15, model_args: *small, augmentation: {mixup: 0.2}, teacher_cache: {},
     streams: [{data: digits.support, share: 0.4}, {data: digits.pool, share: 0.6}]}
  - {stage: fewshot, id: tuned, method: finetune, model: student, support: digits.support, epochs: 2}
"""
EDGEVIT = [sys.executable, "-c", "from edgevit.cli import main; main()"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--no-python"]


class Run:
    """The recipe in a folder of its own."""

    def __init__(self, folder: Path, *options: str, launcher: Sequence[str] = ()) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "recipe.yaml").write_text(RECIPE)
        self.runs = folder / "runs"
        arguments = ["run", str(folder / "recipe.yaml"), "--runs", str(self.runs), "--workers", "0", "--json"]
        self.command = [*launcher, *EDGEVIT, *arguments, "--device", "cpu", *options]

    def finish(self) -> dict[str, dict[str, Any]]:
        """Run to the end; what each stage made."""
        answer = subprocess.run(self.command, capture_output=True, text=True, check=False)
        assert answer.returncode == 0, answer.stderr
        stages: dict[str, dict[str, Any]] = json.loads(answer.stdout)["stages"]
        return stages

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )

    def saves(self) -> bool:
        return any(self.runs.glob(".store/work/*/last.pt"))


def digests(stages: Mapping[str, Mapping[str, object]]) -> dict[str, Any]:
    return {name: stage["digest"] for name, stage in stages.items()}


@pytest.mark.slow
def test_recipe_on_two_ranks(tmp_path: Path) -> None:
    """From the command line: what torchrun's ranks make, what a killed run makes, and what it says when it is."""
    made = Run(tmp_path / "unbroken", "--ranks", "2").finish()
    assert not any(stage["made"] for stage in Run(tmp_path / "unbroken").finish().values())
    assert digests(Run(tmp_path / "torchrun", launcher=TORCHRUN).finish()) == digests(made)
    assert digests(Run(tmp_path / "halves", "--shard", launcher=TORCHRUN).finish()).keys() == made.keys()

    broken = Run(tmp_path / "broken", "--ranks", "2")
    process = broken.start()
    wait_until(broken.saves, 60)
    os.kill(max(ranks_below(process.pid)), signal.SIGKILL)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "error: stage 'teacher': a process of the training died" in said
    assert "the same command goes on after step" in said
    assert "Traceback" not in said
    assert "leaked" not in said
    wait_until(lambda: not processes_of(process.pid), 5)

    process = broken.start()
    wait_until(lambda: len(ranks_below(process.pid)) == 2, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=20)
    wait_until(lambda: not processes_of(process.pid), 5)
    assert digests(broken.finish()) == digests(made)


def ranks_below(pid: int) -> list[int]:
    """The processes that lead groups of their own in the session of `pid`."""
    return [one for one in processes_of(pid) if one != pid and os.getpgid(one) == one]
