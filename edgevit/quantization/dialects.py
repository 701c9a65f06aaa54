"""Dialects: the positions and types of Q/DQ nodes that each runtime expects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, get_args

from onnx import NodeProto
from onnxruntime.quantization import QuantType

from edgevit.artifacts import Json
from edgevit.configs import QuantizedPrecision
from edgevit.configs.runtimes import ONNXRUNTIME, OPENVINO, TENSORRT
from edgevit.graphs.walk import integer_attribute
from edgevit.model_file import AS_WRITTEN, OnnxruntimeOptions, OpenvinoOptions, RuntimeOptions

# all: every operator of the dialect; sigmoid: as all, and Sigmoid behind convolutions, where the runtime computes it by
# a table of integers; dense: as all, without grouped convolutions; products: MatMul and Gemm alone
Placement = Literal["all", "sigmoid", "dense", "products"]
PLACEMENTS: tuple[Placement, ...] = get_args(Placement)

SMALLEST_SIDE, CHANNEL_MULTIPLE = 16, 8
LARGEST_ZERO_POINT = 64  # of uint8 before products in OpenVINO: a quarter of the integers stands for negative values
BLOCK = 64  # inputs that share a scale in INT4; TensorRT takes 64 and 128, and compact ViTs are 3 · 64 or 5 · 64 wide


class Integers(NamedTuple):
    """The integer type of an activation; symmetric integers represent −T..T, where T is its largest magnitude."""

    type: Any
    symmetric: bool


@dataclass(frozen=True)
class Dialect:
    """How one runtime reads a quantized graph.

    Attributes:
        activations: the usual integer type of activations, for int8; weights are int8, symmetric, one scale a channel.
        reduce_range: whether weights are integers of 7 bits, −64 to 64, whose products overflow on no CPU.
        largest_zero_points: by the type of the operator that reads an activation. Where uint8 has no larger zero point
            for its range, it is uint8 in place of `activations`.
        operators: operator types that are quantized if their second input is a weight. Products of two activations
            (attention) stay float.
        float_outputs: operator types whose outputs get no Q/DQ pair.
        writer_options: further options of onnxruntime's Q/DQ writer.
        options: options with which the runtime computes the quantized operators as integers.
        whole_tiles: whether products and convolutions that do not fill the tiles of tensor cores stay float.
        floats: the type of tensors that are not quantized.
        oldest_opset: the first opset whose Q/DQ operators take scales of that type, one a channel.
        precision: of weights and activations. int4 is for weights alone, in blocks of BLOCK inputs.
        opset: graphs of an older opset are converted to this one, whose Q/DQ operators take the precision.
    """

    activations: Any
    operators: tuple[str, ...]
    float_outputs: tuple[str, ...]
    writer_options: Json
    options: RuntimeOptions
    whole_tiles: bool = False
    floats: Literal["float32", "float16"] = "float32"
    oldest_opset: int = 13
    precision: QuantizedPrecision = "int8"
    opset: int = 13
    largest_zero_points: Mapping[str, int] = field(default_factory=dict)
    reduce_range: bool = False

    @property
    def largest_weight(self) -> int:
        """The integer of a channel's largest weight, for int8."""
        return 64 if self.reduce_range else 127

    def integers(self, bounds: tuple[float, float], readers: Iterable[str]) -> Integers:
        """The integers of activations with this range, which operators of these types read."""
        largest = min((self.largest_zero_points.get(reader, -1) for reader in readers), default=-1)
        low, high = min(bounds[0], 0.0), max(bounds[1], 0.0)
        if largest >= round(255 * -low / (high - low or 1.0)):
            return Integers(QuantType.QUInt8, symmetric=False)
        return self.usual_integers

    @property
    def usual_integers(self) -> Integers:
        return Integers(self.activations, bool(self.writer_options["ActivationSymmetric"]))


# onnxruntime, medians of one thread on a CPU with VNNI and AMX, random weights, 32 calibration images:
#   uint8 activations, Q/DQ behind Conv only: deit_tiny 19.5 → 11.0 ms, repvit_m0_9 19.6 → 12.6, tiny_vit 30.5 → 21.9.
#   A Conv becomes QLinearConv only with a pair behind it: without it repvit takes 27.6 ms, tiny_vit 29.9.
#   A MatMul or Gemm becomes MatMulIntegerToFloat without one; a pair behind it costs 1 to 2.5 dB and saves no time.
#   int8 activations: int8 convolutions have no fast kernel here, repvit takes 26.6 ms.
#   MatMulAddFusion turns MatMul + Add of a static batch into Gemm, which then stays float: deit_tiny takes 29.9 ms in
#   place of 11.7.
#   BiasGeluFusion moves a bias from a product, which could add it, into a kernel that takes twice Gelu's time. The best
#   kernel times add up to 13.8 ms with it, 12.3 without it, and 11.4 if the product adds the bias (in a compiled file).
#   WeightBiasQuantization rounds the weights of a float convolution between two pairs, by one scale for all channels: a
#   MobileNetV2 with one depthwise convolution in float has 16.4 dB as its graph says, and 0.3 with this optimizer.
# INT8 gains nothing if float convolutions in ONNX Runtime's blocked layout are as fast: efficientvit_b0 has 0.8 times
# the speed of float, mobilevit_xxs 0.9, fastvit_t8 0.6, with depthwise convolutions in float or not. Measure both.
# On x86 without VNNI, products of uint8 and int8 saturate in both runtimes: see overflow.py.
# openvino, one thread, minima of 40 interleaved runs, same CPU: of one type for all activations, symmetric int8 is
# fastest, without a pair behind a convolution. repvit_m0_9 takes 4.7 ms; 5.8 with pairs behind convolutions or with
# uint8, 6.9 with both. deit_tiny takes 8.8 ms, with uint8 9.2.
#   On an AMD EPYC with VNNI: with the outputs of Relu as uint8 with zero point 0, ResNet-10 has 37.6 dB, and is 1.12
#   times as fast as with int8, which gives 33.9 dB. The output of a GELU has a small negative part. As uint8 with a
#   zero point, before products, it gives a ViT 33.5 dB in place of 30.0 in equal time; before convolutions, repvit_m0_9
#   takes 15% longer. With all activations as uint8, the ViT takes 8% longer. A pair on both operands of residual sums
#   saves no time and costs 1.4 dB.
# tensorrt, by NVIDIA's builder (TensorRT for RTX 1.7.1): zero points are 0, scales of activations one a tensor, biases
# float, outputs of products are not quantized. Float operators are float16: the attention of deit_tiny is 12 fused
# kernels then, and none in float32.
# float8, by that builder: a weight has a single scale. Scales per channel are no more accurate for numbers with
# exponents (deit_tiny 19.9 dB, 20.2 with a single scale, random weights), and cost a float32 pass behind each
# convolution: repvit_m0_9 moves 72.6 MB with them, 59.2 with a single scale. Convolutions of fewer than 16 channels
# stay float, as in ModelOpt (NVIDIA's quantizer). ONNX Runtime's optimizers are off: one rounds biases to integers
# behind FP8 weights (-12 dB), another moves pairs over a Transpose that takes no FP8.
# int4: a separate kernel unpacks weights of a single block, or with an odd number of outputs. Scales of least squared
# error gain 1 dB over scales of the largest weight (normal and Laplace weights).
SYMMETRIC = {
    "WeightSymmetric": True,
    "ActivationSymmetric": True,
    "QuantizeBias": False,
    "QDQDisableWeightAdjustForInt32Bias": True,
}
DIALECTS = {
    ONNXRUNTIME.name: Dialect(
        activations=QuantType.QUInt8,
        operators=("Conv", "MatMul", "Gemm"),
        float_outputs=("MatMul", "Gemm"),
        writer_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        options=OnnxruntimeOptions(disabled_optimizers=("MatMulAddFusion", "BiasGeluFusion", "WeightBiasQuantization")),
    ),
    OPENVINO.name: Dialect(
        activations=QuantType.QInt8,
        operators=("Conv", "MatMul", "Gemm"),
        float_outputs=("Conv", "MatMul", "Gemm"),
        writer_options=SYMMETRIC,
        options=OpenvinoOptions(),
        largest_zero_points={"Conv": 0, "MatMul": LARGEST_ZERO_POINT, "Gemm": LARGEST_ZERO_POINT},
    ),
    TENSORRT.name: Dialect(
        activations=QuantType.QInt8,
        operators=("Conv", "MatMul", "Gemm"),
        float_outputs=("Conv", "MatMul", "Gemm"),
        writer_options=SYMMETRIC,
        options=OnnxruntimeOptions(disabled_optimizers=("MatMulAddFusion",)),
        whole_tiles=True,
        floats="float16",
        oldest_opset=19,
    ),
}
BESIDE_INT8 = {
    "float8": replace(DIALECTS[TENSORRT.name], precision="float8", options=AS_WRITTEN),
    "int4": replace(DIALECTS[TENSORRT.name], precision="int4", operators=("MatMul", "Gemm"), opset=21),
}


def dialect_of(runtime: str, precision: QuantizedPrecision, reduce_range: bool = False) -> Dialect:
    """A runtime's dialect for a precision; float8 and int4 have one for TensorRT alone, without reduced ranges."""
    if precision != "int8":
        return BESIDE_INT8[precision]
    return with_reduced_range(DIALECTS[runtime]) if reduce_range else DIALECTS[runtime]


def with_reduced_range(dialect: Dialect) -> Dialect:
    """The dialect with weights of 7 bits, whose sums fit into ONNX Runtime's fastest kernels on any CPU."""
    options = dialect.options
    if isinstance(options, OnnxruntimeOptions):
        options = options.model_copy(update={"exact_sums": False})
    return replace(dialect, reduce_range=True, options=options)


def is_placed(node: NodeProto, placement: Placement) -> bool:
    """Whether a placement quantizes a product or convolution."""
    if not node.op_type.startswith("Conv"):
        return True
    return placement in ("all", "sigmoid") or (placement == "dense" and integer_attribute(node, "group", 1) == 1)


def why_float(node: NodeProto, weights: Mapping[str, Sequence[int]], dialect: Dialect) -> str:
    """The reason why a dialect leaves a node of a float graph float; "" if it is quantized.

    Args:
        weights: shapes of the graph's stored weights, by name.
    """
    if node.op_type not in dialect.operators:
        return f"{node.op_type} is not quantized"
    if node.input[1] not in weights:
        return "its second operand is not a stored weight"
    weight = weights[node.input[1]]
    if node.op_type != "Conv" and len(weight) != 2:
        return "its weights are not a matrix"
    if not _has_plain_scales(node):
        return "its alpha or beta is not 1"
    if dialect.whole_tiles and not fills_tiles(node, weight):
        return "its weights do not fill the tiles of tensor cores"
    if dialect.precision == "float8" and min(weight[:2]) < SMALLEST_SIDE:
        return f"it has fewer than {SMALLEST_SIDE} channels"
    if dialect.precision == "int4" and not _fills_blocks(node, weight):
        return f"its weights are not several blocks of {BLOCK} inputs for an even number of outputs"
    return ""


def axis_of_inputs(product: NodeProto) -> Literal[0, 1]:
    """The axis of a product's weights that it sums over."""
    return 1 if integer_attribute(product, "transB", 0) else 0


def fills_tiles(node: NodeProto, weight: Sequence[int]) -> bool:
    """Whether weights of this shape are large enough for INT8 on tensor cores.

    Both sides of a matrix must be at least 16; the channels of a convolution, per group, must be multiples of 8.
    """
    if not node.op_type.startswith("Conv"):
        return len(weight) == 2 and min(weight) >= SMALLEST_SIDE
    groups = integer_attribute(node, "group", 1)
    # Conv (outputs, inputs a group, …), ConvTranspose (inputs, outputs a group, …)
    channels = (weight[0] // groups, weight[1])
    return all(number % CHANNEL_MULTIPLE == 0 for number in channels)


def _fills_blocks(product: NodeProto, weight: Sequence[int]) -> bool:
    """Whether the kernel of a product unpacks its INT4 weights itself, without a kernel before it.

    That takes two blocks or more, and an even number of outputs.
    """
    axis = axis_of_inputs(product)
    inputs, outputs = weight[axis], weight[1 - axis]
    return inputs % BLOCK == 0 and inputs > BLOCK and outputs % 2 == 0


def _has_plain_scales(node: NodeProto) -> bool:
    """Whether alpha and beta of a Gemm are 1; the writer of Q/DQ nodes would drop other values."""
    return all(attribute.f == 1 for attribute in node.attribute if attribute.name in ("alpha", "beta"))
