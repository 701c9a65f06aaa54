"""Scaling and normalization as the first nodes of a graph, so that the model takes uint8 images."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edgevit.artifacts import IOSpec, Json


def with_normalization(model: ModelProto, spec: IOSpec) -> ModelProto:
    """Change a model for normalized float32 (N, 3, H, W), in place, to take uint8 (N, H, W, 3). Returns the model.

    The new first nodes are a cast, a transposition, and (x / 255 - mean) / std in the order of `data.preprocess`.

    Args:
        spec: the new IOSpec: `IOSpec.taking_images` of the old one.
    """
    graph, image = model.graph, spec.inputs[0]
    normalised = f"{image.name}_normalised"
    for node in graph.node:
        node.input[:] = [normalised if name == image.name else name for name in node.input]
    constants = {
        f"{image.name}_scale": np.float32(255),
        f"{image.name}_mean": np.asarray(spec.preprocess.mean, np.float32).reshape(3, 1, 1),
        f"{image.name}_std": np.asarray(spec.preprocess.std, np.float32).reshape(3, 1, 1),
    }
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    first = _normalization(image.name, normalised)
    body = list(graph.node)
    del graph.node[:]
    graph.node.extend([*first, *body])
    del graph.input[:]
    graph.input.append(helper.make_tensor_value_info(image.name, TensorProto.UINT8, image.shape))
    return model


def _normalization(image: str, normalised: str) -> list[NodeProto]:
    steps: list[tuple[str, tuple[str, ...], Json]] = [
        ("Cast", (), {"to": TensorProto.FLOAT}),
        ("Transpose", (), {"perm": [0, 3, 1, 2]}),
        ("Div", (f"{image}_scale",), {}),
        ("Sub", (f"{image}_mean",), {}),
        ("Div", (f"{image}_std",), {}),
    ]
    names = [image, *(f"{image}_{made}" for made in ("float", "channels", "scaled", "centred")), normalised]
    return [
        helper.make_node(operator, [names[place], *others], [names[place + 1]], f"{image}_step_{place}", **attributes)
        for place, (operator, others, attributes) in enumerate(steps)
    ]
