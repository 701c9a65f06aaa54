"""The command check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.options import JsonFlag
from edgevit.cli.output import echo, next_command, print_json, print_table, terminal_context

if TYPE_CHECKING:
    from edgevit.checking import OnnxruntimeCheck, TensorrtCheck
    from edgevit.checking.precision import Product
    from edgevit.checking.rules import Diagnostic

RUNTIMES = ("tensorrt", "onnxruntime")
LINES_SHOWN = 3


def check(
    models: Annotated[
        list[Path], typer.Argument(help="ONNX files, bundles, or folders of stages (runs/NAME/ID).", metavar="FILE")
    ],
    runtime: Annotated[
        str, typer.Option("--runtime", help="tensorrt, or onnxruntime on this machine's CPU.")
    ] = "tensorrt",
    as_json: JsonFlag = False,
) -> None:
    """Check whether a runtime accepts an ONNX file and runs it in the precision it asks for; exit status 1 if not.

    The check for TensorRT needs no GPU. It runs NVIDIA's own parser and builder on any x86-64 Linux machine, after pip
    install 'edgevit[tensorrt-check]'. A layer that runs in another precision than it asks for fails the check.

    Example: edgevit check deit.int8.onnx
    """
    from edgevit.actions.single_stage import single_stages
    from edgevit.checking import check_for_onnxruntime, check_for_tensorrt
    from edgevit.errors import RecipeError

    if runtime not in RUNTIMES:
        raise RecipeError("no such runtime to check for", where="--runtime", got=runtime, expected=", ".join(RUNTIMES))
    results: list[TensorrtCheck | OnnxruntimeCheck] = []
    with single_stages(terminal_context()) as stages:
        for model in models:
            file = stages.onnx_file(model)
            results.append(check_for_tensorrt(file) if runtime == "tensorrt" else check_for_onnxruntime(file))
            if not as_json:
                _print(results[-1])
    if as_json:
        print_json([result.to_json() for result in results])
    if not all(result.ok for result in results):
        raise typer.Exit(1)
    next_command("edgevit inspect", models[0])


def _print(result: TensorrtCheck | OnnxruntimeCheck) -> None:
    from edgevit.checking import TensorrtCheck

    if isinstance(result, TensorrtCheck):
        _print_for_tensorrt(result)
    else:
        _print_for_onnxruntime(result)


def _print_for_tensorrt(result: TensorrtCheck) -> None:
    echo(f"{result.path}: {_headline(result)}")
    if result.build_result is not None and result.build_result.built:
        fused = result.attentions - len(result.unfused)
        attention = f"; attention fused: {fused} of {result.attentions}" if result.attentions else ""
        echo(f"  {len(result.build_result.kernels)} kernels, {result.bytes_moved / 1e6:.1f} MB moved{attention}\n")
        _print_precisions(result.products)
    elif result.build_result is not None:
        refusals = [
            (" ".join(filter(None, (node.operator, node.node))), node.reason) for node in result.build_result.refused
        ]
        _print_first([f"{node}: {reason}" if node else reason for node, reason in refusals])
    _print_fallbacks(result.fell_back)
    _print_diagnostics(result.diagnostics)
    echo("\nolder parsers, by NVIDIA's tables")
    print_table(
        ["TensorRT", "board", "verdict"],
        [(verdict.parser.version, verdict.parser.boards, verdict.text) for verdict in result.older_parsers],
    )
    if result.not_asked:
        echo(f"\nby rules and tables alone: {result.not_asked}", err=True)
    echo("")


def _print_for_onnxruntime(result: OnnxruntimeCheck) -> None:
    from edgevit.checking.onnxruntime import NO_ROUNDING

    if result.optimized is None:
        echo(f"{result.path}: refused\n  {result.refused}\n")
        return
    fused = result.attentions - len(result.optimized.unfused)
    attention = f"; attention fused: {fused} of {result.attentions}" if result.attentions else ""
    echo(f"{result.path}: loaded by {result.optimized.runtime} on this CPU{attention}\n")
    _print_precisions(result.products)
    by_advice: dict[str, list[Product]] = defaultdict(list)
    for product, advice in result.fell_back.items():
        by_advice[advice].append(product)
    for advice, products in by_advice.items():
        echo("")
        _print_fallbacks(products)
        echo(f"  next: {advice}")
    if result.rounded:
        echo("")
        _print_first(
            [
                f"the weights of {layer.node} are rounded: {layer.asked} was asked for, int8 runs"
                for layer in result.rounded
            ]
        )
        echo(f"  next: {NO_ROUNDING}")
    echo("")


def _print_precisions(products: Sequence[Product]) -> None:
    from edgevit.checking.precision import precision_counts

    rows = [
        (operator, count, asked, got or "-") for (operator, asked, got), count in precision_counts(products).items()
    ]
    print_table(["operator", "nodes", "asked", "got"], rows)


def _print_fallbacks(products: Sequence[Product]) -> None:
    _print_first([f"{layer.node} falls back: {layer.asked} was asked for, {layer.got} runs" for layer in products])


def _headline(result: TensorrtCheck) -> str:
    if result.build_result is None:
        return "it follows TensorRT's rules" if result.ok else "it breaks TensorRT's rules and would be refused"
    if not result.build_result.built:
        return f"refused by {result.build_result.builder}"
    return f"built by {result.build_result.builder} in {result.build_result.seconds:.1f} s"


def _print_diagnostics(diagnostics: tuple[Diagnostic, ...]) -> None:
    """Print one entry for each rule and remedy, with its first nodes."""
    groups: dict[tuple[str, str, str], list[Diagnostic]] = defaultdict(list)
    for diagnostic in diagnostics:
        groups[diagnostic.level, diagnostic.rule, diagnostic.next].append(diagnostic)
    for (level, rule, remedy), group in groups.items():
        echo(f"\n{level}: {rule}, {len(group)} node{'s' if len(group) > 1 else ''} (next: {remedy})")
        _print_first([f"{diagnostic.node}: {diagnostic.what}" for diagnostic in group])


def _print_first(lines: list[str]) -> None:
    for line in lines[:LINES_SHOWN]:
        echo(f"  {line}")
    if len(lines) > LINES_SHOWN:
        echo(f"  {len(lines) - LINES_SHOWN} more: --json lists them")
