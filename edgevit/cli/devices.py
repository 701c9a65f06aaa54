"""Commands about targets: devices add, list, show, check, calibrate, clean, remove."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import bounds
from edgevit.cli.commands import Command, SubcommandGroup, help_of
from edgevit.cli.findings import print_findings
from edgevit.cli.options import JsonFlag, Threads, default_of, flag, number, separated
from edgevit.cli.output import echo, next_command, print_json, print_table, say, say_note

if TYPE_CHECKING:
    from edgevit.latency_model.calibration import CalibratedForm
    from edgevit.targets.named import NamedTarget

Name = Annotated[str, typer.Argument(help="Name of the target.", metavar="NAME")]
Project = Annotated[bool, flag("--project", "Use targets.yaml in this folder, not the one in your home.")]

devices = typer.Typer(
    name="devices",
    cls=SubcommandGroup,
    no_args_is_help=True,
    help="Name the machines that run models, over SSH or here, and check what is there.",
)


def add(
    name: Name,
    address: Annotated[
        str,
        typer.Argument(help="ssh://[user@]host[:port], or local: this machine.", metavar="ADDRESS"),
    ],
    python: Annotated[
        str, typer.Option("--python", help="Command that starts Python 3.8 or later there.")
    ] = default_of("MachineTarget", "python"),
    work_folder: Annotated[str, typer.Option("--work-folder", help="Folder for edgevit's files there.")] = default_of(
        "MachineTarget", "work_folder"
    ),
    runtime: Annotated[
        str | None,
        typer.Option("--runtime", help="onnxruntime or tensorrt: check says whether it is there."),
    ] = None,
    power_mode: Annotated[
        str | None, typer.Option("--power-mode", help="Name of the board's power mode: check compares it.")
    ] = None,
    clocks: Annotated[
        str, typer.Option("--clocks", help="leave, or lock: check says whether the clocks are locked.")
    ] = default_of("MachineTarget", "clocks"),
    onnxruntime: Annotated[
        str | None,
        typer.Option("--onnxruntime", help="Version to bring along; or installed, to use the one that is there."),
    ] = None,
    tensorrt: Annotated[
        str | None,
        typer.Option("--tensorrt", help="trtexec or python: what uses TensorRT there; both by default."),
    ] = None,
    project: Project = False,
    as_json: JsonFlag = False,
) -> None:
    """Name a machine that you can reach over SSH, or this one. Nothing is connected yet.

    The host in an address may be a name in your SSH config. The address local is this machine, perhaps with another
    Python. The name goes into targets.yaml in ~/.config/edgevit. With --project, it goes into targets.yaml in this
    folder.

    Example: edgevit devices add orin ssh://me@orin.local --power-mode 25W
    """
    from edgevit.actions.single_stage import record_from_options
    from edgevit.configs import MachineTarget
    from edgevit.targets.named import NamedTarget, add_target

    given = {
        "host": address,
        "python": python,
        "work_folder": work_folder,
        "runtime": runtime,
        "power_mode": power_mode,
        "clocks": clocks,
        "onnxruntime": onnxruntime,
        "tensorrt": tensorrt,
    }
    file = _file(project)
    config = record_from_options(MachineTarget, given, {"host": "ADDRESS"})
    add_target(name, config, file)
    if as_json:
        print_json(_record(NamedTarget(name, config, file)))
    else:
        echo(f"{name} is {address}, in {file}")
    next_command(f"edgevit devices check {name}")


def list_devices(as_json: JsonFlag = False) -> None:
    """List the targets: this machine's, yours, and those of the targets.yaml in this folder.

    Example: edgevit devices list
    """
    from edgevit.targets.named import groups_by_name, targets_by_name

    targets, groups = targets_by_name().values(), groups_by_name().values()
    if as_json:
        named = [{"kind": "target", **_record(target)} for target in targets]
        grouped = [
            {"kind": "group", "name": group.name, "targets": group.members, "file": str(group.file)} for group in groups
        ]
        print_json([*named, *grouped])
        return
    rows = [
        (target.name, target.config.host if target.config else "this machine", str(target.file or "built in"))
        for target in targets
    ]
    rows += [(group.name, f"the group {', '.join(group.members)}", str(group.file)) for group in groups]
    print_table(("target", "where", "named in"), rows)
    if all(target.config is None for target in targets):
        next_command("edgevit devices add NAME ssh://user@host")


def show(name: Name, as_json: JsonFlag = False) -> None:
    """Show the settings of a target, and the file that holds them.

    Example: edgevit devices show orin
    """
    from edgevit.targets.named import named_target

    record = _record(named_target(name))
    if as_json:
        print_json(record)
        return
    width = max(map(len, record))
    for key, value in record.items():
        echo(f"{key:<{width}}  {'-' if value is None else value}")


def check(name: Name, as_json: JsonFlag = False) -> None:
    """Connect to a target, say what is there, and print the command that fixes each gap.

    Nothing is installed there: a small program comes over the connection and ends with it.

    Example: edgevit devices check orin
    """
    from dataclasses import asdict

    from edgevit.actions.check_device import check_device
    from edgevit.targets.boards import facts_json
    from edgevit.targets.named import named_target

    checked = check_device(named_target(name))
    if as_json:
        findings = [asdict(finding) for finding in checked.findings]
        print_json({"target": checked.name, "facts": facts_json(checked.facts), "findings": findings})
    else:
        print_findings(checked.findings)
    if any(finding.is_fault for finding in checked.findings):
        raise typer.Exit(1)


def calibrate(
    name: Name,
    runtime: Annotated[str, typer.Option("--runtime", help="onnxruntime; on local-cpu also openvino.")] = default_of(
        "Export", "runtime"
    ),
    threads: Threads = default_of("Profile", "threads"),
    precision: Annotated[
        str, typer.Option("--precision", help="float32, int8, or both with a comma.", metavar="NAME,…")
    ] = "float32,int8",
    models: Annotated[
        int,
        number("--models", bounds.CALIBRATION_MODELS, "Models of the catalog that are measured, over all its sizes."),
    ] = 16,
    receipts: Annotated[
        Path | None,
        typer.Option("--receipts", help="Measure nothing: a folder of NAME.onnx, each with its receipt NAME.json."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure models on a target, and fit what `estimate` and `select` need to predict others there.

    The models are of the catalog, with random weights. Each takes about half a minute. A receipt is what
    edgevit profile NAME.onnx --target TARGET --json prints. The fit is kept beside targets.yaml, in place of an
    earlier fit of its runtime, precision and threads.

    Example: edgevit devices calibrate pi
    """
    from edgevit.actions.calibrate_device import (
        calibrated_forms,
        checked_precisions,
        checked_runtime,
        forms_of_receipts,
        spread_models,
    )
    from edgevit.cli.output import terminal_context
    from edgevit.latency_model.calibration import Calibration, calibration_file, calibration_of, write_calibration

    file = calibration_file(name)
    earlier = calibration_of(name) or Calibration(target=name)
    if receipts is None:
        opens = checked_runtime(runtime, "--runtime")
        precisions = checked_precisions(separated(precision), "--precision")
        forms = calibrated_forms(name, opens, threads, precisions, spread_models(models), terminal_context(), earlier)
    else:
        forms = forms_of_receipts(receipts, earlier, say_note)
    # Another process may have calibrated another form meanwhile.
    calibration = (calibration_of(name) or earlier).with_forms(forms)
    write_calibration(calibration, file)
    if as_json:
        print_json(calibration.model_dump(mode="json"))
    else:
        for form in forms:
            _print_fit(form)
        echo(f"kept in {file}")
    next_command(f"edgevit estimate MODEL.onnx --board {name}")


def clean(name: Name, as_json: JsonFlag = False) -> None:
    """Remove edgevit's files on a target: models, images, packages and results.

    The next command sends them again. Other users who measure there are waited for.

    Example: edgevit devices clean orin
    """
    from edgevit.actions.clean_device import clean_device
    from edgevit.targets.named import named_target

    removed = clean_device(named_target(name), say_note)
    if as_json:
        print_json({"target": name, "removed_bytes": removed})
    else:
        echo(f"{removed / 2**20:,.1f} MiB removed on {name}")


def remove(name: Name, project: Project = False, as_json: JsonFlag = False) -> None:
    """Remove a name from targets.yaml, and its calibration.

    Nothing is changed on the machine itself: see `edgevit devices clean`.

    Example: edgevit devices remove orin
    """
    from edgevit.latency_model.calibration import remove_calibration
    from edgevit.targets.named import remove_target

    file = _file(project)
    remove_target(name, file)
    remove_calibration(name, file)
    if as_json:
        print_json({"target": name, "removed_from": str(file)})
    else:
        echo(f"{name} is removed from {file}")


COMMANDS: dict[str, Callable[..., None]] = {
    "add": add,
    "list": list_devices,
    "show": show,
    "check": check,
    "calibrate": calibrate,
    "clean": clean,
    "remove": remove,
}
for called, command in COMMANDS.items():
    devices.command(called, cls=Command, rich_help_panel="Targets", help=help_of(command))(command)


def _print_fit(form: CalibratedForm) -> None:
    """The measured models with the predictions of fits that left each out."""
    from edgevit.configs.runtimes import RUNTIMES
    from edgevit.report.text.numbers import milliseconds

    echo(f"{RUNTIMES[form.runtime].title}, {form.precision}, threads: {form.threads}")
    rows = [
        (model.name, milliseconds(model.p50_ms), milliseconds(model.left_out_ms), f"{ratio - 1:+.1%}")
        for model, ratio in zip(form.models, form.ratios, strict=True)
    ]
    print_table(("model", "measured", "left out", "error"), rows)
    factor = form.factor(0.9)
    say(
        f"left out: predicted by a fit to the other models. Median error {form.median_error:.1%}, largest "
        f"{form.largest_error:.1%}. The 90% interval is a factor of {factor:.2f} on both sides"
    )
    echo("")


def _file(is_projects: bool) -> Path:
    from edgevit.errors import RecipeError
    from edgevit.targets.named import project_file, user_file

    file = project_file() if is_projects else user_file()
    if file is None:
        raise RecipeError("you have no home folder here", next="use --project, or set XDG_CONFIG_HOME")
    return file


def _record(target: NamedTarget) -> dict[str, Any]:
    """The name, the settings and the file of a target, for people and programs."""
    settings = target.config.model_dump() if target.config else {"host": None}
    return {"name": target.name, **settings, "file": target.file and str(target.file)}
