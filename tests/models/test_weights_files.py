"""Which weights a checkpoint from elsewhere gives: those that timm takes, or those that are asked for."""

import argparse
import pickle
from pathlib import Path

import pytest
import timm
import torch
from timm.models import load_state_dict

from edgevit.errors import ArtifactError
from edgevit.models.weights_files import read_weights

RAW, EMA = {"head.weight": torch.zeros(3, 2)}, {"head.weight": torch.ones(3, 2)}


def saved(tmp_path: Path, content: object) -> Path:
    torch.save(content, tmp_path / "w.pth")
    return tmp_path / "w.pth"


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"state_dict": RAW, "state_dict_ema": EMA}, "state_dict_ema"),
        ({"model": RAW, "model_ema": EMA, "epoch": 3}, "model_ema"),
        ({"state_dict": RAW, "model_ema": EMA}, "model_ema"),
        ({"model": EMA}, "model"),
        ({"state_dict": EMA, "model": RAW}, "state_dict"),
        (EMA, ""),
    ],
)
def test_weights_are_those_that_timm_takes(tmp_path, content, key):
    file = saved(tmp_path, content)
    found = read_weights(file)
    assert found.key == key
    timms = load_state_dict(str(file))
    assert found.state.keys() == timms.keys()
    assert torch.equal(found.state["head.weight"], timms["head.weight"])


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"model": RAW, "ema": {"module": EMA, "updates": 7}}, "ema.module"),
        ({"state_dict": {f"{name}.{key}": value for name, of in (("model", RAW), ("ema_model", EMA))
                         for key, value in of.items()}}, "state_dict.ema_model"),
        ({"state_dict": {f"model.{key}": value for key, value in RAW.items()}}, "state_dict.model"),
        ({"model_state_dict": RAW, "optimizer": {"state": {"a": torch.ones(1)}}}, "model_state_dict"),
    ],
)  # fmt: skip
def test_weights_of_other_programs_are_found_by_their_names(tmp_path, content, key):
    assert read_weights(saved(tmp_path, content)).key == key


def test_weights_key_chooses_and_other_keys_are_named(tmp_path):
    file = saved(tmp_path, {"state_dict": RAW, "state_dict_ema": EMA, "more": {"ema": EMA}})
    chosen = read_weights(file, "state_dict")
    assert torch.equal(chosen.state["head.weight"], RAW["head.weight"])
    assert not chosen.is_ema
    assert chosen.other_keys == ("state_dict_ema", "more.ema")
    assert read_weights(file).is_ema
    with pytest.raises(ArtifactError) as caught:
        read_weights(file, "model")
    assert "state_dict or state_dict_ema or more.ema" in str(caught.value)


def test_several_weights_of_unknown_names_are_asked_for(tmp_path):
    with pytest.raises(ArtifactError, match="several weights") as caught:
        read_weights(saved(tmp_path, {"student": RAW, "teacher": EMA}))
    assert "student or teacher" in str(caught.value)


def test_arguments_of_timms_training_script_are_plain_data(tmp_path):
    model = timm.create_model("test_vit", num_classes=3)
    file = saved(tmp_path, {"state_dict": model.state_dict(), "args": argparse.Namespace(model="test_vit", lr=0.1)})
    assert read_weights(file).state.keys() == model.state_dict().keys()


@pytest.mark.parametrize(
    "names",
    [
        {"class_names": ["b", "a", "c"]},
        {"class_to_idx": {"a": 1, "b": 0, "c": 2}},
        {"meta": {"CLASSES": ("b", "a", "c")}},
        {"pretrained_cfg": {"label_names": ["b", "a", "c"]}},
        {"args": argparse.Namespace(class_names=["b", "a", "c"])},
        {"config": {"id2label": {0: "b", 1: "a", 2: "c"}}},
    ],
)
def test_names_of_classes_in_the_file_are_found(tmp_path, names):
    assert read_weights(saved(tmp_path, {"state_dict": RAW, **names})).class_names == ("b", "a", "c")
    assert read_weights(saved(tmp_path, {"state_dict": RAW, "class_to_idx": {"a": 5}})).class_names is None
    long = {"9" * 5000: "a"}  # more digits than Python makes a number of
    assert read_weights(saved(tmp_path, {"state_dict": RAW, "class_names": long})).class_names is None


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02J\x01",  # a number of four bytes, of which there is one
        b"".join(pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {})) + b"\x80\x02K\x01Q.",  # type: ignore[var-annotated]
    ],
)
def test_a_damaged_file_is_no_bug_of_ours(tmp_path, content):
    (tmp_path / "own.pth").write_bytes(content)
    with pytest.raises(ArtifactError, match="this PyTorch file is damaged"):
        read_weights(tmp_path / "own.pth")
