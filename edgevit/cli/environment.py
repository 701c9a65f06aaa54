"""Commands about this machine and this installation: doctor, models."""

from __future__ import annotations

from typing import Annotated

import typer

from edgevit import bounds
from edgevit.cli.options import number
from edgevit.cli.output import JsonFlag, echo, next_command, print_json, print_table


def doctor(as_json: JsonFlag = False) -> None:
    """Check what is installed and which runtimes and devices work, with the command that mends each gap.

    Example: edgevit doctor
    """
    from dataclasses import asdict

    from edgevit.actions.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        print_table(("", "what", "found"), [(one.state, one.name, one.found) for one in findings])
        for one in findings:
            if one.mend:
                echo(f"{one.name}: {one.mend}")
        next_command("edgevit run quickstart")
    if any(one.state == "broken" for one in findings):
        raise typer.Exit(1)


def models(
    pattern: Annotated[str, typer.Argument(help="Only models whose name holds this text.")] = "",
    max_params_m: Annotated[
        float | None, number("--max-params", bounds.POSITIVE, "Most parameters, in millions.")
    ] = None,
    image_size: Annotated[
        int | None, number("--image-size", bounds.SIDE, "Only models tested at this input size.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List compact students: parameters, MACs at the default size, licence, input sizes that were tested.

    Example: edgevit models vit --max-params 6
    """
    from edgevit.models.catalogue import read

    entries = [
        one
        for one in read()
        if pattern in one.name
        and (max_params_m is None or one.params <= max_params_m * 1e6)
        and (image_size is None or image_size in one.tested_sizes)
    ]
    if as_json:
        print_json([one.model_dump() for one in entries])
        return
    rows = [
        (
            one.name,
            f"{one.params / 1e6:.1f}M",
            f"{one.macs / 1e6:.0f}M",
            "yes" if one.distillation_token else "",
            one.licence,
            _ranges(one.tested_sizes),
        )
        for one in entries
    ]
    print_table(("model", "params", "MACs", "token", "licence", "sizes"), rows)
    echo(
        f"{len(entries)} models; token: has a distillation token. --json adds the number of layers\n"
        "whose features can be compared. Any other timm model works too."
    )
    if entries:
        next_command(f"edgevit export --model {entries[0].name} --classes 10 --out model.onnx")


def _ranges(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)}-{max(sizes)}" if len(sizes) > 2 else ",".join(map(str, sizes))
