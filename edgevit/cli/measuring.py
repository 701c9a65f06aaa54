"""Commands that measure files: evaluate, profile, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import bounds
from edgevit.cli.naming import named_by_options
from edgevit.cli.options import (
    Batch,
    BatchOfFile,
    ClassOrder,
    DataPath,
    Labels,
    ModelPath,
    Runtime,
    TargetName,
    Threads,
    number,
)
from edgevit.cli.output import JsonFlag, echo, next_command, print_json, print_table, terminal_context

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact


def evaluate(
    model: ModelPath,
    data: DataPath,
    target: TargetName = "local-cpu",
    runtime: Runtime = None,
    batch: Batch = 32,
    protocol: Annotated[
        str,
        typer.Option("--protocol", help="standard; corruptions: blur, noise, JPEG, fog, … too; episodes: few-shot."),
    ] = "standard",
    kinds: Annotated[str | None, typer.Option("--kinds", help="Of corruptions, e.g. blur,fog; all by default.")] = None,
    severities: Annotated[
        str | None, typer.Option("--severities", help="Of corruptions, e.g. 1,3,5; 1 to 5 by default.")
    ] = None,
    max_images: Annotated[
        int | None, number("--max-images", bounds.IMAGES, "Images to corrupt; 1000 by default.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Of episodes, e.g. nearest_centroid,ridge,auto.")
    ] = None,
    ways: Annotated[int | None, number("--ways", bounds.CLASSES, "Classes in an episode; all by default.")] = None,
    shots: Annotated[int | None, number("--shots", bounds.COUNT, "Labelled images a class; 5 by default.")] = None,
    queries: Annotated[
        int | None, number("--queries", bounds.COUNT, "Images a class to be answered; all others by default.")
    ] = None,
    episodes: Annotated[int | None, number("--episodes", bounds.COUNT, "How many; 600 by default.")] = None,
    labels: Labels = None,
    class_order: ClassOrder = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure accuracy on labelled images; optionally under corruption, or few-shot.

    Example: edgevit evaluate deit.int8.onnx --data photos/
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Evaluate

    options = {
        "kinds": kinds and kinds.split(","),
        "severities": severities and severities.split(","),
        "max_images": max_images,
        "methods": methods and methods.split(","),
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "episodes": episodes,
    }
    given = {name: value for name, value in options.items() if value is not None}
    with single_stages(terminal_context()) as stages:
        config = stage_config(
            Evaluate, id="evaluation", model="model", data="images", target=target, runtime=runtime,
            batch_size=batch, protocol=protocol, **given,
        )  # fmt: skip
        named, images = stages.model(model), stages.labelled_images(data)
        named = named_by_options(named, labels, class_order, images)
        made = stages.make(config, model=named, data=images)
        of_episodes = protocol == "episodes"
        recorded = {} if of_episodes else json.loads(made.file("evaluation.json").read_text(encoding="utf-8"))
    corruptions = recorded.get("corruptions")
    if as_json:
        print_json({**made.metrics, **({"corruptions": corruptions} if corruptions else {})})
        return
    if of_episodes:
        _print_episodes(made.metrics["episodes"])
        return
    top1 = made.metrics["top1"]
    echo(f"top-1 {top1['value']:.2%}, 95% interval {top1['low']:.2%} to {top1['high']:.2%}, {top1['n']} images")
    if corruptions:
        _print_corruptions(corruptions)
    next_command("edgevit profile", model)


def profile(
    model: ModelPath,
    target: TargetName = "local-cpu",
    runtime: Runtime = None,
    threads: Threads = 1,
    batch: BatchOfFile = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 (torch on local-gpu).")
    ] = "float32",
    boundary: Annotated[str, typer.Option("--boundary", help="compute, or end_to_end with preprocessing.")] = "compute",
    duration_s: Annotated[float, number("--duration", bounds.MEASURED_S, "Seconds to measure.")] = 3.0,
    as_json: JsonFlag = False,
) -> None:
    """Measure the latency of a model.

    Example: edgevit profile deit.int8.onnx --threads 1
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Profile
    from edgevit.runtimes.base import fixed_batch

    with single_stages(terminal_context()) as stages:
        timed = stages.model(model, for_pictures=False)
        config = stage_config(Profile, id="latency", model="model", target=target, runtime=runtime, threads=threads,
                        batch_size=batch or fixed_batch(timed.io) or 1, precision=precision, boundary=boundary,
                        duration_s=duration_s)  # fmt: skip
        made = stages.make(config, model=timed)
    if as_json:
        print_json(made.metrics)
    else:
        _print_latency(made)
        next_command("edgevit compare", model, "OTHER")


def compare(
    first: ModelPath,
    second: Annotated[Path, typer.Argument(help="The model to compare it with.", metavar="OTHER")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of labelled images: compares accuracy too.")
    ] = None,
    threads: Threads = 1,
    batch: BatchOfFile = None,
    duration_s: Annotated[float, number("--duration", bounds.MEASURED_S, "Seconds to measure.")] = 6.0,
    class_order: ClassOrder = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare two models, their latencies interleaved in one run; exit status 1 where OTHER is slower or less accurate.

    Example: edgevit compare deit.onnx deit.int8.onnx --data photos/
    """
    from edgevit.actions.compare_models import compare_models
    from edgevit.actions.single_stage import single_stages

    with single_stages(terminal_context()) as stages:
        one, other = stages.model(first), stages.model(second)
        images = stages.labelled_images(data) if data else None
        _check_order_is_needed(class_order, one, other)
        models = _ordered_if_unnamed(one, class_order, images), _ordered_if_unnamed(other, class_order, images)
        answer = compare_models(stages, *models, images, threads, batch, duration_s)
    if as_json:
        print_json(answer.as_json())
    else:
        echo("\n".join(answer.sentences(first.name, second.name)))
        next_command("edgevit bundle", second, "--out bundle/")
    if answer.other_is_worse:
        raise typer.Exit(1)


def _check_order_is_needed(class_order: str | None, *models: Artifact) -> None:
    from edgevit.errors import RecipeError

    if class_order is not None and all(model.io.names_its_classes for model in models):
        said = "both models name their classes, so there is no order to choose"
        raise RecipeError(said, where="--class-order", got=class_order, next="leave it out")


def _ordered_if_unnamed(model: Artifact, class_order: str | None, images: Artifact | None) -> Artifact:
    """Of two models that are compared, one may name its classes, and the other may not."""
    return model if model.io.names_its_classes else named_by_options(model, None, class_order, images)


def _print_latency(made: Artifact) -> None:
    latency, metrics = made.metrics["latency_ms"], made.metrics
    interval = f" (95% interval {latency['p50_low']:.3g} to {latency['p50_high']:.3g})"
    echo(f"p50 {latency['p50']:.3g} ms{interval}, p90 {latency['p90']:.3g}, p99 {latency['p99']:.3g}")
    echo(
        f"{metrics['runtime']} on {metrics['target']}, threads {metrics['threads']}, batch {metrics['batch_size']}, "
        f"{metrics['precision']}, {latency['boundary']}, n {latency['n']}"
    )


def _print_episodes(found: dict[str, Any]) -> None:
    print_table(
        ("method", "mean top-1", "95% interval", "lowest", "highest"),
        (
            (
                name,
                f"{one['value']:.2%}",
                "–" if one["low"] is None else f"{one['low']:.2%} to {one['high']:.2%}",
                f"{one['min']:.1%}",
                f"{one['max']:.1%}",
            )
            for name, one in found.items()
        ),
    )


def _print_corruptions(found: dict[str, Any]) -> None:
    mean, severities = found["mean"], list(found["by_severity"])
    echo(f"under corruption {mean['value']:.2%}, 95% interval {mean['low']:.2%} to {mean['high']:.2%}")
    rows = [*found["kinds"].items(), ("mean", found["by_severity"])]
    means = [*found["by_kind"].values(), mean]
    print_table(
        ("top-1 at severity", *severities, "mean"),
        (
            (kind, *(f"{shares[severity]['value']:.1%}" for severity in severities), f"{over['value']:.1%}")
            for (kind, shares), over in zip(rows, means, strict=True)
        ),
    )
