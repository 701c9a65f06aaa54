"""Commands that measure models: evaluate, profile, compare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit import bounds
from edgevit.cli.naming import named_by_options
from edgevit.cli.options import (
    WHERE,
    Batch,
    BatchOfFile,
    ClassOrder,
    DataPath,
    JsonFlag,
    Labels,
    ModelPath,
    Runtime,
    TargetName,
    Threads,
    batch_sizes_checked,
    default_of,
    given_options,
    number,
    separated,
)
from edgevit.cli.output import echo, next_command, on_target, print_json, print_table, terminal_context

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact
    from edgevit.profiling.latency_record import LatencyRecord


def evaluate(
    model: ModelPath,
    data: DataPath,
    target: TargetName = default_of("Evaluate", "target"),
    runtime: Runtime = None,
    batch: Batch = default_of("Evaluate", "batch_size"),
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="standard: the images as they are. corruptions: also with blur, noise, JPEG, fog and more. episodes: "
            "few-shot, classes learned from a few of the images. cross_validation: of a head, without test images. "
            "knn, linear: nearest neighbors or logistic regression on the features, fitted to --support.",
        ),
    ] = default_of("Evaluate", "protocol"),
    kinds: Annotated[
        str, typer.Option("--kinds", help="corruptions: the kinds, with commas between them.", metavar="KIND,…")
    ] = default_of("Evaluate", "kinds"),
    severities: Annotated[
        str, typer.Option("--severities", help="corruptions: the severities, 1 to 5, with commas.", metavar="N,…")
    ] = default_of("Evaluate", "severities"),
    max_images: Annotated[
        int, number("--max-images", bounds.IMAGES, "corruptions: most images; a larger set is sampled.")
    ] = default_of("Evaluate", "max_images"),
    methods: Annotated[
        str,
        typer.Option(
            "--methods",
            help="episodes: the methods, with commas, such as nearest_centroid,ridge,auto. cross_validation: one.",
            metavar="METHOD,…",
        ),
    ] = default_of("Evaluate", "methods"),
    ways: Annotated[
        int | None, number("--ways", bounds.CLASSES, "episodes: classes in each episode; all by default.")
    ] = None,
    shots: Annotated[int, number("--shots", bounds.COUNT, "episodes: labelled images of each class.")] = default_of(
        "Evaluate", "shots"
    ),
    queries: Annotated[
        int | None,
        number("--queries", bounds.COUNT, "episodes: test images of each class; all other images by default."),
    ] = None,
    episodes: Annotated[int, number("--episodes", bounds.COUNT, "episodes: number of episodes.")] = default_of(
        "Evaluate", "episodes"
    ),
    support: Annotated[
        Path | None,
        typer.Option("--support", help="knn, linear: folder of labelled images; episodes: of the supports."),
    ] = None,
    neighbors: Annotated[
        str, typer.Option("--neighbors", help="knn: numbers of neighbors k, with commas.", metavar="K,…")
    ] = default_of("Evaluate", "neighbors"),
    temperature: Annotated[
        float, number("--temperature", bounds.COSINE_TEMPERATURE, "knn: a vote weighs exp(cosine / temperature).")
    ] = default_of("Evaluate", "temperature"),
    label_shares: Annotated[
        str,
        typer.Option(
            "--label-shares", help="knn, linear: shares of the labels, such as 1,0.1,0.01.", metavar="SHARE,…"
        ),
    ] = default_of("Evaluate", "label_shares"),
    draws: Annotated[
        int, number("--draws", bounds.COUNT, "knn, linear: random draws of each share below 1.")
    ] = default_of("Evaluate", "draws"),
    labels: Labels = None,
    class_order: ClassOrder = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure accuracy on labelled images; optionally under corruption, few-shot, or of heads on its features.

    Example: edgevit evaluate deit.int8.onnx --data photos/
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import OF_NEW_HEADS, Evaluate
    from edgevit.report.text.accuracy import accuracy_sentences
    from edgevit.report.text.episodes import FEW_SHOT_HEADER, few_shot_rows

    options = {
        "kinds": separated(kinds),
        "severities": separated(severities),
        "max_images": max_images,
        "methods": separated(methods),
        "ways": ways,
        "shots": shots,
        "queries": queries,
        "episodes": episodes,
        "neighbors": separated(neighbors),
        "temperature": temperature,
        "label_shares": separated(label_shares),
        "draws": draws,
    }
    with single_stages(terminal_context()) as stages:
        config = stage_config(
            Evaluate, id="evaluation", model="model", data="images", target=target, runtime=runtime,
            batch_size=batch, protocol=protocol, support=None if support is None else "support", **options,
        )  # fmt: skip
        named, images = stages.model(model), stages.labelled_images(data)
        named = named_by_options(named, labels, class_order, images)
        known = {} if support is None else {"support": stages.support_images(support)}
        evaluation = stages.make(config, model=named, data=images, **known)
        corruptions = _corruptions(evaluation)
    if as_json:
        print_json({**evaluation.metrics, **({"corruptions": corruptions} if corruptions else {})})
        return
    if protocol == "episodes":
        print_table(FEW_SHOT_HEADER, few_shot_rows(evaluation.metrics["episodes"]))
        return
    if protocol in OF_NEW_HEADS:
        _print_heads(evaluation.metrics)
        return
    for sentence in accuracy_sentences(evaluation.metrics):
        echo(sentence)
    if corruptions:
        _print_corruptions(corruptions)
    next_command("edgevit profile", model, *on_target(target))


def profile(
    context: typer.Context,
    model: ModelPath,
    target: Annotated[
        str,
        typer.Option("--target", help=f"{WHERE}. Several, with commas, or a group get a row each.", metavar="NAME,…"),
    ] = default_of("Profile", "target"),
    runtime: Runtime = None,
    threads: Threads = default_of("Profile", "threads"),
    batch: Annotated[
        str | None,
        typer.Option(
            "--batch",
            callback=batch_sizes_checked,
            help="Images in a batch; 1 by default, or the batch size that the file fixes. Several, with commas: also "
            "the throughput with each.",
            metavar="N,…",
        ),
    ] = None,
    rate_hz: Annotated[
        float | None,
        number("--rate", bounds.RATE_HZ, "Also a stream of so many frames a second: is the rate kept?"),
    ] = None,
    scenario: Annotated[
        str,
        typer.Option(
            "--scenario",
            help="MLPerf's name: single_stream, offline (throughput, of --batch) or fixed_rate (of --rate). If it is "
            "left out, it follows from --batch and --rate.",
            metavar="NAME",
        ),
    ] = default_of("Profile", "scenario"),
    like: Annotated[
        str | None,
        typer.Option("--like", help="mlperf: by the rules of LoadGen's single stream. It takes 10 minutes."),
    ] = None,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 for torch on local-gpu.")
    ] = default_of("Profile", "precision"),
    boundary: Annotated[
        str,
        typer.Option("--boundary", help="compute: the model alone. end_to_end: with decoding and preprocessing."),
    ] = default_of("Profile", "boundary"),
    duration_s: Annotated[
        float, number("--duration", bounds.MEASURED_S, "Duration of the measurement, in seconds.")
    ] = default_of("Profile", "duration_s"),
    starts: Annotated[
        int, number("--starts", bounds.STARTS, "Fresh starts of the model, which share the duration.")
    ] = default_of("Profile", "starts"),
    soak_s: Annotated[
        float | None,
        number("--soak", bounds.MEASURED_S, "Longest load before, in seconds, until the temperature is steady."),
    ] = None,
    retry_s: Annotated[
        float, number("--retry", bounds.WARMUP_S, "Time in seconds to repeat a disturbed measurement.")
    ] = default_of("Profile", "retry_s"),
    idle_s: Annotated[
        float,
        number("--idle", bounds.WARMUP_S, "Rest before the runs, in seconds, for the power at rest; 0: no energy."),
    ] = default_of("Profile", "idle_s"),
    repeat: Annotated[
        Path | None,
        typer.Option(
            "--repeat",
            help="Receipt of a latency: what --json printed, or a stage's folder. Measures again under its plan; exit "
            "status 1 if the results do not agree.",
            metavar="RECEIPT",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure the latency of a model, and its energy where the machine tells its power.

    The measurement begins when the runs are steady; trtexec warms up for a fixed time. If other programs, heat or
    clocks disturb it, it is repeated for --retry seconds. If it stays disturbed, the latency is INVALID.

    The model is started --starts times: the 95% intervals hold what varies from start to start.

    Several targets are measured one after another. One that fails is said at the end, with exit status 2.

    Example: edgevit profile deit.int8.onnx --threads 1
    """
    from edgevit.actions.repeat_profile import receipt_json
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Profile
    from edgevit.errors import TargetError
    from edgevit.runtimes.base import fixed_batch
    from edgevit.targets.named import each_target

    if repeat is not None:
        _check_plan_is_not_given(given_options(context))
        _repeat(model, repeat, retry_s, as_json)
        return
    given = separated(target)
    plan: dict[str, Any] = {"duration_s": duration_s, "starts": starts}
    asked = scenario if "--scenario" in given_options(context) else None
    if like is not None:  # its rules hold for options that are not given
        flags = {"duration_s": "--duration", "starts": "--starts"}
        plan = {"like": like, **{name: plan[name] for name, flag in flags.items() if flag in given_options(context)}}
    names, latencies, failures = each_target(given), [], []
    are_several = names != tuple(given[:1])  # also for a group of one: programs get a list
    with single_stages(terminal_context()) as stages:
        timed = stages.model(model, for_images=False)
        for name in names:
            config = stage_config(Profile, id="latency", model="model", target=name, runtime=runtime, threads=threads,
                            precision=precision, boundary=boundary, soak_s=soak_s, retry_s=retry_s, idle_s=idle_s,
                            **plan, **scenario_options(asked, batch, rate_hz, fixed_batch(timed.io)))  # fmt: skip
            try:
                latencies.append(stages.make(config, model=timed))
            except TargetError as error:
                if not are_several:
                    raise
                failures.append(error)
        receipts = [receipt_json(latency) for latency in latencies] if as_json else []
    if as_json:
        print_json(receipts if are_several else receipts[0])
    elif not are_several:
        _print_latency(latencies[0])
        next_command("edgevit compare", model, "OTHER", *on_target(target))
    else:
        _print_latencies(latencies)
    for failure in failures:
        echo(f"error: {failure}", err=True)
    if failures:
        raise typer.Exit(TargetError.exit_code)


def scenario_options(
    scenario: str | None, batch: str | None, rate_hz: float | None, fixed_batch: int | None
) -> dict[str, Any]:
    """The fields of `Profile` for --scenario, --batch and --rate. Raises RecipeError for options that do not fit.

    Args:
        scenario: None if it follows from the other options.
        fixed_batch: the batch size that the file fixes.
    """
    from edgevit.errors import RecipeError

    sizes = tuple(map(int, separated(batch))) if batch else (fixed_batch or 1,)
    given = scenario or ("fixed_rate" if rate_hz is not None else "offline" if len(sizes) > 1 else "single_stream")
    if given == "fixed_rate" and rate_hz is None:
        raise RecipeError("a fixed rate has frames a second", where="--scenario", next="give them with --rate")
    if given != "fixed_rate" and rate_hz is not None:
        raise RecipeError(f"{given} has no rate", where="--rate", next="leave --rate out, or --scenario")
    if given != "offline" and len(sizes) > 1:
        raise RecipeError(
            f"{given} has one batch size", where="--batch", got=batch, next="give one, or leave out --rate"
        )
    if given == "offline":
        return {"scenario": given, "batch_sizes": tuple(sorted(set(sizes)))}
    return {"scenario": given, "batch_size": sizes[0], **({"rate_hz": rate_hz} if rate_hz is not None else {})}


def _check_plan_is_not_given(options: Iterable[str]) -> None:
    """Raise RecipeError for an option that the receipt decides."""
    from edgevit.errors import RecipeError

    for option in options:
        if option.startswith("--") and option not in ("--repeat", "--retry", "--json"):
            what = f"--repeat takes no {option}: the plan is that of the receipt"
            raise RecipeError(what, where="--repeat", next=f"leave {option} out")


def _repeat(model: Path, receipt: Path, retry_s: float, as_json: bool) -> None:
    """Measure again under the plan of a receipt."""
    from edgevit.actions.repeat_profile import Receipt, repeat_profile
    from edgevit.actions.single_stage import single_stages

    first = Receipt.read(receipt)
    with single_stages(terminal_context()) as stages:
        repeated = repeat_profile(stages, stages.model(model, for_images=False), first, retry_s)
        answer = repeated.as_json() if as_json else {}
    if as_json:
        print_json(answer)
    else:
        _print_latency(repeated.artifact)
        echo("\n".join(repeated.sentences()))
    if not repeated.agrees:
        raise typer.Exit(1)


def compare(
    first: ModelPath,
    others: Annotated[list[Path], typer.Argument(help="The models to compare with MODEL.", metavar="OTHER")],
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of labelled images, to compare accuracy too.")
    ] = None,
    target: TargetName = default_of("Profile", "target"),
    runtime: Annotated[
        str,
        typer.Option(
            "--runtime",
            help="What runs ONNX files: onnxruntime or openvino, for all models; or one for each, with commas. Each "
            "file's own by default.",
            metavar="NAME,…",
        ),
    ] = "",
    threads: Threads = default_of("Profile", "threads"),
    batch: BatchOfFile = None,
    duration_s: Annotated[
        float, number("--duration", bounds.MEASURED_S, "Duration of the measurement of each model, in seconds.")
    ] = bounds.COMPARED_S,
    max_slowdown: Annotated[
        float,
        number(
            "--max-slowdown",
            bounds.NON_NEGATIVE,
            "Largest slowdown that passes: 0.05 for 5% more latency than MODEL's.",
        ),
    ] = 0.0,
    max_top1_drop: Annotated[
        float,
        number("--max-top1-drop", bounds.LOSS, "Largest loss of top-1 that passes: 0.01 for one point below MODEL's."),
    ] = 0.0,
    class_order: ClassOrder = None,
    as_json: JsonFlag = False,
) -> None:
    """Compare models with the first, timed in turns; exit status 1 if one is slower or less accurate.

    Differences that chance explains pass. An invalid timing gives exit status 1 too.

    Example: edgevit compare deit.onnx deit.int8.onnx --data photos/
    """
    from edgevit.actions.compare_models import LossLimits, compare_models
    from edgevit.actions.single_stage import single_stages

    paths = (first, *others)
    with single_stages(terminal_context()) as stages:
        models = [stages.model(path) for path in paths]
        images = stages.labelled_images(data) if data else None
        _check_order_is_needed(class_order, *models)
        models = [_ordered_if_unnamed(model, class_order, images) for model in models]
        runtimes, limits = separated(runtime) if runtime else (), LossLimits(max_slowdown, max_top1_drop)
        comparison = compare_models(stages, models, images, threads, batch, duration_s, target, runtimes, limits).named(
            _names_of_paths(paths)
        )
    if as_json:
        print_json(comparison.as_json())
    else:
        echo("\n".join(comparison.sentences()))
        if len(others) == 1:
            options = "--compiled --out bundle/" if models[1].is_compiled else "--out bundle/"
            next_command("edgevit bundle", others[0], options)
    if not comparison.is_met:
        raise typer.Exit(1)


def _names_of_paths(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths; the whole paths where last parts are equal."""
    names = [path.name for path in paths]
    return names if len(set(names)) == len(names) else list(map(str, paths))


def _check_order_is_needed(class_order: str | None, *models: Artifact) -> None:
    from edgevit.errors import RecipeError

    if class_order is not None and all(model.io.names_its_classes for model in models):
        what = "all models name their classes, so there is no order to choose"
        raise RecipeError(what, where="--class-order", got=class_order, next="leave it out")


def _ordered_if_unnamed(model: Artifact, class_order: str | None, images: Artifact | None) -> Artifact:
    """The model with class names in this order; a model that names its classes as it is."""
    return model if model.io.names_its_classes else named_by_options(model, None, class_order, images)


def _print_latency(profile: Artifact) -> None:
    from edgevit.profiling.latency_record import LatencyRecord
    from edgevit.report.text.latency import latency_facts, latency_sentence

    latency = LatencyRecord.of_metrics(profile.metrics)
    for reason in latency.invalid:
        echo(f"INVALID: {reason}")
    echo(latency_sentence(latency))
    threads = "" if latency.threads is None else f"threads {latency.threads}, "  # an engine runs on a GPU
    echo(
        f"{latency.runtime} on {latency.target}, {threads}batch {latency.batch_size}, {latency.precision}, "
        f"{latency.boundary}, n {latency.n}"
    )
    for label, value in latency_facts(latency):
        echo(f"{label}: {value}")
    _print_throughput(latency)


def _print_throughput(latency: LatencyRecord) -> None:
    """A row for each batch size of the scenario `offline`."""
    from edgevit.report.text.throughput import THROUGHPUT_HEADER, throughput_rows

    if latency.offline:
        print_table(THROUGHPUT_HEADER, throughput_rows(latency.offline))
    for sentence in latency.scenario_failed:
        echo(sentence)


def _print_latencies(profiles: Iterable[Artifact]) -> None:
    """A row for each target."""
    from edgevit.profiling.latency_record import LatencyRecord
    from edgevit.report.text.energy import energy_cell
    from edgevit.report.text.latency import latency_interval, median_cell
    from edgevit.report.text.numbers import NOT_MEASURED
    from edgevit.report.text.scenarios import scenario_facts

    profiles = list(profiles)
    latencies = [LatencyRecord.of_metrics(profile.metrics) for profile in profiles]
    energies = [profile.metrics.get("energy_mj") for profile in profiles]
    shown = [[energy_cell(energy)] if any(energies) else [] for energy in energies]
    rows = [
        (
            latency.target,
            median_cell(latency),
            latency_interval(latency),
            f"{latency.p99.ms:.3g}" if latency.p99 else NOT_MEASURED,
            *energy,
            latency.runtime,
        )
        for latency, energy in zip(latencies, shown, strict=True)
    ]
    print_table(("target", "p50", "95% interval", "p99", *(["energy"] if any(energies) else []), "runtime"), rows)
    for latency in latencies:
        for label, value in scenario_facts(latency):
            echo(f"{latency.target}: {label}: {value}")
        if latency.offline:
            echo(f"{latency.target}:")
        _print_throughput(latency)


def _corruptions(evaluation: Artifact) -> dict[str, Any] | None:
    """The accuracies under corruption; None if the evaluation has none."""
    if "evaluation.json" not in evaluation.manifest.files:
        return None
    recorded: dict[str, Any] = json.loads(evaluation.file("evaluation.json").read_text(encoding="utf-8"))
    return recorded.get("corruptions")


def _print_heads(metrics: dict[str, Any]) -> None:
    from edgevit.report.text.features import FEATURE_HEADER, head_rows, measures_sentence

    print_table(FEATURE_HEADER, head_rows(metrics))
    if features := metrics.get("features"):
        echo(measures_sentence(features))


def _print_corruptions(corruptions: dict[str, Any]) -> None:
    from edgevit.report.text.corruptions import corruption_sentence

    mean, severities = corruptions["mean"], list(corruptions["by_severity"])
    echo(corruption_sentence(mean))
    rows = [*corruptions["kinds"].items(), ("mean", corruptions["by_severity"])]
    means = [*corruptions["by_kind"].values(), mean]
    print_table(
        ("top-1 at severity", *severities, "mean"),
        (
            (kind, *(f"{shares[severity]['value']:.1%}" for severity in severities), f"{mean_of_row['value']:.1%}")
            for (kind, shares), mean_of_row in zip(rows, means, strict=True)
        ),
    )
