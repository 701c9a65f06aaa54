"""The command check."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit.cli.output import JsonFlag, print_json, print_table

if TYPE_CHECKING:
    from edgevit.checking import Checked
    from edgevit.checking.older_parsers import Verdict
    from edgevit.checking.rules import Diagnostic

LINES_SHOWN = 3


def check(
    models: Annotated[list[Path], typer.Argument(help="ONNX files.", metavar="FILE…")],
    as_json: JsonFlag = False,
) -> None:
    """Ask whether TensorRT would take an ONNX file, and what it would make of it; exit status 1 where it would not.

    Any x86-64 Linux machine will do, without a GPU: NVIDIA's own parser and builder answer, from pip install
    'edgevit[tensorrt-check]'. It fails too where a product would run in more bits than it asks for.

    Example: edgevit check deit.int8.onnx
    """
    from edgevit.checking import check_onnx

    found = []
    for model in models:
        found.append(check_onnx(model))
        if not as_json:
            _print(found[-1])
    if as_json:
        print_json([one.to_json() for one in found])
    if not all(one.ok for one in found):
        raise typer.Exit(1)


def _print(found: Checked) -> None:
    typer.echo(f"{found.path}: {_headline(found)}")
    if found.answer is not None and found.answer.built:
        fused = found.attentions - len(found.unfused)
        attention = f"; attention fused: {fused} of {found.attentions}" if found.attentions else ""
        typer.echo(f"  {len(found.answer.kernels)} kernels, {found.bytes_moved / 1e6:.1f} MB moved{attention}\n")
        rows = [(operator, count, asked, got or "-") for (operator, asked, got), count in found.precisions().items()]
        print_table(["operator", "nodes", "asked", "got"], rows)
    elif found.answer is not None:
        refused = [(" ".join(filter(None, (one.operator, one.node))), one.reason) for one in found.answer.refused]
        _print_first([f"{node}: {reason}" if node else reason for node, reason in refused])
    _print_first(
        [f"{one.node} falls back: {one.asked} was asked for, {one.got} is what runs" for one in found.fell_back]
    )
    _print_diagnostics(found.diagnostics)
    typer.echo("\nolder parsers, by NVIDIA's tables")
    print_table(
        ["TensorRT", "board", "verdict"],
        [(one.parser.version, one.parser.boards, _verdict(one)) for one in found.older],
    )
    if found.not_asked:
        typer.echo(f"\nby rules and tables alone: {found.not_asked}", err=True)
    typer.echo("")


def _headline(found: Checked) -> str:
    if found.answer is None:
        return "no rule of TensorRT's speaks against it" if found.ok else "TensorRT would refuse it, by its rules"
    if not found.answer.built:
        return f"refused by {found.answer.builder}"
    return f"built by {found.answer.builder} in {found.answer.seconds:.1f} s"


def _verdict(verdict: Verdict) -> str:
    if verdict.taken:
        return "takes it"
    newer = [f"opset at most {verdict.parser.newest_opset}"] if verdict.opset_too_new else []
    return "; ".join([*newer, *([f"no {', '.join(verdict.operators)}"] if verdict.operators else [])])


def _print_diagnostics(diagnostics: tuple[Diagnostic, ...]) -> None:
    """One entry for each rule and remedy, with the first nodes that it is about."""
    alike: dict[tuple[str, str, str], list[Diagnostic]] = defaultdict(list)
    for one in diagnostics:
        alike[one.level, one.rule, one.next].append(one)
    for (level, rule, mend), group in alike.items():
        typer.echo(f"\n{level}: {rule}, {len(group)} node{'s' if len(group) > 1 else ''} (next: {mend})")
        _print_first([f"{one.node}: {one.what}" for one in group])


def _print_first(lines: list[str]) -> None:
    for line in lines[:LINES_SHOWN]:
        typer.echo(f"  {line}")
    if len(lines) > LINES_SHOWN:
        typer.echo(f"  {len(lines) - LINES_SHOWN} more: --json lists them")
