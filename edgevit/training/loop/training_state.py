"""The saved state of a training, in its work folder, from which a killed run resumes."""

from __future__ import annotations

import io
import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import torch

from edgevit.context import Context
from edgevit.models.weights_files import TORCH_LOAD_ERRORS, load_tensors
from edgevit.sealed_files import opened_sealed, write_sealed

LAST, PREVIOUS = "last.pt", "previous.pt"
_STEP_BYTES = 8
State = dict[str, Any]


class TrainingState:
    """The last two saved states of a training, each with a hash.

    The hash covers `context.training`, too: a state that was moved here from another training is not loaded.
    """

    def __init__(self, context: Context) -> None:
        self.last, self._previous = context.work / LAST, context.work / PREVIOUS
        self._owner, self._say = f"training {context.training}", context.progress.say
        self._last_is_good = False

    def load(self) -> State | None:
        """The newest undamaged state, on the CPU; None if there is none. A note reports a damaged or missing state."""
        last = self._read(self.last)
        self._last_is_good = last is not None
        state = self._read(self._previous) if last is None else last
        if last is None and (self.last.exists() or self._previous.exists()):
            start = "its beginning" if state is None else "the state before it"
            self._say(f"    note: {self.last} is missing or damaged: the training goes on from {start}")
        return state

    def save(self, step: int, state: State) -> None:
        """Write a state in one step. The previous state is kept unless it is damaged."""
        serialized = io.BytesIO()
        torch.save(state, serialized)
        new = self.last.with_name(f"{LAST}.new")
        if self._last_is_good:  # the disk never holds three states
            self._previous.unlink(missing_ok=True)
        write_sealed(new, self._owner, step.to_bytes(_STEP_BYTES, "big"), serialized.getbuffer())
        if self._last_is_good:
            os.replace(self.last, self._previous)
        os.replace(new, self.last)
        self._last_is_good = True

    def saved_step(self) -> int | None:
        """The step after which the training would resume; None without an undamaged state."""
        for file in (self.last, self._previous):
            with opened_sealed(file, self._owner) as opened:
                if opened is not None:
                    return _step_in(opened)
        return None

    def _read(self, file: Path) -> State | None:
        with opened_sealed(file, self._owner) as opened:
            return None if opened is None else _state_in(opened)


def _state_in(file: BinaryIO) -> State | None:
    _step_in(file)
    try:
        state = load_tensors(file)
    except (pickle.UnpicklingError, *TORCH_LOAD_ERRORS):  # the hash is right, but `save` did not write the content
        return None
    return state if isinstance(state, dict) else None


def _step_in(file: BinaryIO) -> int:
    return int.from_bytes(file.read(_STEP_BYTES), "big")
