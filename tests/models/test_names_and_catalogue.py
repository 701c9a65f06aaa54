"""Stored lists against the timm that is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest
import timm

from edgevit.models import catalogue, create_model, macs_of, params_of
from edgevit.models.distillation_token import has_distillation_token
from edgevit.models.names import known_model, listed_names, nearest_models
from edgevit.models.taps import layer_count
from edgevit.models.timm_models import model_config


def test_stored_names_are_timms() -> None:
    own = {name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")}
    assert own <= listed_names()
    assert known_model("resnet50.a1_in1k")
    assert not known_model("resnet50.no_such_tag")


def test_name_that_timm_learnt_later_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgevit.models.names.listed_names", frozenset)
    assert known_model("resnet18")


def test_nothing_near_gives_nothing() -> None:
    assert nearest_models("qqqqqqqq") == []


def test_names_and_catalogue_import_no_torch() -> None:
    code = (
        "import sys; from edgevit.models.names import known_model; from edgevit.models.catalogue import read;"
        "assert known_model('deit_tiny_patch16_224') and read(); print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_every_entry_is_a_timm_model_in_order_of_size() -> None:
    entries = catalogue.read()
    assert len(entries) >= 25
    assert [entry.params for entry in entries] == sorted(entry.params for entry in entries)
    assert all(known_model(entry.name) and entry.tested_sizes for entry in entries)


@pytest.mark.parametrize(
    "name",
    ["efficientvit_m0", "deit_tiny_distilled_patch16_224", pytest.param("ghostnetv2_100", marks=pytest.mark.slow)],
)
def test_rows_agree_with_a_fresh_build(name: str) -> None:
    entry = next(entry for entry in catalogue.read() if entry.name == name)
    built = create_model(name, 1000)
    assert entry.default_size == built.preprocess.height
    assert entry.params == params_of(built.module)
    assert entry.macs == macs_of(built.module, entry.default_size, entry.default_size)
    assert entry.distillation_token == has_distillation_token(built.module)
    assert entry.feature_layers == layer_count(built.module, (entry.default_size, entry.default_size))
    assert entry.reparameterizable == (name == "efficientvit_m0")
    assert entry.licence == model_config(built.module)["license"]
    assert create_model(name, 10, min(entry.tested_sizes)).preprocess.height == min(entry.tested_sizes)
