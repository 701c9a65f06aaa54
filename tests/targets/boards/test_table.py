"""The table of boards: which GPUs have FP8."""

from __future__ import annotations

import pytest

from edgevit.targets.boards.table import BOARDS, Board, has_fp8


@pytest.mark.parametrize("board", BOARDS, ids=lambda board: board.name)
def test_of_jetsons_a_thor_alone_has_fp8(board: Board) -> None:
    for module in board.modules:
        assert has_fp8(module, ()) == board.name.startswith("Jetson Thor")


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5070 Ti", "NVIDIA RTX 4000 SFF Ada Generation",
        "NVIDIA RTX 500 Ada Generation Laptop GPU",
        "NVIDIA RTX 6000 Ada Generation", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "NVIDIA L4",
        "NVIDIA L40S", "NVIDIA H100 PCIe", "NVIDIA H200", "NVIDIA GH200 480GB", "NVIDIA B200", "NVIDIA GB10",
    ],
)  # fmt: skip
def test_gpus_from_ada_on_have_fp8(name: str) -> None:
    """From NVIDIA's list of GPUs by compute capability: 8.9 and later."""
    assert has_fp8(None, (name, name))
    assert not has_fp8(None, (name, "NVIDIA T400"))


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 3090", "Quadro RTX 4000", "Quadro RTX 5000", "NVIDIA RTX A4000", "NVIDIA A100-SXM4-80GB",
        "NVIDIA A10", "NVIDIA T4", "Tesla V100-SXM2-16GB", "NVIDIA GeForce GTX 1650", "NVIDIA A40", "",
    ],
)  # fmt: skip
def test_older_gpus_have_none(name: str) -> None:
    assert not has_fp8(None, (name,))
    assert not has_fp8("p9999-0000", (name,))
