"""Commands that use and ship models: predict, bundle, enroll."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edgevit import bounds
from edgevit.cli.naming import named_by_options
from edgevit.cli.options import ClassOrder, JsonFlag, Labels, ModelPath, TargetName, default_of, flag, number
from edgevit.cli.output import (
    check_out,
    echo,
    next_command,
    on_target,
    print_json,
    print_table,
    terminal_context,
)
from edgevit.disks import whole_or_not_at_all


def predict(
    model: ModelPath,
    images: Annotated[list[Path], typer.Argument(help="Images, or folders of images.", metavar="IMAGE")],
    top: Annotated[int, number("--top", bounds.COUNT, "Number of labels for each image, best first.")] = 1,
    target: TargetName = default_of("Evaluate", "target"),
    as_json: JsonFlag = False,
) -> None:
    """Label images with a bundle, an ONNX file or an engine; exit status 2 if an image cannot be read.

    Example: edgevit predict runs/quickstart/bundle photo.jpg
    """
    from edgevit.actions.predict_images import predict_images
    from edgevit.actions.single_stage import single_stages
    from edgevit.bundling import classes_since
    from edgevit.targets import target_for

    context = terminal_context()
    runner = target_for(target, context)
    with single_stages(context) as stages:
        artifact = stages.model(model)
        classes = classes_since(artifact.path) if model.is_dir() else None
        predictions, unread, notes = predict_images(artifact, images, top, classes, runner)
    for note in notes:
        context.progress.say(f"note: {note}")
    if as_json:
        print_json(predictions)
    elif predictions:
        rows = [
            (prediction["image"], *(f"{label['label']} {label['confidence']:.1%}" for label in prediction["labels"]))
            for prediction in predictions
        ]
        print_table(("image", *(f"label {i + 1}" for i in range(len(rows[0]) - 1))), rows)
    for error in unread:
        echo(f"error: {error}", err=True)
    if unread:
        raise typer.Exit(2)
    next_command("edgevit evaluate", model, "--data FOLDER", *on_target(target))


def bundle(
    model: ModelPath,
    out: Annotated[Path, typer.Option("--out", help="The folder to write.")],
    support: Annotated[
        Path | None,
        typer.Option(
            "--support",
            help="Folder CLASS/*.jpg of images of each class, so that classes can be added.",
        ),
    ] = None,
    labels: Labels = None,
    class_order: ClassOrder = None,
    unseen: Annotated[
        Path | None,
        typer.Option("--unseen", help="Folder CLASS/*.jpg of images that the model did not learn from, to test it."),
    ] = None,
    unknown: Annotated[
        Path | None,
        typer.Option("--unknown", help="Folder of images of none of the classes, to measure how many are accepted."),
    ] = None,
    compiled: Annotated[
        bool, flag("--compiled", "Pack a compiled model as it is, for machines like the one that compiled it.")
    ] = False,
    web: Annotated[
        bool, flag("--web", "Add a page that labels images in a browser, from files or the camera.")
    ] = False,
    web_runtime: Annotated[
        Path | None,
        typer.Option("--web-runtime", help="Folder with ONNX Runtime Web; by default, npm gets its package."),
    ] = None,
    serve: Annotated[
        list[str] | None,
        typer.Option(
            "--serve",
            help="Add files for systemd, triton, deepstream or cpp. Give it once for each.",
            metavar="PROGRAM",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Pack a model for a device: model, labels, preprocessing, a runner, and the hash of each file.

    Example: edgevit bundle deit.int8.onnx --out bundle/
    """
    from edgevit.actions.single_stage import single_stages, stage_config
    from edgevit.configs import Bundle
    from edgevit.configs.runtimes import TENSORRT
    from edgevit.disks import copy_folder
    from edgevit.errors import ArtifactError

    if out.exists():
        raise ArtifactError("the folder is already there", where=out, next="give another --out")
    check_out(out, model)
    with single_stages(terminal_context()) as stages:
        images = {"support": stages.support_images(support)} if support else {}
        if unseen:
            images["unseen"] = stages.support_images(unseen)
        if unknown:
            images["unknown"] = stages.unlabelled_images(unknown)
        page = {"web": web, "web_runtime": str(web_runtime.absolute()) if web_runtime else None}
        names = {name: name for name in images}
        options = {"compiled": compiled, "serve": tuple(serve or ()), **page, **names}
        config = stage_config(Bundle, id="bundle", model="model", **options)
        named = named_by_options(stages.model(model), labels, class_order, images.get("support"))
        bundled = stages.make(config, model=named, **images)
        with whole_or_not_at_all(out) as part:
            copy_folder(bundled.path, part)
    if as_json:
        print_json({"out": out, "files": sorted(bundled.manifest.files), "metrics": bundled.metrics})
    else:
        echo(f"wrote {out}: {', '.join(sorted(bundled.manifest.files))}")
    if web:
        next_command("python -m http.server --bind 127.0.0.1 --directory", out)
    else:
        here = ("--onnx",) if bundled.metrics["runtime"] == TENSORRT.name else ()  # its engine runs on its board
        next_command("python", out / "infer.py", *here, "IMAGE")


def enroll(
    bundle: Annotated[Path, typer.Argument(help="A bundle that was made with --support.", metavar="BUNDLE")],
    images: Annotated[
        list[Path] | None, typer.Argument(help="Images of the class, or folders of them.", metavar="IMAGE")
    ] = None,
    name: Annotated[str | None, typer.Option("--class", help="The class to add.", metavar="NAME")] = None,
    remove: Annotated[str | None, typer.Option("--remove", help="The class to remove.", metavar="NAME")] = None,
    show: Annotated[bool, flag("--list", "List the classes, their images, accuracy and threshold.")] = False,
    add: Annotated[bool, flag("--add", "Add images to a class that the bundle has.")] = False,
    force: Annotated[bool, flag("--force", "Add the class even if it cannot be told from the others.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Add a class to a bundle from a few images, without training, or remove one; exit status 1 if it is refused.

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
    options += [name for name, is_given in flags.items() if is_given]
    context = terminal_context()
    echo(enroll_in(bundle, [*options, "--", *map(str, images or [])], context.progress), nl=False)
    next_command("edgevit predict", bundle, "IMAGE")
