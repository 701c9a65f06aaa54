"""The precision of a training, by a trial of both where the stage asks for `auto`."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from edgevit.artifacts import Preprocess
from edgevit.configs import Training
from edgevit.context import Context
from edgevit.inference.precision import Precision, autocast, is_fast_in_bfloat16
from edgevit.training.decisions import keep_decision, kept_decision
from edgevit.training.distributed.processes import decided_by_rank_0
from edgevit.training.loop.attention import fastest_attention

DECISION = "precision"
TRIED: tuple[Precision, ...] = ("float32", "bfloat16")
MOST_IMAGES = 16  # of a step of the trial
ROUNDS = 3
LEAST_SPEEDUP = 1.05
TRAINING_OVER_TRIAL = 20  # least number of images that a training sees, for each image of the trial


def precision_of_training(
    config: Training, model: nn.Module | None, preprocess: Preprocess, images: int, context: Context
) -> Precision:
    """The precision in which a training computes. All ranks have to call it; rank 0 decides what `auto` takes.

    `auto` takes bfloat16 on a GPU that has it. A CPU that has instructions for it tries a few steps in float32 and in
    bfloat16, and takes the faster one. A training that is too short for a trial takes float32. The answer of the trial
    is kept in `context.work`, so a training that goes on there takes the same. The steps are plain ones of the whole
    model: `compile`, and a method that shows the model a part of the image, may differ.

    Args:
        model: the model on its device, as it is trained. It does not change. None: a training that is not short goes by
            the CPU's instructions.
        preprocess: of the model's input.
        images: the number of images that the training shows.
    """
    device = torch.device(context.device)
    if config.precision != "auto":
        if config.precision == "bfloat16" and not is_fast_in_bfloat16(device):
            context.progress.say(
                "    bfloat16 can take many times as long as float32 on this device, which has no instructions for it; "
                "precision: auto takes float32 here"
            )
        return config.precision

    def is_bfloat16() -> bool:
        taken, why = _by_itself(config, model, preprocess, images, context)
        context.progress.say(f"    precision auto takes {taken}: {why}")
        return taken == "bfloat16"

    return "bfloat16" if decided_by_rank_0(is_bfloat16, device) else "float32"


def _by_itself(
    config: Training, model: nn.Module | None, preprocess: Preprocess, images: int, context: Context
) -> tuple[Precision, str]:
    """What `auto` takes, and the reason in words."""
    device = torch.device(context.device)
    if not is_fast_in_bfloat16(device):
        return "float32", "the device has no instructions for bfloat16"
    if device.type != "cpu":
        return "bfloat16", "the device computes in it"
    batch = max(2, min(MOST_IMAGES, config.batch_size // config.accumulation))
    if images < TRAINING_OVER_TRIAL * len(TRIED) * (1 + ROUNDS) * batch:
        return "float32", "a short training"
    if model is None:
        return "bfloat16", "the device has instructions for it"
    if (kept := kept_decision(DECISION, TRIED, context)) is not None:
        return kept, "as before"
    seconds = step_seconds(model, preprocess, batch, config.channels_last)
    speedup = seconds["float32"] / seconds["bfloat16"]
    taken = faster_precision(speedup)
    keep_decision(DECISION, taken, context)
    return taken, f"a step in bfloat16 is {speedup:.2f} times as fast as in float32"


def faster_precision(speedup: float) -> Precision:
    """What `auto` takes where a step in bfloat16 is so many times as fast as in float32."""
    return "bfloat16" if speedup >= LEAST_SPEEDUP else "float32"


def step_seconds(
    model: nn.Module, preprocess: Preprocess, batch: int, channels_last: bool
) -> Mapping[Precision, float]:
    """The shortest time of a forward and a backward pass on the CPU, by precision.

    The passes are those of a copy, on random images. The precisions take turns.
    """
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(
        batch, 3, preprocess.height, preprocess.width, generator=torch.Generator().manual_seed(0)
    ).contiguous(memory_format=layout)
    tried = copy.deepcopy(model).train()
    with torch.random.fork_rng(devices=[]):
        for precision in TRIED:
            _step(tried, images, precision)
        rounds = [{precision: _seconds(tried, images, precision) for precision in TRIED} for _ in range(ROUNDS)]
    return {precision: min(times[precision] for times in rounds) for precision in TRIED}


def _seconds(model: nn.Module, images: Tensor, precision: Precision) -> float:
    start = time.perf_counter()
    _step(model, images, precision)
    return time.perf_counter() - start


def _step(model: nn.Module, images: Tensor, precision: Precision) -> None:
    model.zero_grad()
    with fastest_attention(model, images.device, precision):
        with autocast(images.device, precision):
            outputs = model(images)
        answers = outputs if isinstance(outputs, tuple | list) else (outputs,)
        loss = torch.stack([answer.float().square().mean() for answer in answers]).sum()
        if loss.requires_grad:
            loss.backward()  # type: ignore[no-untyped-call]
