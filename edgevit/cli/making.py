"""Commands that make files: each runs the stage of its name in a store that is thrown away."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgevit import bounds
from edgevit.cli.naming import named_by_options, with_names
from edgevit.cli.options import Labels, ModelPath, Out, TargetName, Threads, number
from edgevit.cli.output import (
    JsonFlag,
    check_out,
    echo,
    next_command,
    print_json,
    say_note,
    terminal_context,
)
from edgevit.disks import whole_or_not_at_all

if TYPE_CHECKING:
    from edgevit.artifacts import Artifact, IOSpec


def export(
    model: Annotated[str, typer.Option("--model", help="A timm model name.")],
    out: Out,
    classes: Annotated[int | None, number("--classes", bounds.CLASSES, "Number of classes.")] = None,
    weights: Annotated[
        Path | None, typer.Option("--weights", help="A .safetensors file, or a .pth of tensors only.")
    ] = None,
    weights_key: Annotated[
        str | None, typer.Option("--weights-key", help="Which weights of the file; EMA weights by default.")
    ] = None,
    pretrained: Annotated[bool, typer.Option("--pretrained", help="Take timm's pretrained weights.")] = False,
    image_size: Annotated[int | None, number("--image-size", bounds.SIDE, "Side of the input in pixels.")] = None,
    opset: Annotated[int, number("--opset", bounds.OPSET, "ONNX opset of the file.")] = 20,
    precision: Annotated[
        str, typer.Option("--precision", help="float32, or float16 for TensorRT; quantize takes float32.")
    ] = "float32",
    runtime: Annotated[str, typer.Option("--runtime", help="What opens it here: onnxruntime or openvino.")] = (
        "onnxruntime"
    ),
    normalize: Annotated[
        bool, typer.Option("--normalize", help="Scale and normalize inside the graph: uint8 (N, H, W, 3) goes in.")
    ] = False,
    normalise: Annotated[bool, typer.Option("--normalise", hidden=True)] = False,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="A second output, so that classes can be added to a bundle.")
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
        say_note("note: --normalise is called --normalize now; the former name is accepted in this release only")
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
        tuple[float, float, float] | None,
        number("--mean", bounds.CHANNEL_MEAN, "Mean of red, green and blue, on a scale of 0 to 1."),
    ] = None,
    std: Annotated[
        tuple[float, float, float] | None,
        number("--std", bounds.CHANNEL_STD, "Standard deviation of red, green and blue, on a scale of 0 to 1."),
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option("--resize", help="crop: shorter side to size, centre cut out; squash: both sides to size."),
    ] = None,
    crop_pct: Annotated[
        float | None,
        number("--crop-pct", bounds.CROP_SHARE, "With crop: share of the resized picture that is cut out."),
    ] = None,
    interpolation: Annotated[str | None, typer.Option("--interpolation", help="nearest, bilinear or bicubic.")] = None,
    labels: Labels = None,
    output: Annotated[
        str | None, typer.Option("--output", help="The output that gives the classes, where there are several.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write into an ONNX file from elsewhere how pictures are prepared for it, and what its classes are called.

    What is not given stays as it was; a file that says nothing is taken for one of ImageNet's normalisation.

    Example: edgevit describe own.onnx --mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --labels names.txt --out own.described.onnx
    """
    from edgevit.actions.single_stage import record_from_options, single_stages
    from edgevit.artifacts import Preprocess
    from edgevit.data.class_names import names_in_file
    from edgevit.graphs.files import onnx_file, read_onnx, write_onnx
    from edgevit.graphs.metadata import carries_trained_ranges, trained_ranges_in, with_class_output
    from edgevit.graphs.outputs import class_output

    check_out(out, model, labels)
    given = {"mean": mean, "std": std, "resize": resize, "crop_pct": crop_pct, "interpolation": interpolation}
    with single_stages(terminal_context()) as stages:
        found = stages.model(model, for_pictures=False)
        graph = read_onnx(onnx_file(found))
        names = None if labels is None else names_in_file(labels)
        if output is not None or not found.manifest.provenance.get("described", True):
            scores = class_output(graph, model, output, None if names is None else len(names))
            found = found.with_io(with_class_output(found.io, scores))
            for note in scores.notes():
                echo(f"note: {note}", err=True)
        if labels is not None and names is not None:
            found = with_names(found, names, labels)
        fields = {**found.io.preprocess.model_dump(), **{name: one for name, one in given.items() if one is not None}}
        io = found.io.model_copy(update={"preprocess": record_from_options(Preprocess, fields)})
        ranges = trained_ranges_in(graph, model) if carries_trained_ranges(graph) else None
        with whole_or_not_at_all(out) as part:
            write_onnx(graph, part, io, found.manifest.session_options, ranges)
    if as_json:
        outputs = [one.model_dump() for one in io.outputs]
        print_json({"out": out, "outputs": outputs, "preprocess": io.preprocess.model_dump(), "classes": io.classes})
    else:
        _print_preprocess(out, io)
    next_command("edgevit evaluate", out, "--data FOLDER")


def quantize(
    model: ModelPath,
    calibration: Annotated[Path, typer.Option("--calibration", help="Folder of images, labelled or not.")],
    out: Out,
    images: Annotated[int, number("--images", bounds.IMAGES, "How many images to calibrate on.")] = 256,
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
        float | None, number("--min-sqnr-db", bounds.DECIBELS, "How close to float it must be, in dB; 10 by default.")
    ] = None,
    smoothquant: Annotated[
        float | None,
        number("--smoothquant", bounds.FRACTION, "SmoothQuant strength α, 0 to 1; 0.5 is usual. Off by default."),
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
            threads=threads,
            min_sqnr_db=min_sqnr_db,
            smoothquant=smoothquant,
            bias_correction=bias_correction,
        )
        made = stages.make(config, model=stages.model(model), calibration=stages.unlabelled_images(calibration))
        _deliver(made, out, as_json)
    if not made.metrics["quantized_ops"]:
        echo("this is the float model: no INT8 form was both faster and close enough to it", err=as_json)
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
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Compile

    check_out(out, model)
    with single_stages(terminal_context()) as stages:
        made = stages.make(
            stage_config(Compile, id="engine", model="model", target=target),
            model=stages.model(model, for_pictures=False),
        )
        _deliver(made, out, as_json)
    next_command("edgevit profile", out)


def _deliver(made: Artifact, out: Path, as_json: bool) -> None:
    """Copy the made model to where the user wants it, in one step."""
    with whole_or_not_at_all(out) as part:
        shutil.copyfile(made.file("model.onnx"), part)
    if as_json:
        print_json({"out": out, "metrics": made.metrics})
        return
    details = [f"{made.metrics['size_bytes'] / 2**20:.2f} MiB", str(made.metrics["precision"])]
    if "sqnr_db" in made.metrics:
        details.append(f"{made.metrics['sqnr_db']:.1f} dB against float")
    echo(f"wrote {out} ({', '.join(details)})")


def _print_preprocess(out: Path, io: IOSpec) -> None:
    from edgevit.errors import listed

    how = io.preprocess
    inside = "inside the model" if how.normalised_inside else f"mean {_numbers(how.mean)}, std {_numbers(how.std)}"
    resized = f"crop at {how.crop_pct:g}" if how.resize == "crop" else how.resize
    echo(f"wrote {out}")
    echo(f"pictures   {how.height} x {how.width}, {resized}, {how.interpolation}; {inside}")
    echo(f"output     {io.outputs[0].name}, {io.outputs[0].meaning}")
    echo(f"classes    {len(io.classes)}: {listed(io.classes)}")


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
