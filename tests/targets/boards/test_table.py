"""The table of boards: which GPUs have FP8."""

from __future__ import annotations

import pytest

from edgevit.targets.boards.table import BOARDS, SOCS, Board, has_fp8


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_of_jetsons_a_thor_alone_has_fp8(board: Board) -> None:
    assert has_fp8(SOCS[board.soc].compute_capability) is board.name.startswith("Jetson Thor")


@pytest.mark.parametrize("capability", ["8.9", "9.0", "10.0", "11.0", "12.0", "12.1"])
def test_gpus_from_ada_on_have_fp8(capability: str) -> None:
    """By NVIDIA's list of GPUs by compute capability: L4, H100, B200, Thor, RTX 5090, GB10."""
    assert has_fp8(capability) is True


@pytest.mark.parametrize("capability", ["5.3", "7.0", "7.5", "8.0", "8.6", "8.7"])
def test_older_gpus_have_none(capability: str) -> None:
    """Nano, V100, T4, A100, RTX 3090, Orin."""
    assert has_fp8(capability) is False


def test_of_an_unknown_gpu_nothing_is_said() -> None:
    assert has_fp8(None) is None
