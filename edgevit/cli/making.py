"""Commands that make model files: export, describe, quantize, compile."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit import bounds
from edgevit.cli.naming import named_by_options, with_names
from edgevit.cli.options import (
    JsonFlag,
    Labels,
    ModelPath,
    Out,
    SizeLimit,
    TargetName,
    Threads,
    default_of,
    flag,
    number,
)
from edgevit.cli.output import (
    check_out,
    echo,
    next_command,
    on_target,
    print_json,
    say_note,
    terminal_context,
)
from edgevit.disks import whole_or_not_at_all

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact, IOSpec
    from edgevit.configs import Compile
    from edgevit.context import Context
    from edgevit.errors import ParityError


def export(
    model: Annotated[str, typer.Option("--model", help="A timm model name; edgevit models lists compact ones.")],
    out: Out,
    classes: Annotated[
        int | None, number("--classes", bounds.CLASSES, "Number of classes; by default that of the weights.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="Weights: a .safetensors file, or a .pth file of tensors only.")
    ] = None,
    weights_key: Annotated[
        str | None,
        typer.Option("--weights-key", help="Name of the weights in the file; EMA weights by default."),
    ] = None,
    pretrained: Annotated[
        bool, flag("--pretrained", "Take pretrained weights: timm's, which are downloaded, or a body's.")
    ] = False,
    image_size: Annotated[
        int | None, number("--image-size", bounds.SIDE, "Side of the input, in pixels; the model's own by default.")
    ] = None,
    opset: Annotated[int, number("--opset", bounds.OPSET, "ONNX opset of the file.")] = default_of("Export", "opset"),
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 for TensorRT; quantize needs float32.")
    ] = default_of("Export", "precision"),
    runtime: Annotated[
        str, typer.Option("--runtime", help="What runs the file on this machine: onnxruntime or openvino.")
    ] = default_of("Export", "runtime"),
    normalize: Annotated[
        bool, flag("--normalize", "Scale and normalize inside the graph, whose input is then uint8 (N, H, W, 3).")
    ] = False,
    normalise: Annotated[bool, flag("--normalise", "Former name of --normalize.", hidden=True)] = False,
    embedding: Annotated[
        bool, flag("--embedding", "Add a second output, the features, so that classes can be added to a bundle.")
    ] = False,
    labels: Labels = None,
    as_json: JsonFlag = False,
) -> None:
    """Export a timm model to ONNX, checked against torch.

    Example: edgevit export --model deit_tiny_patch16_224 --classes 10 --out deit.onnx
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Export, Load

    check_out(out, weights, labels)
    if normalise:
        from edgevit.configs.renamed import former_name_note

        say_note(former_name_note("--normalise", "--normalize"))
    with single_stages(terminal_context()) as stages:
        loaded = stages.make(
            stage_config(Load, id="checkpoint", model=model, num_classes=classes,
                   pretrained=pretrained, weights=str(weights.absolute()) if weights else None,
                   weights_key=weights_key, image_size=image_size)
        )  # fmt: skip
        loaded = named_by_options(loaded, labels, None)
        config = stage_config(Export, id="onnx", model="checkpoint", opset=opset, precision=precision, runtime=runtime,
                        normalize=normalize or normalise, embedding=embedding)  # fmt: skip
        exported = stages.make(config, model=loaded)
        _write_model(exported, out, as_json)
    if precision == "float16":
        next_command("edgevit check", out)
        return
    for_runtime = "" if runtime == "onnxruntime" else f"--runtime {runtime} "
    next_command("edgevit quantize", out, f"--calibration FOLDER {for_runtime}--out", out.with_suffix(".int8.onnx"))


def describe(
    model: ModelPath,
    out: Out,
    mean: Annotated[
        tuple[float, float, float] | None,
        number("--mean", bounds.CHANNEL_MEAN, "Mean of red, green and blue, on a scale of 0 to 1.", "R G B"),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        number("--std", bounds.CHANNEL_STD, "Standard deviation of red, green and blue, on the same scale.", "R G B"),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help="crop: resize the shorter side, cut out the center. squash: resize both sides."),
    ] = None,
    crop_pct: Annotated[
        float | None,
        number("--crop-pct", bounds.CROP_SHARE, "With crop: side of the cut-out as a share of the shorter side."),
    ] = None,
    interpolation: Annotated[
        str | None, typer.Option("--interpolation", help="Interpolation of the resize: nearest, bilinear or bicubic.")
    ] = None,
    labels: Labels = None,
    output: Annotated[
        str | None,
        typer.Option("--output", help="Name of the output with the class scores, if there are several outputs."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write the preprocessing and the class names of a model from elsewhere into its ONNX file.

    Values that are not given stay as they are. A file without any gets ImageNet's normalization.

    Example: edgevit describe own.onnx --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --labels names.txt --out own.described.onnx
    """
    from edgevit.actions.single_stage import record_from_options, single_stages
    from edgevit.artifacts import Preprocess
    from edgevit.data.class_names import names_in_file
    from edgevit.graphs.files import onnx_file, read_onnx, rewrite_onnx
    from edgevit.graphs.metadata import with_class_output
    from edgevit.graphs.outputs import class_output

    check_out(out, model, labels)
    options = {"mean": mean, "std": std, "resize": resize, "crop_pct": crop_pct, "interpolation": interpolation}
    with single_stages(terminal_context()) as stages:
        artifact = stages.model(model, for_images=False)
        names = None if labels is None else names_in_file(labels)
        if output is not None or not artifact.manifest.provenance.get("described", True):
            scores = class_output(read_onnx(onnx_file(artifact)), model, output, None if names is None else len(names))
            artifact = artifact.with_io(with_class_output(artifact.io, scores))
            for note in scores.notes():
                say_note(f"note: {note}")
        if labels is not None and names is not None:
            artifact = with_names(artifact, names, labels)
        changes = {name: value for name, value in options.items() if value is not None}
        preprocess = record_from_options(Preprocess, {**artifact.io.preprocess.model_dump(), **changes})
        io = artifact.io.model_copy(update={"preprocess": preprocess})
        with whole_or_not_at_all(out) as part:
            rewrite_onnx(artifact.with_io(io), part)
    if as_json:
        outputs = [tensor.model_dump() for tensor in io.outputs]
        print_json({"out": out, "outputs": outputs, "preprocess": io.preprocess.model_dump(), "classes": io.classes})
    else:
        _print_preprocess(out, io)
    next_command("edgevit evaluate", out, "--data FOLDER")


def quantize(
    model: ModelPath,
    calibration: Annotated[
        Path, typer.Option("--calibration", help="Folder of images to calibrate on, with labels or without.")
    ],
    out: Out,
    images: Annotated[int, number("--images", bounds.IMAGES, "Number of images to calibrate on.")] = default_of(
        "Quantize", "calibration_images"
    ),
    calibrator: Annotated[
        str,
        typer.Option("--calibrator", help="minmax, entropy, percentile or mse; trained: the ranges of a qat stage."),
    ] = default_of("Quantize", "calibrator"),
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="What will run the file: onnxruntime, openvino or tensorrt (floats: float16)."),
    ] = default_of("Quantize", "runtime"),
    precision: Annotated[
        str, typer.Option("--precision", help="int8; for tensorrt also float8 (not on Orin) or int4 (weights only).")
    ] = default_of("Quantize", "precision"),
    placement: Annotated[
        str,
        typer.Option(
            "--placement",
            help="Layers to quantize: all; sigmoid, as all, and Sigmoid behind convolutions; dense, as all, without "
            "grouped convolutions; products, MatMul and Gemm only; or fastest, the fastest of these on the target.",
        ),
    ] = default_of("Quantize", "placement"),
    target: TargetName = default_of("Quantize", "target"),
    threads: Threads = default_of("Quantize", "threads"),
    min_sqnr_db: Annotated[
        float | None,
        number(
            "--min-sqnr-db",
            bounds.DECIBELS,
            "Least closeness to the float model: SQNR of the logits, in dB; 18 by default.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option("--validation", help="Folder of labelled images, to compare accuracy with the float model's."),
    ] = None,
    max_top1_drop: Annotated[
        float | None,
        number(
            "--max-top1-drop",
            bounds.LOSS,
            "Largest loss of top-1 on --validation, as a fraction; 0.01, one point, by default.",
        ),
    ] = None,
    size_mib: SizeLimit = None,
    smoothquant: Annotated[
        float | None,
        number(
            "--smoothquant",
            bounds.FRACTION,
            "SmoothQuant strength α for int8, 0 to 1; 0 is off. By default, 0.5 is tried if channels are outliers.",
        ),
    ] = None,
    bias_correction: Annotated[
        bool, flag("--bias-correction", "Correct biases so that channels keep their mean; for depthwise convolutions.")
    ] = False,
    reduce_range: Annotated[
        bool | None,
        flag(
            "--reduce-range/--full-range",
            "INT8 weights of 7 or 8 bits; by default 7 where products of 8 bits overflow on the CPU.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Quantize an ONNX model, calibrated on images and checked against the float model.

    With --placement fastest, several quantized forms are timed on the target. If none is faster than the float model,
    the float model is written, unless it exceeds --size-mib and a form does not. For tensorrt, the forms are timed on a
    --target with a GPU.

    With --validation, a form is refused that loses more top-1 than --max-top1-drop, by more than chance explains. Take
    images that the model was not trained on, and that do not test it later.

    Example: edgevit quantize deit.onnx --calibration photos/train --out deit.int8.onnx
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Quantize

    check_out(out, model)
    with single_stages(terminal_context()) as stages:
        config = stage_config(
            Quantize,
            id="quantized",
            model="model",
            calibration="images",
            calibration_images=images,
            calibrator=calibrator,
            runtime=runtime,
            precision=precision,
            placement=placement,
            target=target,
            threads=threads,
            min_sqnr_db=min_sqnr_db,
            validation=None if validation is None else "validation",
            max_top1_drop=max_top1_drop,
            size_mib=size_mib,
            smoothquant=smoothquant,
            bias_correction=bias_correction,
            reduce_range=reduce_range,
        )
        inputs = {"model": stages.model(model), "calibration": stages.unlabelled_images(calibration)}
        if validation is not None:
            inputs["validation"] = stages.support_images(validation)
        quantized = stages.make(config, **inputs)
        _write_model(quantized, out, as_json)
    if not quantized.metrics["quantized_ops"]:
        echo("this is the float model: no INT8 form was both faster and close enough to it", err=as_json)
    if runtime == "tensorrt":
        next_command("edgevit check", out)
    else:
        next_command("edgevit compare", model, out)


def compile(
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", help="The file to write; for tensorrt the folder.")],
    runtime: Annotated[
        str,
        typer.Option("--runtime", help="onnxruntime; or tensorrt, by the TensorRT of local-gpu or of a board."),
    ] = default_of("Compile", "runtime"),
    target: TargetName = default_of("Compile", "target"),
    batch: Annotated[
        int, number("--batch", bounds.BATCH, "tensorrt: images in a batch that the engine is tuned for.")
    ] = default_of("Compile", "batch_size"),
    max_batch: Annotated[
        int, number("--max-batch", bounds.BATCH, "tensorrt: most images in a batch that the engine takes.")
    ] = default_of("Compile", "max_batch"),
    builder_level: Annotated[
        int, number("--builder-level", bounds.BUILDER_LEVEL, "tensorrt: effort of the builder; a higher one is slower.")
    ] = default_of("Compile", "builder_level"),
    workspace_mib: Annotated[
        int | None,
        number(
            "--workspace-mib", bounds.COUNT, "tensorrt: most memory of a kernel, in MiB; all of the GPU's by default."
        ),
    ] = None,
    builds: Annotated[
        int, number("--builds", bounds.BUILDS, "tensorrt: builds, of which the fastest right engine is kept.")
    ] = default_of("Compile", "builds"),
    version_compatible: Annotated[
        bool, flag("--version-compatible", "tensorrt: let later versions of the same major version run the engine.")
    ] = False,
    no_timing_cache: Annotated[
        bool, flag("--no-timing-cache", "tensorrt: time all kernels anew, not by the times of earlier builds.")
    ] = False,
    find_difference: Annotated[
        bool,
        flag("--find-difference", "tensorrt: if the engine's outputs are wrong, find the first tensor that differs."),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compile an ONNX model for the runtime of a target, checked against the model; exit status 1 if they differ.

    For tensorrt, an engine is built on the target. The folder holds the engine, its record, its ONNX file, its layers
    and the log of the build. evaluate, profile, compare, predict and inspect take this folder, with the same --target.

    With --find-difference, an engine with wrong outputs is built again several times, with tensors inside it as further
    outputs. They are compared with ONNX Runtime here. Further outputs change how TensorRT fuses layers, so the fault
    may vanish. Then the command says so.

    Example: edgevit compile deit.int8.onnx --out deit.local.onnx
    """
    from edgevit.actions.engine_files import write_engine
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Compile
    from edgevit.errors import ArtifactError, ParityError, RecipeError

    is_engine = runtime == "tensorrt"
    if is_engine and out.exists():
        raise ArtifactError("the folder is already there", where=out, next="give another --out")
    if find_difference and not is_engine:
        raise RecipeError("only with --runtime tensorrt", where="--find-difference", got=f"--runtime {runtime}")
    check_out(out, model)
    options = {
        "batch_size": batch,
        "max_batch": max_batch,
        "builder_level": builder_level,
        "workspace_mib": workspace_mib,
        "builds": builds,
        "version_compatible": version_compatible,
        "timing_cache": not no_timing_cache,
    }
    changed = {name: value for name, value in options.items() if value != Compile.model_fields[name].default}
    with single_stages(terminal_context()) as stages:
        config = stage_config(Compile, id="engine", model="model", target=target, runtime=runtime, **changed)
        source = stages.model(model, for_images=is_engine)  # whose record says how they are prepared
        try:
            compiled = stages.make(config, model=source)
        except ParityError as error:
            if not find_difference:
                raise
            _find_difference(error, config, source, stages.context, as_json)
            raise typer.Exit(error.exit_code) from None
        if is_engine:
            write_engine(compiled, out)
            _print_engine(compiled, out, as_json)
        else:
            _write_model(compiled, out, as_json)
    next_command("edgevit profile", out, *on_target(target))


def _print_engine(engine: Artifact, out: Path, as_json: bool) -> None:
    metrics = engine.metrics
    if as_json:
        print_json({"out": out, "metrics": metrics})
        return
    echo(f"wrote {out} ({metrics['size_bytes'] / 2**20:.2f} MiB, {metrics['precision']})")
    echo(f"outputs    {metrics['engine_sqnr_db']:.1f} dB against the ONNX file")
    got = sum(row["products"] for row in metrics["products"] if row["got"])
    echo(f"products   {got} of {got + metrics['products_untold']} tell their precision; none falls back")


def _find_difference(error: ParityError, config: Compile, model: Artifact, context: Context, as_json: bool) -> None:
    """Say that an engine's outputs are wrong, and find and print the first tensor that differs."""
    from edgevit.actions.first_difference import first_difference
    from edgevit.cli.first_difference import print_difference

    echo(f"{error.where}: {error.what}, {error.got}", err=True)
    difference = first_difference(model, config, context)
    if as_json:
        print_json(difference.to_json())
    else:
        print_difference(difference)


def _write_model(model: Artifact, out: Path, as_json: bool) -> None:
    """Copy the model file to `out`, and print its numbers."""
    with whole_or_not_at_all(out) as part:
        shutil.copyfile(model.file("model.onnx"), part)
    if as_json:
        print_json({"out": out, "metrics": model.metrics})
        return
    details = [f"{model.metrics['size_bytes'] / 2**20:.2f} MiB", str(model.metrics["precision"])]
    if "sqnr_db" in model.metrics:
        details.append(f"{model.metrics['sqnr_db']:.1f} dB against float")
    echo(f"wrote {out} ({', '.join(details)})")


def _print_preprocess(out: Path, io: IOSpec) -> None:
    from edgevit.errors import listed

    rule = io.preprocess
    scaling = f"mean {_numbers(rule.mean)}, std {_numbers(rule.std)}"
    scaling = "normalized inside the model" if rule.normalised_inside else scaling
    resize = f"crop at {rule.crop_pct:g}" if rule.resize == "crop" else rule.resize
    echo(f"wrote {out}")
    echo(f"images   {rule.height} x {rule.width}, {resize}, {rule.interpolation}; {scaling}")
    echo(f"output     {io.outputs[0].name}, {io.outputs[0].meaning}")
    echo(f"classes    {len(io.classes)}: {listed(io.classes)}")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
