"""MACs, bytes and memory of graphs, against torch's own counts, closed forms and a second way of counting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, NodeProto
from torch import nn

from edgevit.artifacts import IOSpec, Preprocess
from edgevit.checking.shapes import for_one_image
from edgevit.exporting import onnx_from_module
from edgevit.graphs.cost import macs, peak_activations, weights_bytes
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import OPERANDS, Graph
from edgevit.models.cost import macs_of
from tests.checking.graphs import model, node, pair
from tests.small_models import float_onnx, int8_onnx

SIDE = 24
KIB = 1024


def total_macs(of: ModelProto) -> int:
    graph = Graph(for_one_image(of))
    counted = [macs(one, graph) for one in graph.of_type(*OPERANDS)]
    assert None not in counted
    return sum(one for one in counted if one is not None)


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
@pytest.mark.parametrize("made", [float_onnx, int8_onnx])
def test_a_models_macs_are_those_that_torch_counts(made, hybrid: bool) -> None:
    artifact = made(hybrid)
    assert total_macs(read_onnx(onnx_file(artifact))) == artifact.metrics["macs"] > 0


class Classifier(nn.Module):
    """Some layers over an image, then the mean of each channel."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        means: torch.Tensor = self.layers(images).mean((2, 3))
        return means


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 8, 5, stride=2, padding=1, bias=False)],
        [nn.Conv2d(3, 6, 3, groups=3, dilation=2)],
        [nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2)],
    ],
    ids=["strided", "groups", "transposed"],
)
def test_a_convolutions_macs_are_those_that_torch_counts(layers: list[nn.Module], tmp_path) -> None:
    module = Classifier(*layers).eval()
    classes = tuple(map(str, range(module(torch.zeros(1, 3, SIDE, SIDE)).shape[1])))
    spec = IOSpec.for_classifier(Preprocess(height=SIDE, width=SIDE), classes)
    exported = onnx_from_module(module, spec, 20, dynamic_batch=True)
    assert total_macs(exported.model) == macs_of(module, SIDE, SIDE)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_gemm_sums_over_the_side_that_its_operands_share(transposed: bool) -> None:
    gemm = node("Gemm", ["image", "w"], "logits", transA=int(transposed))
    shape = [7, 5] if transposed else [5, 7]
    assert total_macs(model([gemm], {"w": np.ones((7, 11), np.float32)}, shape, [5, 11])) == 5 * 7 * 11


@pytest.mark.parametrize("heads", [(), (3,)], ids=["packed", "apart"])
def test_attention_is_two_products(heads: tuple[int, ...]) -> None:
    """5 tokens that attend to 7 others, 3 heads of width 4; the values have width 6."""
    said = {} if heads else {"q_num_heads": 3, "kv_num_heads": 3}
    attending = node("Attention", ["image", "keys", "values"], "logits", **said)
    sizes = {"image": (5, 4), "keys": (7, 4), "values": (7, 6), "logits": (5, 6)}
    wide = {name: [1, *heads, tokens, width if heads else 3 * width] for name, (tokens, width) in sizes.items()}
    others = {name: np.ones(wide[name], np.float32) for name in ("keys", "values")}
    assert total_macs(model([attending], others, wide["image"], wide["logits"], opset=23)) == 3 * 5 * 7 * (4 + 6)


@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
def test_shapes_are_those_of_a_run(hybrid: bool) -> None:
    found = for_one_image(read_onnx(onnx_file(int8_onnx(hybrid))))
    graph = Graph(found)
    names = [name for one in found.graph.node for name in one.output if name]
    probed = ModelProto()
    probed.CopyFrom(found)
    del probed.graph.output[:]
    probed.graph.output.extend(value for value in found.graph.value_info if value.name in names)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(probed.SerializeToString(), options, providers=["CPUExecutionProvider"])
    image = {"image": np.zeros(graph.shape("image"), np.float32)}
    measured = {
        value.name: run.shape for value, run in zip(session.get_outputs(), session.run(None, image), strict=True)
    }
    assert len(measured) >= len(names) - len(found.graph.output)
    assert measured == {name: graph.shape(name) for name in measured}


def test_shapes_that_no_inference_knows_come_from_a_run() -> None:
    """NonZero of zeros gives no column; its input is the first of what is known."""
    nodes = [node("NonZero", ["image"], "places"), node("Cast", ["places"], "logits", to=1)]
    graph = Graph(for_one_image(model(nodes, {}, ["batch", 6], [2, "found"])))
    assert graph.shape("image") == (1, 6)
    assert graph.shape("places") == (2, 0)


def test_sizes_that_nobody_knows_stay_open() -> None:
    product = node("MatMul", ["image", "w"], "logits")
    graph = Graph(for_one_image(model([product], {"w": np.ones((4, 2), np.float32)}, [1, "any", 4], [1, "any", 2])))
    assert macs(graph.nodes[0], graph) is None
    assert peak_activations(graph) is None


def peak_of(nodes: Sequence[NodeProto], image: Sequence[int], logits: Sequence[int], **constants: np.ndarray) -> int:
    found = peak_activations(Graph(for_one_image(model(nodes, constants, image, logits))))
    assert found is not None
    return found.bytes


def test_a_chain_holds_two_tensors_and_a_skip_three() -> None:
    chain = [node("Relu", ["image"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"], "logits")]
    assert peak_of(chain, [1, KIB], [1, KIB]) == 2 * 4 * KIB
    skip = [node("Relu", ["image"], "a"), node("Relu", ["a"], "b"), node("Add", ["b", "image"], "logits")]
    assert peak_of(skip, [1, KIB], [1, KIB]) == 3 * 4 * KIB


def test_views_and_what_is_dequantized_take_no_room() -> None:
    flat = node("Reshape", ["image", "shape"], "flat")
    nodes = [flat, node("Relu", ["flat"], "logits")]
    assert peak_of(nodes, [2, KIB], [1, 2 * KIB], shape=np.array([1, -1])) == 2 * 8 * KIB
    rounded = [*pair("image", "r"), node("Relu", ["r"], "logits")]
    # The image in float beside its integers, then the integers beside the answer.
    assert peak_of(rounded, [1, KIB], [1, KIB], scale=np.float32(1), zero=np.int8(0)) == 4 * KIB + KIB  # type: ignore[arg-type]


def test_the_peak_is_that_of_keeping_everything_that_is_still_needed() -> None:
    """Random graphs of element-wise operators, each tensor alive from its maker to its last reader."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        names, nodes = ["image"], []
        for index in range(12):
            one, other = (names[place] for place in rng.integers(0, len(names), 2))
            nodes.append(node("Add", [one, other], "logits" if index == 11 else f"t{index}"))
            names.append(nodes[-1].output[0])
        uses = {name: [at for at, one in enumerate(nodes) if name in one.input] for name in names}
        born = {name: at - 1 for at, name in enumerate(names)}
        last = {name: max(uses[name], default=born[name]) for name in names} | {"logits": len(nodes)}
        alive = [sum(born[name] <= at <= last[name] for name in names) for at in range(len(nodes))]
        assert peak_of(nodes, [1, 8], [1, 8]) == 4 * 8 * max(alive), seed


def test_weights_are_counted_by_their_type() -> None:
    nodes = [*pair("image", "r"), node("DequantizeLinear", ["w", "scale"], "v"), node("MatMul", ["r", "v"], "logits")]
    found = {"scale": np.float32(1), "zero": np.int8(0), "w": np.ones((8, 3), np.int8)}
    assert weights_bytes(Graph(model(nodes, found, [1, 8], [1, 3]))) == {"int8": 8 * 3 + 1, "float32": 4}
