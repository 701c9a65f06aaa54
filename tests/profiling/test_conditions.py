"""What is read from this machine."""

import platform
from pathlib import Path

import numpy
import pytest

from edgevit.actions.doctor import training_device
from edgevit.context import Context
from edgevit.errors import TargetError
from edgevit.profiling import conditions
from edgevit.provenance import version_of
from edgevit.targets import target_info


def test_the_cpu_is_described_the_same_at_every_call():
    found = conditions.cpu()
    assert found == conditions.cpu()
    assert found["model"]
    assert found["architecture"] == platform.machine()
    assert set(found["instruction_sets"]) <= set(conditions.RELEVANT_FLAGS)


def test_versions_are_those_of_the_packages():
    assert version_of("numpy") == numpy.__version__
    assert version_of("no-such-package-anywhere") is None


def test_gpus_are_what_nvidia_smi_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "nvidia-smi"
    program.write_text('#!/bin/sh\necho "NVIDIA H200, 570.1, 9.0"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    conditions.gpus.cache_clear()
    try:
        assert conditions.gpus() == ({"model": "NVIDIA H200", "driver": "570.1", "compute_capability": "9.0"},)
        program.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' >&2\nexit 9\n")
        conditions.gpus.cache_clear()
        assert conditions.gpus() == ()
        program.write_text("#!/bin/sh\nexec sleep 60\n")
        monkeypatch.setattr(conditions, "NVIDIA_SMI_S", 0.2)
        conditions.gpus.cache_clear()
        with pytest.raises(TimeoutError, match="does not answer"):
            conditions.gpus()
        for runtime in ("torch", "onnxruntime"):
            with pytest.raises(TargetError, match="nvidia-smi does not answer in time"):
                target_info("local-gpu", runtime, Context())
        with pytest.raises(TargetError, match="nvidia-smi does not answer in time") as caught:
            training_device("auto")
        assert "--device cpu" in str(caught.value.next)
    finally:
        conditions.gpus.cache_clear()
