"""NVIDIA's own builder over a real SSH server: TensorRT for RTX, under TensorRT 11's bindings, without a GPU.

Its engines cannot run here. So this covers the build alone: options, network, parser, profile, log, engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

from edgevit.checking import nvidia
from edgevit.checking.plan import Kernel, kernels_of
from edgevit.context import Context
from edgevit.errors import ArtifactError
from edgevit.graphs.files import onnx_file, read_onnx
from edgevit.graphs.float16 import with_float16
from edgevit.targets import target_for, visits
from edgevit.targets.agent_host import AgentHost
from edgevit.targets.named import add_target, user_file
from edgevit.targets.trtexec.commands import ENGINE, MODEL, BatchProfile, Input, build_arguments
from edgevit.targets.trtexec_program import TrtexecProgram
from tests.checking.graphs import attention
from tests.checking.test_nvidia import needs_nvidia
from tests.small_models import int8_onnx_for_tensorrt as int8_vit
from tests.targets.ssh_host import SshHost, needs_sshd

pytestmark = [needs_sshd, needs_nvidia]


@pytest.fixture
def program(server: SshHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrtexecProgram]:
    """The loopback host, whose Python has NVIDIA's bindings as its module tensorrt."""
    (tmp_path / "libraries").mkdir()
    nvidia._link_libraries(tmp_path / "libraries")
    names = "import sys; sys.modules['tensorrt_libs'] = None; import tensorrt_bindings"
    (tmp_path / "tensorrt.py").write_text(f"{names}; sys.modules['tensorrt'] = tensorrt_bindings\n")
    exports = f"export PYTHONPATH='{tmp_path}' LD_LIBRARY_PATH='{tmp_path / 'libraries'}'"
    python = server.script("python-with-nvidia", exports, f'exec {server.folder / "board/python3"} "$@"')
    for name, value in (("PATH", server.path), ("XDG_CONFIG_HOME", tmp_path), ("EDGEVIT_CACHE", tmp_path / "cache")):
        monkeypatch.setenv(name, str(value))
    config, file = server.target(str(python), tensorrt="python").config, user_file()
    assert config is not None
    assert file is not None
    add_target("loopback", config, file)
    visits.forget()
    host = target_for("loopback", Context())
    assert isinstance(host, AgentHost)
    with host._trtexec() as program:
        yield program
    visits.forget()


def built(program: TrtexecProgram, model: onnx.ModelProto, profile: BatchProfile | None, folder: Path) -> list[Kernel]:
    """The kernels of an engine that is built on the host, by the log of its build."""
    source = Input(model.graph.input[0].name, tuple(size.dim_value for size in _sizes(model)[1:]))
    arguments = build_arguments(program.release, source, profile, builder_level=3, workspace_mib=256)
    file = folder / "sent.onnx"
    onnx.save(model, file)
    fetches, log = {ENGINE: 2**30}, folder / "build.log"
    with program.ran(
        arguments, {MODEL: file}, folder / "out", 300, outputs=fetches, is_repeatable=False, log=log
    ) as run:
        assert run.files[ENGINE].stat().st_size > 1000
    return kernels_of(log.read_text().split("[TRT] "))


def _sizes(model: onnx.ModelProto) -> list[onnx.TensorShapeProto.Dimension]:
    return list(model.graph.input[0].type.tensor_type.shape.dim)


def test_the_plan_is_the_one_that_is_built_here(program: TrtexecProgram, tmp_path: Path) -> None:
    model = with_float16(attention(197, 64, quantized=False), "test")
    assert program.version.startswith("11.4.0")
    there, here = built(program, model, None, tmp_path), nvidia.build(model).kernels
    assert [(kernel.kind, kernel.inputs, kernel.constants, kernel.outputs, kernel.nodes) for kernel in there] == [
        (kernel.kind, kernel.inputs, kernel.constants, kernel.outputs, kernel.nodes) for kernel in here
    ]
    assert any(kernel.is_attention for kernel in there)


@pytest.mark.slow
def test_a_quantized_vit_with_an_open_batch_has_the_plan_that_is_built_here(
    program: TrtexecProgram, tmp_path: Path
) -> None:
    model = read_onnx(onnx_file(int8_vit()))
    there = built(program, model, BatchProfile(1, 1), tmp_path)  # as `nvidia.build` takes an open batch
    here = nvidia.build(model).kernels
    assert [(kernel.kind, kernel.nodes) for kernel in there] == [(kernel.kind, kernel.nodes) for kernel in here]
    assert sum(kernel.multiplied_type == "int8" for kernel in there if kernel.is_product) == 8


def test_what_nvidias_parser_refuses_is_refused_with_the_node_and_its_reason(
    program: TrtexecProgram, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="does not take the model: QuantizeLinear quantize") as caught:
        built(program, nvidia._quantized_product(np.uint8(128)), None, tmp_path)
    assert "Non-zero zero point is not supported" in str(caught.value.got)
