"""Commands on plain files: they run the same stages as recipes do, in a store that is thrown away."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgevit.cli.output import JsonFlag, check_out, next_command, print_json, print_table, terminal_context

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact, IOSpec

ModelPath = Annotated[
    Path, typer.Argument(help="An ONNX file, a bundle, or the folder of a stage (runs/NAME/ID).", metavar="MODEL")
]
DataPath = Annotated[
    Path, typer.Option("--data", help="Folder of labelled images: CLASS/*.jpg, or with test/CLASS/*.jpg.")
]
Out = Annotated[Path, typer.Option("--out", help="Where the result goes.")]
Threads = Annotated[int, typer.Option("--threads", min=1, help="CPU threads of the runtime.")]
TargetName = Annotated[str, typer.Option("--target", help="Where it runs: local-cpu or local-gpu.")]
Runtime = Annotated[
    str | None, typer.Option("--runtime", help="What opens an ONNX file: onnxruntime or openvino; its own by default.")
]
Labels = Annotated[
    Path | None, typer.Option("--labels", help="A file of class names, one a line, in the model's order.")
]
Batch = Annotated[int, typer.Option("--batch", min=1, help="Images at a time.")]


def export(
    model: Annotated[str, typer.Option("--model", help="A timm model name.")],
    out: Out,
    classes: Annotated[int | None, typer.Option("--classes", min=2, help="Number of classes.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .safetensors file, or a .pth of tensors only.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Take timm's pretrained weights.")] = False,
    image_size: Annotated[int | None, typer.Option("--image-size", min=1, help="Side of the input in pixels.")] = None,
    opset: Annotated[int, typer.Option("--opset", min=17, max=23)] = 20,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 for TensorRT; quantize takes float32.")
    ] = "float32",
    runtime: Annotated[str, typer.Option("--runtime", help="What opens it here: onnxruntime or openvino.")] = (
        "onnxruntime"
    ),
    normalise: Annotated[
        bool, typer.Option("--normalise", help="Scale and normalise inside the graph: uint8 (N, H, W, 3) goes in.")
    ] = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="A second output, so that classes can be added to a bundle.")
    ] = False,
    labels: Labels = None,
    as_json: JsonFlag = False,
) -> None:
    """Export a timm model to ONNX, checked against torch.

    Example: edgevit export --model deit_tiny_patch16_224 --classes 10 --out deit.onnx
    """
    from edgevit.configs import Export, Load
    from edgevit.workshop import parsed, workshop

    check_out(out, weights, labels)
    class_names = _class_names(labels) if labels else None
    names = tuple(str(index) for index in range(classes)) if classes else None
    with workshop(terminal_context()) as shop:
        loaded = shop.make(
            Load(stage="load", id="checkpoint", model=model, classes=names, pretrained=pretrained,
                 weights=str(weights.absolute()) if weights else None, image_size=image_size)
        )  # fmt: skip
        if class_names is not None:
            loaded = _named(loaded, class_names, labels)
        config = parsed(Export, id="onnx", model="checkpoint", opset=opset, precision=precision, runtime=runtime,
                        normalise=normalise, embedding=embedding)  # fmt: skip
        exported = shop.make(config, model=loaded)
        _deliver(exported, out, as_json)
    if precision == "float16":
        next_command("edgevit check", out)
        return
    for_runtime = "" if runtime == "onnxruntime" else f"--runtime {runtime} "
    next_command("edgevit quantize", out, f"--calibration FOLDER {for_runtime}--out", out.with_suffix(".int8.onnx"))


def describe(
    model: ModelPath,
    out: Out,
    mean: Annotated[
        tuple[float, float, float] | None, typer.Option("--mean", help="Of red, green and blue, on a scale of 0 to 1.")
    ] = None,
    std: Annotated[tuple[float, float, float] | None, typer.Option("--std", help="Likewise.")] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help="crop: shorter side to size, centre cut out; squash: both sides to size."),
    ] = None,
    crop_pct: Annotated[
        float | None, typer.Option("--crop-pct", help="With crop: share of the resized picture that is cut out.")
    ] = None,
    interpolation: Annotated[str | None, typer.Option("--interpolation", help="nearest, bilinear or bicubic.")] = None,
    labels: Labels = None,
    as_json: JsonFlag = False,
) -> None:
    """Write into an ONNX file from elsewhere how pictures are prepared for it, and what its classes are called.

    What is not given stays as it was; a file that says nothing is taken for one of ImageNet's normalisation.

    Example: edgevit describe own.onnx --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --labels names.txt --out own.described.onnx
    """
    from edgevit.artifacts import Preprocess
    from edgevit.runtimes.files import carries_trained_ranges, onnx_file, read_onnx, trained_ranges_in, write_onnx
    from edgevit.workshop import parsed_as, workshop

    check_out(out, model, labels)
    given = {"mean": mean, "std": std, "resize": resize, "crop_pct": crop_pct, "interpolation": interpolation}
    with workshop(terminal_context()) as shop:
        found = shop.model(model, for_pictures=False)
        if labels is not None:
            found = _named(found, _class_names(labels), labels)
        fields = {**found.io.preprocess.model_dump(), **{name: one for name, one in given.items() if one is not None}}
        io = found.io.model_copy(update={"preprocess": parsed_as(Preprocess, fields)})
        graph = read_onnx(onnx_file(found))
        ranges = trained_ranges_in(graph, model) if carries_trained_ranges(graph) else None
        with _part_of(out) as part:
            write_onnx(graph, part, io, found.manifest.session_options, ranges)
    if as_json:
        print_json({"out": out, "preprocess": io.preprocess.model_dump(), "classes": io.classes})
    else:
        _print_preprocess(out, io)
    next_command("edgevit evaluate", out, "--data FOLDER")


def quantize(
    model: ModelPath,
    calibration: Annotated[Path, typer.Option("--calibration", help="Folder of images, labelled or not.")],
    out: Out,
    images: Annotated[int, typer.Option("--images", min=1, help="How many images to calibrate on.")] = 256,
    calibrator: Annotated[
        str, typer.Option("--calibrator", help="minmax, entropy, percentile, mse; or trained: by qat.")
    ] = "minmax",
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="What will run it: onnxruntime, openvino, or tensorrt, with floats in float16."),
    ] = "onnxruntime",
    precision: Annotated[
        str, typer.Option("--precision", help="int8; for tensorrt also float8 (not on Orin), or int4: weights alone.")
    ] = "int8",
    placement: Annotated[
        str, typer.Option("--placement", help="fastest (measured here), all, dense, or products.")
    ] = "fastest",
    threads: Threads = 1,
    min_sqnr_db: Annotated[
        float | None, typer.Option("--min-sqnr-db", help="How close to float it must be, in dB; 10 by default.")
    ] = None,
    smoothquant: Annotated[
        float | None, typer.Option("--smoothquant", min=0, max=1, help="Share of large channels for the weights; 0.5.")
    ] = None,
    bias_correction: Annotated[
        bool, typer.Option("--bias-correction", help="Keep the means of channels; slower. For depthwise convolutions.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Quantize an ONNX model, calibrated on images and checked against the float model.

    With --placement fastest, forms are timed on this machine (but for tensorrt), and where none is faster than the
    float model, that is written.

    Example: edgevit quantize deit.onnx --calibration photos/train --out deit.int8.onnx
    """
    from edgevit.configs import Quantize
    from edgevit.workshop import parsed, workshop

    check_out(out, model)
    with workshop(terminal_context()) as shop:
        config = parsed(
            Quantize,
            id="quantized",
            model="model",
            calibration="images",
            calibration_images=images,
            calibrator=calibrator,
            runtime=runtime,
            precision=precision,
            placement=placement,
            threads=threads,
            min_sqnr_db=min_sqnr_db,
            smoothquant=smoothquant,
            bias_correction=bias_correction,
        )
        made = shop.make(config, model=shop.model(model), calibration=shop.unlabelled_images(calibration))
        _deliver(made, out, as_json)
    if not made.metrics["quantized_ops"]:
        typer.echo("this is the float model: no INT8 form was both faster and close enough to it", err=as_json)
    if runtime == "tensorrt":
        next_command("edgevit check", out)
    else:
        next_command("edgevit compare", model, out)


def compile(
    model: ModelPath,
    out: Out,
    target: TargetName = "local-cpu",
    as_json: JsonFlag = False,
) -> None:
    """Compile an ONNX model for a target's runtime, checked against the model.

    Example: edgevit compile deit.int8.onnx --out deit.local.onnx
    """
    from edgevit.configs import Compile
    from edgevit.workshop import parsed, workshop

    check_out(out, model)
    with workshop(terminal_context()) as shop:
        made = shop.make(
            parsed(Compile, id="engine", model="model", target=target), model=shop.model(model, for_pictures=False)
        )
        _deliver(made, out, as_json)
    next_command("edgevit profile", out)


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
        int | None, typer.Option("--max-images", min=1, help="Images to corrupt; 1000 by default.")
    ] = None,
    methods: Annotated[
        str | None, typer.Option("--methods", help="Of episodes, e.g. nearest_centroid,ridge,auto.")
    ] = None,
    ways: Annotated[int | None, typer.Option("--ways", min=2, help="Classes in an episode; all by default.")] = None,
    shots: Annotated[int | None, typer.Option("--shots", min=1, help="Labelled images a class; 5 by default.")] = None,
    queries: Annotated[
        int | None, typer.Option("--queries", min=1, help="Images a class to be answered; all others by default.")
    ] = None,
    episodes: Annotated[int | None, typer.Option("--episodes", min=1, help="How many; 600 by default.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure the accuracy of a model on labelled images, also when they are hurt, or as a start for new classes.

    Example: edgevit evaluate deit.int8.onnx --data photos/
    """
    from edgevit.configs import Evaluate
    from edgevit.workshop import parsed, workshop

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
    with workshop(terminal_context()) as shop:
        config = parsed(
            Evaluate, id="evaluation", model="model", data="images", target=target, runtime=runtime,
            batch_size=batch, protocol=protocol, **given,
        )  # fmt: skip
        made = shop.make(config, model=shop.model(model), data=shop.labelled_images(data))
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
    typer.echo(f"top-1 {top1['value']:.2%}, 95% interval {top1['low']:.2%} to {top1['high']:.2%}, {top1['n']} images")
    if corruptions:
        _print_corruptions(corruptions)
    next_command("edgevit profile", model)


def profile(
    model: ModelPath,
    target: TargetName = "local-cpu",
    runtime: Runtime = None,
    threads: Threads = 1,
    batch: Batch = 1,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 (torch on local-gpu).")
    ] = "float32",
    boundary: Annotated[str, typer.Option("--boundary", help="compute, or end_to_end with preprocessing.")] = "compute",
    duration_s: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds to measure.")] = 3.0,
    as_json: JsonFlag = False,
) -> None:
    """Measure the latency of a model.

    Example: edgevit profile deit.int8.onnx --threads 1
    """
    from edgevit.configs import Profile
    from edgevit.workshop import parsed, workshop

    with workshop(terminal_context()) as shop:
        config = parsed(Profile, id="latency", model="model", target=target, runtime=runtime, threads=threads,
                        batch_size=batch, precision=precision, boundary=boundary, duration_s=duration_s)  # fmt: skip
        made = shop.make(config, model=shop.model(model, for_pictures=False))
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
    batch: Batch = 1,
    duration_s: Annotated[float, typer.Option("--duration", min=0.1, help="Seconds to measure.")] = 6.0,
    as_json: JsonFlag = False,
) -> None:
    """Compare two models, their latencies interleaved in one run; exit status 1 where OTHER is slower or less accurate.

    Example: edgevit compare deit.onnx deit.int8.onnx --data photos/
    """
    from edgevit.comparison import compare_models
    from edgevit.configs import Evaluate
    from edgevit.profiling import MeasurePlan
    from edgevit.runtimes.base import SessionOptions
    from edgevit.workshop import parsed, workshop

    plan = MeasurePlan(duration_s=duration_s, batch_size=batch)
    with workshop(terminal_context()) as shop:
        models = shop.model(first), shop.model(second)
        evaluations = None
        if data:
            config = parsed(Evaluate, id="evaluation", model="model", data="images")
            images = shop.labelled_images(data)
            evaluations = (
                shop.make(config, model=models[0], data=images),
                shop.make(config, model=models[1], data=images),
            )
        answer = compare_models(*models, evaluations, SessionOptions(threads=threads), plan)
    if as_json:
        print_json(answer.as_json())
    else:
        typer.echo("\n".join(answer.sentences(first.name, second.name)))
        next_command("edgevit bundle", second, "--out bundle/")
    if answer.other_is_worse:
        raise typer.Exit(1)


def bundle(
    model: ModelPath,
    out: Out,
    support: Annotated[
        Path | None,
        typer.Option("--support", help="Folder CLASS/*.jpg of images of each class: the bundle can take more classes."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pack a model for a device: model, labels, IOSpec, a runner, and the hash of each file.

    Example: edgevit bundle deit.int8.onnx --out bundle/
    """
    from edgevit.configs import Bundle
    from edgevit.errors import ArtifactError
    from edgevit.workshop import workshop

    if out.exists():
        raise ArtifactError("the folder is already there", where=out, next="give another --out")
    check_out(out, model)
    with workshop(terminal_context()) as shop:
        images = {"support": shop.support_images(support)} if support else {}
        config = Bundle(stage="bundle", id="bundle", model="model", support="support" if support else None)
        made = shop.make(config, model=shop.model(model), **images)
        _deliver_folder(made, out)
    if as_json:
        print_json({"out": out, "files": sorted(made.manifest.files), "metrics": made.metrics})
    else:
        typer.echo(f"wrote {out}: {', '.join(sorted(made.manifest.files))}")
    next_command("python", out / "infer.py", "IMAGE")


def enroll(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was made with images of each class.", metavar="BUNDLE")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images of the class, or folders of them.", metavar="IMAGE...")
    ] = None,
    name: Annotated[str | None, typer.Option("--class", help="The class to add.")] = None,
    remove: Annotated[str | None, typer.Option("--remove", help="The class to remove.")] = None,
    show: Annotated[bool, typer.Option("--list", help="Show the classes, the check and the threshold.")] = False,
    add: Annotated[bool, typer.Option("--add", help="The class is there: add images to it.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Take a class that cannot be told apart.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a class to a bundle from a few images, without training, or remove one; exit status 1 where it is refused.

    Example: edgevit enroll bundle/ --class gasket images/*.jpg
    """
    from edgevit.bundling import enroll as enroll_in

    if (name is None) == (not images) and [name is not None, remove is not None, show].count(True) == 1:
        options = (
            [f"--class={name}"] if name is not None else [f"--remove={remove}"] if remove is not None else ["--list"]
        )
    else:
        raise typer.BadParameter("give --class NAME and images, --remove NAME, or --list")
    flags = {"--add": add, "--force": force, "--json": as_json}
    options += [flag for flag, wanted in flags.items() if wanted]
    typer.echo(enroll_in(bundle, [*options, "--", *map(str, images or [])]), nl=False)
    next_command("edgevit predict", bundle, "IMAGE")


def predict(
    model: ModelPath,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="IMAGE...")],
    top: Annotated[int, typer.Option("--top", min=1, help="Labels for each image.")] = 1,
    as_json: JsonFlag = False,
) -> None:
    """Label images with a bundle, an ONNX file or an engine; exit status 2 where some could not be read.

    Example: edgevit predict runs/quickstart/bundle photo.jpg
    """
    from edgevit.bundling import classes_since
    from edgevit.prediction import predict_images
    from edgevit.workshop import workshop

    with workshop(terminal_context()) as shop:
        artifact = shop.model(model)
        classes = classes_since(artifact.path) if model.is_dir() else None
        answers, unread = predict_images(artifact, images, top, classes)
    if as_json:
        print_json(answers)
    elif answers:
        rows = [
            (one["image"], *(f"{label['label']} {label['confidence']:.1%}" for label in one["labels"]))
            for one in answers
        ]
        print_table(("image", *(f"label {i + 1}" for i in range(len(rows[0]) - 1))), rows)
    for error in unread:
        typer.echo(f"error: {error}", err=True)
    if unread:
        raise typer.Exit(2)
    next_command("edgevit evaluate", model, "--data FOLDER")


def _class_names(labels: Path) -> tuple[str, ...]:
    from edgevit.data.class_names import check_class_names
    from edgevit.errors import DataError

    try:
        names = tuple(labels.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise DataError("this is no text in UTF-8", where=labels, expected="one class name a line") from None
    check_class_names(names, str(labels))
    return names


def _named(model: Artifact, names: tuple[str, ...], labels: Path | None) -> Artifact:
    from edgevit.errors import DataError

    if len(names) != (expected := len(model.io.classes)):
        what = "there have to be as many names as the model has classes"
        raise DataError(what, where=labels, got=len(names), expected=expected)
    return model.calling_its_classes(names)


def _deliver(made: Artifact, out: Path, as_json: bool) -> None:
    """Copy the made model to where the user wants it, in one step."""
    with _part_of(out) as part:
        shutil.copyfile(made.file("model.onnx"), part)
    if as_json:
        print_json({"out": out, "metrics": made.metrics})
        return
    details = [f"{made.metrics['size_bytes'] / 2**20:.2f} MiB", str(made.metrics["precision"])]
    if "sqnr_db" in made.metrics:
        details.append(f"{made.metrics['sqnr_db']:.1f} dB against float")
    typer.echo(f"wrote {out} ({', '.join(details)})")


@contextmanager
def _part_of(out: Path) -> Iterator[Path]:
    """A file to write, which becomes `out` in one step."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.part")
    try:
        yield part
        part.replace(out)
    finally:
        part.unlink(missing_ok=True)


def _deliver_folder(made: Artifact, out: Path) -> None:
    """The same for a whole folder."""
    part = out.with_name(f".{out.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        shutil.copytree(made.path, part)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _print_preprocess(out: Path, io: IOSpec) -> None:
    from edgevit.errors import listed

    how = io.preprocess
    inside = "inside the model" if how.normalised_inside else f"mean {_numbers(how.mean)}, std {_numbers(how.std)}"
    resized = f"crop at {how.crop_pct:g}" if how.resize == "crop" else how.resize
    typer.echo(f"wrote {out}")
    typer.echo(f"pictures   {how.height} x {how.width}, {resized}, {how.interpolation}; {inside}")
    typer.echo(f"classes    {len(io.classes)}: {listed(io.classes)}")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)


def _print_latency(made: Artifact) -> None:
    latency, metrics = made.metrics["latency_ms"], made.metrics
    interval = f" (95% interval {latency['p50_low']:.3g} to {latency['p50_high']:.3g})"
    typer.echo(f"p50 {latency['p50']:.3g} ms{interval}, p90 {latency['p90']:.3g}, p99 {latency['p99']:.3g}")
    typer.echo(
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
    typer.echo(f"under corruption {mean['value']:.2%}, 95% interval {mean['low']:.2%} to {mean['high']:.2%}")
    rows = [*found["kinds"].items(), ("mean", found["by_severity"])]
    means = [*found["by_kind"].values(), mean]
    print_table(
        ("top-1 at severity", *severities, "mean"),
        (
            (kind, *(f"{shares[severity]['value']:.1%}" for severity in severities), f"{over['value']:.1%}")
            for (kind, shares), over in zip(rows, means, strict=True)
        ),
    )
