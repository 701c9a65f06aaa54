"""The command check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.output import JsonFlag, echo, print_json, print_table, terminal_context

if TYPE_CHECKING:
    from edgevit.checking import OnnxruntimeCheck, TensorrtCheck
    from edgevit.checking.precision import Product
    from edgevit.checking.rules import Diagnostic

RUNTIMES = ("tensorrt", "onnxruntime")
LINES_SHOWN = 3


def check(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files, bundles, or folders of stages (runs/NAME/ID).", metavar="FILE…")
    ],
    runtime: Annotated[
        str, typer.Option("--runtime", help="tensorrt, or onnxruntime: as it runs on this machine's CPU.")
    ] = "tensorrt",
    as_json: JsonFlag = False,
) -> None:
    """Ask whether a runtime would take an ONNX file and run it as it asks to; exit status 1 where it would not.

    For TensorRT any x86-64 Linux machine will do, without a GPU: NVIDIA's own parser and builder answer, from pip
    install 'edgevit[tensorrt-check]'. It fails too where a product would run in more bits than it asks for.

    Example: edgevit check deit.int8.onnx
    """
    from edgevit.actions.single_stage import single_stages
    from edgevit.checking import check_for_onnxruntime, check_for_tensorrt
    from edgevit.errors import RecipeError

    if runtime not in RUNTIMES:
        raise RecipeError("no such runtime to check for", where="--runtime", got=runtime, expected=", ".join(RUNTIMES))
    found: list[TensorrtCheck | OnnxruntimeCheck] = []
    with single_stages(terminal_context()) as stages:
        for model in models:
            file = stages.onnx_file(model)
            found.append(check_for_tensorrt(file) if runtime == "tensorrt" else check_for_onnxruntime(file))
            if not as_json:
                _print(found[-1])
    if as_json:
        print_json([one.to_json() for one in found])
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _print(found: TensorrtCheck | OnnxruntimeCheck) -> None:
    from edgevit.checking import TensorrtCheck

    if isinstance(found, TensorrtCheck):
        _print_for_tensorrt(found)
    else:
        _print_for_onnxruntime(found)


def _print_for_tensorrt(found: TensorrtCheck) -> None:
    echo(f"{found.path}: {_headline(found)}")
    if found.build_result is not None and found.build_result.built:
        fused = found.attentions - len(found.unfused)
        attention = f"; attention fused: {fused} of {found.attentions}" if found.attentions else ""
        echo(f"  {len(found.build_result.kernels)} kernels, {found.bytes_moved / 1e6:.1f} MB moved{attention}\n")
        _print_precisions(found.products)
    elif found.build_result is not None:
        refused = [(" ".join(filter(None, (one.operator, one.node))), one.reason) for one in found.build_result.refused]
        _print_first([f"{node}: {reason}" if node else reason for node, reason in refused])
    _print_fallbacks(found.fell_back)
    _print_diagnostics(found.diagnostics)
    echo("\nolder parsers, by NVIDIA's tables")
    print_table(
        ["TensorRT", "board", "verdict"],
        [(one.parser.version, one.parser.boards, one.text) for one in found.older_parsers],
    )
    if found.not_asked:
        echo(f"\nby rules and tables alone: {found.not_asked}", err=True)
    echo("")


def _print_for_onnxruntime(found: OnnxruntimeCheck) -> None:
    if found.optimized is None:
        echo(f"{found.path}: refused\n  {found.refused}\n")
        return
    fused = found.attentions - len(found.optimized.unfused)
    attention = f"; attention fused: {fused} of {found.attentions}" if found.attentions else ""
    echo(f"{found.path}: loaded by {found.optimized.runtime} on this CPU{attention}\n")
    _print_precisions(found.products)
    by_mend: dict[str, list[Product]] = defaultdict(list)
    for product, mend in found.fell_back.items():
        by_mend[mend].append(product)
    for mend, fell_back in by_mend.items():
        echo("")
        _print_fallbacks(fell_back)
        echo(f"  next: {mend}")
    echo("")


def _print_precisions(products: Sequence[Product]) -> None:
    from edgevit.checking.precision import precision_counts

    rows = [
        (operator, count, asked, got or "-") for (operator, asked, got), count in precision_counts(products).items()
    ]
    print_table(["operator", "nodes", "asked", "got"], rows)


def _print_fallbacks(products: Sequence[Product]) -> None:
    _print_first([f"{one.node} falls back: {one.asked} was asked for, {one.got} is what runs" for one in products])


def _headline(found: TensorrtCheck) -> str:
    if found.build_result is None:
        return "no rule of TensorRT's speaks against it" if found.ok else "TensorRT would refuse it, by its rules"
    if not found.build_result.built:
        return f"refused by {found.build_result.builder}"
    return f"built by {found.build_result.builder} in {found.build_result.seconds:.1f} s"


def _print_diagnostics(diagnostics: tuple[Diagnostic, ...]) -> None:
    """One entry for each rule and remedy, with the first nodes that it is about."""
    alike: dict[tuple[str, str, str], list[Diagnostic]] = defaultdict(list)
    for one in diagnostics:
        alike[one.level, one.rule, one.next].append(one)
    for (level, rule, mend), group in alike.items():
        echo(f"\n{level}: {rule}, {len(group)} node{'s' if len(group) > 1 else ''} (next: {mend})")
        _print_first([f"{one.node}: {one.what}" for one in group])


def _print_first(lines: list[str]) -> None:
    for line in lines[:LINES_SHOWN]:
        echo(f"  {line}")
    if len(lines) > LINES_SHOWN:
        echo(f"  {len(lines) - LINES_SHOWN} more: --json lists them")
