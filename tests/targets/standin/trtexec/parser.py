"""What the ONNX parser of a board's TensorRT refuses, in the form of its messages."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from tests.targets.standin.trtexec.log import Log, number
from tests.targets.standin.trtexec.settings import TrtexecSettings

NOT_BUILT = ("Failed to create engine from model or file.", "Engine set up failed")


def parsed(file: str, settings: TrtexecSettings, log: Log) -> ModelProto:
    """The network of an ONNX file. A refusal ends the run."""
    log.info("Start parsing network model.")
    try:
        model = onnx.load(file)
    except OSError:
        missing = "Input file cannot be found, or is not a regular file: " + file
        _refuse(log, "Error[3]: In node -1 with name:  and operator:  (parseFromFile): INVALID_VALUE: Assertion failed"
                f": stat(onnxModelFile, &sb) == 0 && S_ISREG(sb.st_mode): {missing}")  # fmt: skip
    except Exception:  # noqa: BLE001 - protobuf has a class of its own for what is no ONNX file
        _refuse(log, "[TRT] ModelImporter.cpp:914: Failed to parse ONNX model from file: " + file)
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    log.info(f"[TRT] ONNX IR version:  {model.ir_version}")
    log.info(f"[TRT] Opset version:    {opset}")
    if opset > settings.newest_opset:
        text = f"[6] the model has opset {opset}, and this parser takes at most {settings.newest_opset}"  # composed
        _refuse(log, f"[TRT] ModelImporter.cpp:954: ERROR: ModelImporter.cpp:195 In function importModel:\n{text}")
    for position, node in enumerate(model.graph.node):
        if reason := _refusal(node, model, settings):
            if "plugin" in reason[1]:
                plugin = f"(Cannot find plugin: {node.op_type}, version: 1, namespace:.)"
                log.error(f"Error[4]: IPluginRegistry::getCreator: Error Code 4: API Usage Error {plugin}")
            _refuse(log, *_of_node(position, node, *reason))
    log.info(f"Finished parsing network model. Parse time: {number(0.0483808)}")
    return model


def _refusal(node: NodeProto, model: ModelProto, settings: TrtexecSettings) -> tuple[str, str] | None:
    """The checking function and the reason; None if the node is taken."""
    if settings.operators and not _operators(*settings.operators).get(node.op_type, False):
        return (
            "onnxOpCheckers.cpp:781 In function checkFallbackPluginImporter",
            '[6] creator && "Plugin not found, are the plugin name, version, and namespace correct?"',
        )
    if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
        zero = next((entry for entry in model.graph.initializer if entry.name == node.input[2]), None)
        if zero is not None and np.any(numpy_helper.to_array(zero).astype(np.float32)):
            return (
                "onnxOpImporters.cpp:1491 In function QuantDequantLinearHelper",
                "[6] Invalid Node - " + node.name + "\nTensorRT only supports symmetric quantization. The zero point "
                "for the QuantizeLinear/DequantizeLinear operator must be all zeros.",
            )
    return None


def _operators(table: str, column: str) -> dict[str, bool]:
    with Path(table).open(newline="", encoding="utf-8") as file:
        return {row["onnx_op"]: row[column] == "Y" for row in csv.DictReader(file)}


def _of_node(position: int, node: NodeProto, function: str, reason: str) -> tuple[str, ...]:
    text = "".join(f'input: "{name}"\n' for name in node.input) + "".join(f'output: "{name}"\n' for name in node.output)
    text += f'name: "{node.name}"\nop_type: "{node.op_type}"\n'
    return (
        f'[TRT] ModelImporter.cpp:949: While parsing node number {position} [{node.op_type} -> "{node.output[0]}"]:',
        f"[TRT] ModelImporter.cpp:950: --- Begin node ---\n{text}",
        "[TRT] ModelImporter.cpp:951: --- End node ---",
        f"[TRT] ModelImporter.cpp:954: ERROR: {function}:\n{reason}",
    )


def _refuse(log: Log, *texts: str) -> NoReturn:
    for text in (*texts, "Failed to parse onnx file"):
        log.error(text)
    log.info(f"Finished parsing network model. Parse time: {number(0.0483808)}")
    log.fail("Parsing model failed", *NOT_BUILT)
