"""The NVIDIA GPUs of a target, as nvidia-smi lists them: the errors for none, no answer and several kinds."""

from __future__ import annotations

from collections.abc import Sequence

from edgevit.configs.targets import LOCAL_CPU
from edgevit.errors import TargetError


def no_gpu(name: str) -> TargetError:
    """The error for this machine without an NVIDIA GPU."""
    return TargetError(
        "there is no NVIDIA GPU here",
        where=name,
        got="nvidia-smi lists none",
        next=f"set target: {LOCAL_CPU}, or install NVIDIA's driver",
    )


def no_answer(name: str) -> TargetError:
    """The error for a machine whose nvidia-smi hangs, so that its GPUs are not known."""
    return TargetError(
        "nvidia-smi does not answer in time",
        where=name,
        next="run nvidia-smi by hand; if it hangs, too, restart the machine or its driver",
    )


def check_one_kind(name: str, models: Sequence[str]) -> None:
    """Raise TargetError if the GPUs of a machine are of several kinds.

    CUDA's first GPU need not be the first one of nvidia-smi, so the GPU that runs a model would not be known.
    """
    kinds = list(dict.fromkeys(models))
    if len(kinds) > 1:
        raise TargetError(
            "the GPUs are of several kinds, and it is not known which one runs the model",
            where=name,
            got=", ".join(kinds),
            expected="one GPU, or several of one kind",
            next=f"use another machine, or target: {LOCAL_CPU}",
        )
