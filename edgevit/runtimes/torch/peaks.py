"""The small kernels whose rates are the peaks of PyTorch on this CPU, which runs checkpoints in float32."""

from __future__ import annotations

import torch
from torch.nn import functional

from edgevit.profiling import Work
from edgevit.runtimes.peaks import (
    CHAIN,
    CHANNELS,
    MACS_OF_CONVOLUTION,
    NARROW,
    ROWS,
    SIDES,
    WIDTH,
    Timed,
    rate_gflops,
    run_ms,
)
from edgevit.runtimes.torch.session import on_threads


def timed_in_torch(threads: int, array_bytes: int) -> Timed:
    """A product, a convolution, a copy, and products in a chain."""
    generator = torch.Generator().manual_seed(0)

    def made(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator)

    left, right = made(ROWS, WIDTH), made(WIDTH, WIDTH)
    image, weight = made(1, CHANNELS, *SIDES), made(CHANNELS, CHANNELS, 3, 3)
    large = torch.ones(array_bytes // 4)
    other = torch.empty_like(large)
    narrow, chained = made(3, NARROW), [made(NARROW, NARROW) for _ in range(CHAIN)]

    def chain(length: int) -> Work:
        def run() -> None:
            values = narrow
            for one in chained[:length]:
                values = values @ one

        return run

    with on_threads(threads), torch.inference_mode():
        product, convolution, copied, one, many = (
            run_ms(work)
            for work in (
                lambda: left @ right,
                lambda: functional.conv2d(image, weight, padding=1),
                lambda: other.copy_(large),
                chain(1),
                chain(CHAIN),
            )
        )
    return Timed(
        {"float32": [rate_gflops(ROWS * WIDTH * WIDTH, product.ms), rate_gflops(MACS_OF_CONVOLUTION, convolution.ms)]},
        2 * array_bytes / (1e6 * copied.ms),
        max(0.0, (many.ms - one.ms) / (CHAIN - 1)),
        (*product.warnings, *convolution.warnings, *copied.warnings, *one.warnings, *many.warnings),
    )
