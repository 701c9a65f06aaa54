"""The registry of runtimes agrees with the places that need a runtime's name."""

from __future__ import annotations

import tomllib
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError

from edgevit.bundling import infer
from edgevit.configs import FileRuntime, QuantizedRuntime
from edgevit.configs.runtimes import RUNTIMES, RuntimeInfo
from edgevit.model_file import options_for
from edgevit.quantization.dialects import DIALECTS
from edgevit.runtimes import loading
from edgevit.runtimes.base import HostSession

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_recipes_and_bundles_take_the_runtimes_that_open_onnx_files() -> None:
    names = {name for name, runtime in RUNTIMES.items() if "onnx" in runtime.opens}
    assert set(get_args(FileRuntime)) == names == set(infer.RUNTIMES) == set(loading.LOADERS)


def test_each_runtime_to_quantize_for_has_a_dialect_that_runs_here() -> None:
    assert set(get_args(QuantizedRuntime)) == set(DIALECTS)
    for dialect in DIALECTS.values():
        assert "onnx" in RUNTIMES[dialect.options.runtime].opens


@pytest.mark.parametrize("runtime", RUNTIMES.values(), ids=list(RUNTIMES))
def test_edgevit_or_its_extra_installs_each_package(runtime: RuntimeInfo) -> None:
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    requirements = extras[runtime.extra] if runtime.extra else project["dependencies"]
    assert any(requirement.startswith(f"{runtime.package}>=") for requirement in requirements)


@pytest.mark.parametrize("name", get_args(FileRuntime))
def test_each_module_has_a_session_for_files(name: str) -> None:
    pytest.importorskip(RUNTIMES[name].package, reason=f"{name} is not installed")
    assert issubclass(import_module(RUNTIMES[name].module).FileSession, HostSession)
    assert options_for(name).runtime == name


@pytest.mark.parametrize("name", sorted(RUNTIMES.keys() - {*get_args(FileRuntime)}))
def test_runtimes_that_open_no_onnx_file_have_no_options(name: str) -> None:
    with pytest.raises(ValidationError):
        options_for(name)
