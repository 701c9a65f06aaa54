"""Graphs that ONNX Runtime compiles on another machine, over a real SSH server."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from edgevit.context import Context
from edgevit.errors import ArtifactError, TargetError
from edgevit.runtimes.base import SessionOptions, random_images
from edgevit.targets import target_for, target_info, visits
from edgevit.targets.engine_binding import graph_differences
from edgevit.targets.local import LocalCpu
from tests.small_models import float_onnx, int8_onnx, workbench
from tests.targets.ssh_host import SshHost, needs_sshd
from tests.targets.test_agent_host import host, lie, name_board

__all__ = ["host"]  # a fixture
pytestmark = needs_sshd


@pytest.mark.parametrize("name", ["int8", pytest.param("float hybrid", marks=pytest.mark.slow)])
def test_a_graph_is_compiled_there_and_runs_there(host: SshHost, name: str) -> None:
    """Here and there are one machine with one ONNX Runtime, so the outputs are those of the graph compiled here."""
    source = int8_onnx() if name == "int8" else float_onnx(True)  # whose convolutions are in a layout of their own
    made = workbench().run("compile", f"engine-there-{source.id}", model=source.id, target="board")
    assert made.metrics["runtime"] == "onnxruntime"
    bound_to = made.model_file.bound_to
    assert bound_to is not None
    assert bound_to.model_dump(mode="json") == target_info("board", "onnxruntime", Context())
    images = random_images(made.io, 3)
    with (
        target_for("board", Context()).open(made, SessionOptions()) as there,
        LocalCpu().open(
            workbench().run("compile", f"engine-here-{source.id}", model=source.id), SessionOptions()
        ) as here,
    ):
        np.testing.assert_array_equal(there.infer({"image": images})["logits"], here.infer({"image": images})["logits"])


def test_a_graph_of_another_machine_is_refused(host: SshHost) -> None:
    made = workbench().run("compile", "engine-of-board", model=int8_onnx().id, target="board")
    other = made.model_file.bound_to.model_copy(update={"hardware": {"processor": "another"}})
    elsewhere = made.with_model_file(made.model_file.model_copy(update={"bound_to": other}))
    with (
        pytest.raises(TargetError, match="compiled for another machine"),
        target_for("board", Context()).open(elsewhere, SessionOptions()),
    ):
        pass


def test_a_graph_is_bound_to_the_processor_and_the_runtime_alone(host: SshHost) -> None:
    made = workbench().run("compile", "engine-of-board", model=int8_onnx().id, target="board")
    built = made.model_file.bound_to
    elsewhere = built.model_copy(
        update={
            "name": "another",
            "versions": {**built.versions, "python": "3.8.0"},
            "hardware": {**built.hardware, "power_mode": "15W", "cpus": 99},
        }
    )
    assert not graph_differences(built, elsewhere)
    renamed = made.with_model_file(made.model_file.model_copy(update={"bound_to": elsewhere}))
    with target_for("board", Context()).open(renamed, SessionOptions()) as session:
        assert session.infer({"image": random_images(made.io, 1)})
    older = elsewhere.model_copy(update={"versions": {**built.versions, "onnxruntime": "1.0"}})
    assert graph_differences(older, built) == [f"onnxruntime: 1.0 and {built.versions['onnxruntime']}"]


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "not an ONNX model"), (b"no model", "not an ONNX model"), (bytes(2**25), "file of the job is too large")],
)
def test_a_graph_that_deceives_is_refused(host: SshHost, content: bytes, says: str) -> None:
    lie(host, {"versions": {}})
    (host.home / "compiled.onnx").write_bytes(content)
    lying = f'if [ "$1" = -B ]; then cp {host.home}/result.json {host.home}/compiled.onnx .; exit 0; fi'
    name_board(host, str(host.script("lying-compiler", lying, f'exec {sys.executable} "$@"')))
    visits.forget()
    with pytest.raises((ArtifactError, TargetError), match=says):
        workbench().run("compile", f"engine-lied-{len(content)}", model=int8_onnx().id, target="board")
