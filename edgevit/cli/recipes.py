"""Commands about recipes: run, why, init, report, schema."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import bounds
from edgevit.cli.options import (
    Force,
    JsonFlag,
    Offline,
    PretrainedWeights,
    RecipeOut,
    SizeLimit,
    TargetName,
    Teacher,
    Workers,
    default_of,
    flag,
    given_options,
    number,
)
from edgevit.cli.output import (
    check_new_file,
    echo,
    next_command,
    print_json,
    say_note,
    set_options,
    terminal_context,
    write_text_whole,
)
from edgevit.recipes import shipped_recipe, shipped_recipes

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact
    from edgevit.configs import Recipe
    from edgevit.pipeline import Reason

SHIPPED = ", ".join(shipped_recipes())
RecipeFile = Annotated[
    Path,
    typer.Argument(help=f"A YAML file, or the name of a recipe that comes with edgevit: {SHIPPED}.", metavar="RECIPE"),
]
Settings = Annotated[
    list[str], typer.Option("--set", metavar="KEY.PATH=VALUE", help="Change a value of the recipe. May be repeated.")
]
Runs = Annotated[Path, typer.Option("--runs", metavar="DIR", help="Folder of all runs and their store.")]
Device = Annotated[str, typer.Option("--device", help="Where training runs: cpu, cuda, or auto: cuda if it works.")]


def run(
    recipe: RecipeFile,
    settings: Settings = [],  # noqa: B006 - typer wants a list
    runs: Runs = Path("runs"),
    fresh: Annotated[
        list[str], typer.Option("--fresh", metavar="ID", help="Make this stage again. May be repeated.")
    ] = [],  # noqa: B006
    dry_run: Annotated[bool, flag("--dry-run", "Check the recipe and list the stages that would run.")] = False,
    device: Device = "auto",
    workers: Workers = None,
    ranks: Annotated[
        int, number("--ranks", bounds.RANKS, "Processes that share a training; on CUDA, each has its own GPU.")
    ] = 1,
    shard: Annotated[
        bool, flag("--shard", "Split the weights between the ranks (FSDP), for large models. Needs --ranks 2 or more.")
    ] = False,
    check: Annotated[
        bool, flag("--check", "Compute a sample of the cached teacher outputs again, and compare.")
    ] = False,
    tensorboard: Annotated[
        Path | None, typer.Option("--tensorboard", metavar="DIR", help="Write training curves for TensorBoard to DIR.")
    ] = None,
    anyway: Annotated[bool, flag("--anyway", "Train also where the student will not meet the latency budget.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Run a recipe. Finished stages are not run again, and a stopped run continues.

    With a latency budget, the student is timed untrained before the first training. Exit status 1: it will not meet
    the budget, or the finished model does not.

    Example: edgevit run quickstart --set stages.student.epochs=60
    """
    from edgevit import pipeline
    from edgevit.actions.doctor import training_device
    from edgevit.actions.early_checks import check_before_run
    from edgevit.recipe import recipe_and_folder
    from edgevit.training.loop.event_files import check_tensorboard

    loaded, base = recipe_and_folder(recipe, settings, say_note)
    if dry_run:
        answers = pipeline.why(loaded, base, runs, fresh)
        _print_plan(answers, recipe, settings, as_json)
        _check_needs(loaded, pipeline.pending(answers))
        return
    loading = {} if workers is None else {"workers": workers}
    if tensorboard:
        check_tensorboard()
    _check_shard(shard, ranks)
    device = training_device(device)
    if _follows_torchrun(device, ranks):
        return
    context = terminal_context(device=device, ranks=ranks, shard=shard, check=check, tensorboard=tensorboard, **loading)
    datasets = check_before_run(loaded, base, runs, context, fresh, anyway)
    before = pipeline.finished(loaded, runs)
    done = pipeline.run(loaded, base, runs, context, fresh, datasets)
    _dismiss_torchrun(device)
    stages = {stage.id: done[stage.id] for stage in loaded.stages if stage.id in done}
    dropped = [stage.id for stage in loaded.stages if stage.id not in done]
    new = [id for id, artifact in stages.items() if before.get(id) != artifact.ref()]
    folder = runs / loaded.name
    reports = [artifact for artifact in stages.values() if artifact.kind == "report"]
    if as_json:
        summaries = {id: _summary_of(artifact, id in new) for id, artifact in stages.items()}
        print_json({"name": loaded.name, "runs": folder, "stages": summaries, "dropped": dropped})
    else:
        if not new and not dropped:
            echo(f"{loaded.name}: all {len(stages)} stages are finished, nothing to do")
            if check:
                echo("--check compared nothing, since no stage ran; --fresh ID makes a stage run again")
        if dropped:
            echo(f"dropped out, since a training diverged: {', '.join(dropped)}")
        _print_summaries(reports)
        _print_next(stages, folder)
    if any(report.metrics["meets_budget"] is False for report in reports):
        raise typer.Exit(1)


def why(
    recipe: RecipeFile,
    settings: Settings = [],  # noqa: B006
    runs: Runs = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """List the stages that would run, each with the fields that changed.

    Example: edgevit why quickstart --set stages.student.epochs=60
    """
    from edgevit import pipeline
    from edgevit.recipe import recipe_and_folder

    loaded, base = recipe_and_folder(recipe, settings, say_note)
    _print_plan(pipeline.why(loaded, base, runs), recipe, settings, as_json)


def init(
    context: typer.Context,
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Folder of images: CLASS/*.jpg, or train/, val/, test/ with such folders.", metavar="FOLDER"
        ),
    ] = None,
    target: TargetName = default_of("Profile", "target"),
    out: RecipeOut = Path("recipe.yaml"),
    latency_ms: Annotated[
        float | None, number("--latency-ms", bounds.POSITIVE, "Budget: largest p50 latency, in ms; none by default.")
    ] = None,
    size_mib: SizeLimit = None,
    min_accuracy: Annotated[
        float | None, number("--min-accuracy", bounds.FRACTION, "Budget: least top-1 accuracy on test images, 0 to 1.")
    ] = None,
    minutes: Annotated[
        float | None, number("--minutes", bounds.POSITIVE, "Time for the run, in minutes. It sets the epochs.")
    ] = None,
    shots: Annotated[
        int | None, number("--shots", bounds.COUNT, "Labelled images of each class. By default, all labels are used.")
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            "--student", metavar="NAME", help="The student, by its timm name. The budget decides its image size."
        ),
    ] = None,
    teacher: Teacher = None,
    weights: PretrainedWeights = None,
    offline: Offline = False,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", metavar="FOLDER", help="Images without labels, to learn from.")
    ] = None,
    include: Annotated[
        list[str],
        typer.Option("--include", metavar="PATTERN", help="Only images with such paths. May be repeated."),
    ] = [],  # noqa: B006
    exclude: Annotated[
        list[str],
        typer.Option("--exclude", metavar="PATTERN", help="No images with such paths. May be repeated."),
    ] = [],  # noqa: B006
    shipped: Annotated[
        str | None,
        typer.Option("--recipe", metavar="NAME", help=f"Copy a recipe that comes with edgevit: {SHIPPED}."),
    ] = None,
    force: Force = False,
) -> None:
    """Look at a folder of images, time students on the target, and write a recipe for them. Or copy a recipe.

    With --latency-ms, the student is the most capable one that meets the budget with room. At most six students are
    timed, untrained; the timings are kept for this machine. Exit status 1: no student meets the budget.

    Example: edgevit init photos/ --latency-ms 10 --out photos.yaml
    """
    from edgevit.errors import RecipeError

    check_new_file(out, force)
    if folder is not None and shipped is None:
        from edgevit.actions.doctor import training_device
        from edgevit.actions.init_recipe import InitOptions, recipe_for_folder

        options = InitOptions(
            folder, out, target, latency_ms, size_mib, shots, student, teacher, weights, offline, minutes, unlabelled,
            tuple(include), tuple(exclude), min_accuracy,
        )  # fmt: skip
        written = recipe_for_folder(options, terminal_context(device=training_device("auto")))
        write_text_whole(out, written.text)
        for line in written.lines:
            echo(line)
    elif shipped is not None and folder is None:
        if unused := [option for option in given_options(context) if option not in ("--recipe", "--out", "--force")]:
            raise RecipeError("a recipe that comes with edgevit is copied as it is", got=f"--recipe and {unused[0]}",
                              next="edit the copy, or change values with edgevit run --set")  # fmt: skip
        write_text_whole(out, shipped_recipe(shipped).read_text(encoding="utf-8"))
    else:
        raise RecipeError("init takes a folder of images or --recipe NAME", expected="one of them")
    echo(f"wrote {out}")
    next_command("edgevit run", out)


def report(
    run_folder: Annotated[
        Path, typer.Argument(help="A run: its folder, or its name under runs/. Or a report's folder.", metavar="RUN")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Print the report of a finished run.

    Example: edgevit report quickstart
    """
    import json

    from edgevit.artifacts import Artifact
    from edgevit.errors import ArtifactError, listed

    run_folder = _folder_of_run(run_folder)
    if runs := _runs_with_reports(run_folder):
        what, next_step = "this is the folder of all runs", f"edgevit report {shlex.quote(str(runs[0]))}"
        raise ArtifactError(what, where=run_folder, expected=f"one of {listed(list(map(str, runs)))}", next=next_step)
    folders = _reports_in(run_folder)
    if not folders:
        expected = "a finished run with a report stage"
        name = run_folder.name if run_folder.name in shipped_recipes() else "RECIPE"
        raise ArtifactError("there is no report here", where=run_folder, expected=expected, next=f"edgevit run {name}")
    for artifact in map(Artifact.load, folders):
        if as_json:
            print_json(json.loads(artifact.file("report.json").read_text(encoding="utf-8")))
        else:
            echo(artifact.file("report.md").read_text(encoding="utf-8"))
    next_command("open", folders[-1] / "report.html")


def schema() -> None:
    """Print the JSON Schema of recipes, for completion in editors.

    Example: edgevit schema > edgevit.schema.json
    """
    from edgevit.recipe import recipe_schema

    print_json(recipe_schema())


def _folder_of_run(run: Path) -> Path:
    """The folder of a run, from its folder or its name."""
    named = Path("runs") / run
    return named if named.is_dir() and not run.exists() else run


def _runs_with_reports(folder: Path) -> list[Path]:
    """The runs with a report, if `folder` is the folder of all runs, which holds the store; else none."""
    if not (folder / ".store").is_dir():
        return []
    return [run for run in sorted(folder.iterdir()) if not run.name.startswith(".") and _reports_in(run)]


def _reports_in(folder: Path) -> list[Path]:
    patterns = ("report.json", "*/report.json", "*/*/report.json")
    return sorted({file.parent for pattern in patterns for file in folder.glob(pattern)})


def _check_shard(shard: bool, ranks: int) -> None:
    if shard and max(ranks, int(os.environ.get("WORLD_SIZE", "1"))) == 1:
        from edgevit.errors import RecipeError

        raise RecipeError("--shard needs at least two processes", where="--shard", next="--ranks 2, or torchrun")


def _follows_torchrun(device: str, ranks: int) -> bool:
    """Whether torchrun has started this process as a follower. Then it has followed until the end."""
    if not _under_torchrun():
        return False
    from edgevit.errors import RecipeError

    if ranks > 1:
        raise RecipeError(
            "torchrun has started the ranks already", where="--ranks", next="leave out --ranks or torchrun"
        )
    from edgevit.training.distributed.processes import follow

    return follow(device)


def _dismiss_torchrun(device: str) -> None:
    if _under_torchrun():
        from edgevit.training.distributed.processes import dismiss

        dismiss(device)


def _under_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ


def _check_needs(recipe: Recipe, pending: frozenset[str]) -> None:
    """Raise the error of pending stages that need weights, a GPU, its runtime or a page that cannot be had."""
    from edgevit.actions.early_gpu import check_gpu_early
    from edgevit.actions.early_page import check_pages_early
    from edgevit.configs import Load

    for stage in recipe.stages:
        if isinstance(stage, Load) and stage.id in pending and stage.pretrained and stage.weights is None:
            from edgevit.models.pretrained import check_pretrained

            check_pretrained(stage.model)
    check_gpu_early(recipe, lambda: pending, terminal_context())
    check_pages_early(recipe, lambda: pending, terminal_context())


def _print_plan(answers: list[Reason], recipe: Path, settings: list[str], as_json: bool) -> None:
    from dataclasses import asdict

    from edgevit.pipeline import FINISHED

    if as_json:
        print_json([asdict(answer) for answer in answers])
        return
    for answer in answers:
        echo(f"{answer.id} ({answer.stage}): {answer.state}")
        for reason in answer.reasons:
            echo(f"    {reason}")
    pending = sum(answer.runs for answer in answers)
    if all(answer.state == FINISHED for answer in answers):
        echo(f"all {len(answers)} stages are finished")
    else:
        echo(f"{len(answers)} stages, {pending or 'none'} to run")
    if pending:
        next_command("edgevit run", recipe, *set_options(settings))


def _print_next(stages: Mapping[str, Artifact], folder: Path) -> None:
    """Print what to do with the results of a run: open the report, use the bundle, or else measure the last model."""
    last = {artifact.kind: id for id, artifact in stages.items()}
    if "report" in last:
        next_command("open", folder / last["report"] / "report.html")
    if "bundle" in last:
        next_command("edgevit predict", folder / last["bundle"], "IMAGE")
    model = next((last[kind] for kind in ("engine", "onnx", "checkpoint") if kind in last), None)
    if model is not None and not {"report", "bundle"} & last.keys():
        next_command("edgevit evaluate", folder / model, "--data FOLDER", *_target_of(stages[model]))


def _target_of(model: Artifact) -> tuple[str, ...]:
    """The option that names the target of a model that was compiled for another target than this machine's CPU."""
    from edgevit.configs.targets import LOCAL_CPU

    if not model.is_compiled or (bound_to := model.model_file.bound_to) is None or bound_to.name == LOCAL_CPU:
        return ()
    return (f"--target {bound_to.name}",)


def _summary_of(artifact: Artifact, is_new: bool) -> dict[str, Any]:
    key, digest = artifact.manifest.key, artifact.digest
    return {"kind": artifact.kind, "key": key, "digest": digest, "made": is_new, "metrics": artifact.metrics}


def _print_summaries(reports: Iterable[Artifact]) -> None:
    import json

    from edgevit.report import summary

    for report in reports:
        echo(summary(json.loads(report.file("report.json").read_text(encoding="utf-8"))))
