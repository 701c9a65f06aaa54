"""Commands about this machine and this installation: doctor, models."""

from __future__ import annotations

from typing import Annotated

import typer

from edgevit import bounds
from edgevit.cli.findings import print_findings
from edgevit.cli.options import JsonFlag, number
from edgevit.cli.output import echo, next_command, print_json, print_table

SHOWN_OF_BODY = {"licence", "teacher", "learned_from"}  # with --json


def doctor(as_json: JsonFlag = False) -> None:
    """Check the installation, the runtimes and the devices, and print the command that fixes each gap.

    Example: edgevit doctor
    """
    from dataclasses import asdict

    from edgevit.actions.doctor import examine

    findings = examine()
    if as_json:
        print_json([asdict(finding) for finding in findings])
    else:
        print_findings(findings)
        next_command("edgevit run quickstart")
    if any(finding.state == "broken" for finding in findings):
        raise typer.Exit(1)


def models(
    pattern: Annotated[str, typer.Argument(help="Only models with this text in their name.", metavar="TEXT")] = "",
    max_params_m: Annotated[
        float | None, number("--max-params", bounds.POSITIVE, "Largest number of parameters, in millions.")
    ] = None,
    image_size: Annotated[
        int | None, number("--image-size", bounds.SIDE, "Only models tested at this input size, in pixels.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """List compact students: parameters, MACs at the default input size, license and tested input sizes.

    The weights of a body come with edgevit: a student that starts from it needs no network.

    Example: edgevit models vit --max-params 6
    """
    from edgevit.models import bodies
    from edgevit.models.catalogue import read

    entries = [
        entry
        for entry in read()
        if pattern in entry.name
        and (max_params_m is None or entry.params <= max_params_m * 1e6)
        and (image_size is None or image_size in entry.tested_sizes)
    ]
    if as_json:
        of_body = {body.name: body.model_dump(include=SHOWN_OF_BODY) for body in bodies.read()}
        print_json([{**entry.model_dump(), "body": of_body.get(entry.name)} for entry in entries])
        return
    rows = [
        (
            entry.name,
            f"{entry.params / 1e6:.1f}M",
            f"{entry.macs / 1e6:.0f}M",
            "yes" if entry.distillation_token else "",
            entry.licence,
            _ranges(entry.tested_sizes),
        )
        for entry in entries
    ]
    print_table(("model", "params", "MACs", "token", "license", "sizes"), rows)
    echo(
        f"{len(entries)} models. token: has a distillation token. --json adds the number of layers\n"
        "for feature distillation. Any other timm model works too."
    )
    for body in bodies.read():
        if any(entry.name == body.name for entry in entries):
            pictures = sum(pictures.images for pictures in body.learned_from)
            echo(
                f"body: {body.name}: its weights come with edgevit. It learned the features of\n"
                f"{body.teacher} from {pictures:,} pictures. In a recipe:\n"
                f"  {{stage: load, id: body, model: {body.name}, pretrained: true}}"
            )
    if entries:
        next_command(f"edgevit export --model {entries[0].name} --classes 10 --out model.onnx")


def _ranges(sizes: tuple[int, ...]) -> str:
    return f"{min(sizes)}-{max(sizes)}" if len(sizes) > 2 else ",".join(map(str, sizes))
