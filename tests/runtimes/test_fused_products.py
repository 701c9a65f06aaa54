"""Every product of a file is in one kernel of each runtime, however the runtime fuses it. MACs are counted by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import timm
import torch
from numpy.typing import NDArray
from torch import nn

from edgevit.artifacts import Artifact
from edgevit.checking.shapes import for_batch_of
from edgevit.graphs.cost import macs
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.graph import OPERANDS, Graph
from edgevit.graphs.index import GraphIndex
from edgevit.graphs.marks import marked, sources_of
from edgevit.model_file import options_for
from edgevit.models.cost import macs_of
from edgevit.runtimes.loading import openvino_properties
from edgevit.runtimes.onnxruntime.session import inference_session
from edgevit.runtimes.torch.layer_times import moved_bytes, own_macs
from tests.checking.graphs import model, node
from tests.small_models import float_onnx, int8_onnx

if TYPE_CHECKING:
    from edgevit.runtimes.openvino.layer_times import Kernel

NodesIn = Callable[[Path, Path], list[tuple[str, ...]]]


def weights(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def norm_convolution() -> onnx.ModelProto:
    """Conv → BatchNormalization → Relu, then Conv → Add of the input → Relu → HardSwish."""
    nodes = [
        node("Conv", ["image", "k"], "c", pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c", "one", "one", "one", "one"], "d"),
        node("Relu", ["d"], "e"),
        node("Conv", ["e", "k2"], "f", pads=[1, 1, 1, 1]),
        node("Add", ["f", "e"], "g"),
        node("Relu", ["g"], "h"),
        node("HardSwish", ["h"], "i"),
        node("GlobalAveragePool", ["i"], "j"),
        node("Flatten", ["j"], "l"),
        node("Gemm", ["l", "w"], "logits"),
    ]
    constants = {"k": weights(32, 3, 3, 3), "k2": weights(32, 32, 3, 3), "w": weights(32, 10)}
    return model(nodes, {**constants, "one": np.ones(32, np.float32)}, [1, 3, 64, 64], [1, 10])


def scaled_convolution() -> onnx.ModelProto:
    """Conv → Mul → Add → Relu."""
    nodes = [
        node("Conv", ["image", "k"], "c", pads=[1, 1, 1, 1]),
        node("Mul", ["c", "s"], "d"),
        node("Add", ["d", "b"], "e"),
        node("Relu", ["e"], "f"),
        node("GlobalAveragePool", ["f"], "g"),
        node("Flatten", ["g"], "logits"),
    ]
    constants = {"k": weights(32, 3, 3, 3), "s": weights(32, 1, 1), "b": weights(32, 1, 1)}
    return model(nodes, constants, [1, 3, 64, 64], [1, 32])


def attention() -> onnx.ModelProto:
    """Softmax of scaled q kᵀ, times x, plus x, over 192 tokens of 64."""
    nodes = [
        node("Reshape", ["image", "shape"], "x"),
        node("MatMul", ["x", "wq"], "q"),
        node("MatMul", ["x", "wk"], "k"),
        node("Transpose", ["k"], "kt", perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], "a"),
        node("Mul", ["a", "scale"], "b"),
        node("Softmax", ["b"], "p", axis=-1),
        node("MatMul", ["p", "x"], "o"),
        node("Add", ["o", "x"], "r"),
        node("LayerNormalization", ["r", "g", "g"], "n"),
        node("ReduceMean", ["n", "axis"], "m", keepdims=0),
        node("Gemm", ["m", "w"], "logits"),
    ]
    constants = {
        "shape": np.array([1, 192, 64], np.int64), "axis": np.array([1], np.int64), "scale": np.float32(0.1),
        "wq": weights(64, 64), "wk": weights(64, 64)[::-1], "g": np.ones(64, np.float32), "w": weights(64, 10),
    }  # fmt: skip
    return model(nodes, constants, [1, 3, 64, 64], [1, 10])


GRAPHS = {
    "batch norm": (norm_convolution, 32 * 9 * (3 + 32) * 64 * 64 + 320),
    "mul and add": (scaled_convolution, 32 * 9 * 3 * 64 * 64),
    "attention": (attention, 2 * 192 * 64 * 64 + 2 * 192 * 192 * 64 + 640),
}


def macs_by_node(file: Path) -> dict[str, int]:
    graph = Graph(for_batch_of(read_onnx(file), 1))
    return {one.name: macs(one, graph) or 0 for one in graph.of_type(*OPERANDS)}


def nodes_in_onnxruntime(file: Path, folder: Path) -> list[tuple[str, ...]]:
    """The nodes of each kernel."""
    source, marks, written = Graph(read_onnx(file)), folder / "marked.onnx", folder / "optimized.onnx"
    marks.write_bytes(marked(source.model).SerializeToString())
    inference_session(marks, options_for("onnxruntime"), 1, optimized_path=written)
    return list(sources_of(GraphIndex(onnx.load(written)), source).values())


def nodes_in_openvino(file: Path, folder: Path) -> list[tuple[str, ...]]:
    """The nodes of each kernel, whether or not its time is long enough to show."""
    return [kernel.nodes for kernel in kernels_in_openvino(file, folder)]


def kernels_in_openvino(file: Path, folder: Path) -> list[Kernel]:
    pytest.importorskip("openvino", reason="edgevit[openvino] is not installed")
    from edgevit.runtimes.openvino.layer_times import kernels_of
    from edgevit.runtimes.openvino.session import DEVICE, core

    source, marks = Graph(read_onnx(file)), folder / "marked.onnx"
    marks.write_bytes(marked(source.model).SerializeToString())
    read = core().read_model(marks)
    read.reshape([1, *(size.get_length() for size in list(read.input().get_partial_shape())[1:])])
    network = core().compile_model(read, DEVICE, openvino_properties({}, 1))
    return list(kernels_of(network, source).values())


@pytest.mark.parametrize("nodes_in", [nodes_in_onnxruntime, nodes_in_openvino])
@pytest.mark.parametrize("name", GRAPHS)
def test_macs_of_fused_products(name: str, nodes_in: NodesIn, tmp_path: Path) -> None:
    made, expected = GRAPHS[name]
    onnx.save(made(), tmp_path / "model.onnx")
    work = macs_by_node(tmp_path / "model.onnx")
    kernels = nodes_in(tmp_path / "model.onnx", tmp_path)
    assert sum(work.get(one, 0) for nodes in kernels for one in nodes) == expected
    in_kernels = Counter(one for nodes in kernels for one in nodes)
    assert {name: in_kernels[name] for name in work} == dict.fromkeys(work, 1)


@pytest.mark.parametrize("nodes_in", [nodes_in_onnxruntime, nodes_in_openvino])
@pytest.mark.parametrize("hybrid", [False, True], ids=["vit", "hybrid"])
@pytest.mark.parametrize("made", [float_onnx, int8_onnx])
def test_macs_of_exported_models(
    made: Callable[[bool], Artifact], hybrid: bool, nodes_in: NodesIn, tmp_path: Path
) -> None:
    file = onnx_file(made(hybrid))
    work, kernels = macs_by_node(file), nodes_in(file, tmp_path)
    assert sum(work.get(one, 0) for nodes in kernels for one in nodes) == float_onnx(hybrid).metrics["macs"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fastvit_t8", "mobilenetv3_small_050", "efficientvit_b0", "convnext_atto"])
def test_macs_of_architectures(name: str, tmp_path: Path) -> None:
    """The file as torch exports it, batch norms and all, in both runtimes; its modules in torch."""
    network, images = timm.create_model(name, num_classes=10).eval(), torch.zeros(1, 3, 224, 224)
    file = tmp_path / "model.onnx"
    torch.onnx.export(network, (images,), file, dynamo=True, external_data=False, verbose=False)
    work = macs_by_node(file)
    for nodes_in in (nodes_in_onnxruntime, nodes_in_openvino):
        in_kernels = Counter(one for nodes in nodes_in(file, tmp_path) for one in nodes)
        assert {name: in_kernels[name] for name in work} == dict.fromkeys(work, 1)
    own = own_macs(network, images)
    assert sum(own.values()) == macs_of(network, 224, 224) == sum(work.values())
    assert min(own.values()) > 0


class Iterated(nn.Module):
    """Its children are in a list and in a Sequential that are not called; one of them is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)])
        self.head = nn.Sequential(nn.Conv2d(4, 5, 1))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first, second = self.blocks
        (head,) = self.head
        made: torch.Tensor = head(second(second(first(images))))
        return made @ made


def test_macs_of_modules_in_containers() -> None:
    assert own_macs(Iterated(), torch.zeros(2, 3, 8, 8)) == {
        "blocks.0": 2 * 64 * 3 * 4,
        "blocks.1": 2 * 64 * 4 * 4 * 2,
        "head.0": 2 * 64 * 4 * 5,
        "": 2 * 5 * 8 * 8 * 8,
    }


def test_bytes_of_an_operator_in_place() -> None:
    """An activation reads and writes its tensor in place or not; a view moves nothing."""
    images = torch.zeros(2, 3, 8, 8)
    network = nn.Sequential(nn.Identity(), nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish(inplace=True), nn.Flatten())
    moved = moved_bytes(network, lambda: network(images))
    assert moved == dict.fromkeys(("1", "2", "3"), 2 * 4 * images.numel())
