"""The command estimate."""

from __future__ import annotations

from typing import Annotated

import typer

from edgevit import bounds
from edgevit.cli.options import BatchOfFile, JsonFlag, ModelPath, number
from edgevit.cli.output import next_command, print_json, say, terminal_context


def estimate(
    model: ModelPath,
    board: Annotated[
        str,
        typer.Option(
            "--board",
            "--target",
            help="Name of the board, such as orin-nano-8gb, or of a target that was calibrated.",
            metavar="NAME",
        ),
    ],
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="float32, float16 or int8; by default the file's, and float16 on a board."),
    ] = None,
    tensorrt: Annotated[
        str | None,
        typer.Option("--tensorrt", help="Version of TensorRT, such as 10.3, to check against the board."),
    ] = None,
    power_mode: Annotated[
        str | None,
        typer.Option("--power-mode", help="Power mode, such as MAXN_SUPER; the fastest ordinary one by default."),
    ] = None,
    runtime: Annotated[
        str | None, typer.Option("--runtime", help="Of a calibrated target: onnxruntime or openvino.")
    ] = None,
    threads: Annotated[
        int | None, number("--threads", bounds.THREADS, "Of a calibrated target: CPU threads of the runtime.")
    ] = None,
    batch: BatchOfFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Predict the latency of an ONNX file on a board that is not at hand. Nothing is measured.

    The prediction has an interval from latencies that it had not seen: published ones of a board, or those that
    edgevit devices calibrate has measured on a target of your own. Measure there before you rely on it.

    Example: edgevit estimate deit.onnx --board orin-nano-8gb
    """
    from edgevit.actions.estimate_latency import estimated_latency
    from edgevit.actions.single_stage import single_stages

    with single_stages(terminal_context()) as stages:
        predicted = estimated_latency(
            stages.onnx_file(model), board, precision=precision, tensorrt=tensorrt, power_mode=power_mode,
            runtime=runtime, threads=threads, batch_size=batch,
        )  # fmt: skip
    if as_json:
        print_json(predicted.as_json())
    else:
        for sentence in predicted.sentences():
            say(sentence)
    if predicted.threads is None:
        next_command("edgevit devices add NAME ssh://user@host")
    else:
        next_command("edgevit profile", model, f"--target {board}")
