"""Files that serve a bundle in other programs, read by those programs' own readers where they are there."""

from __future__ import annotations

import configparser
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format  # type: ignore[import-untyped]
from PIL import Image

from edgevit.artifacts import Artifact
from edgevit.bundling import model_to_bundle, runner, write_bundle
from edgevit.bundling.serving import SERVERS, serving_files
from edgevit.configs import Bundle
from edgevit.data.preprocess import normalized
from edgevit.errors import ArtifactError
from edgevit.model_file import AS_WRITTEN, OpenvinoOptions
from edgevit.progress import SilentProgress
from tests.bundling.engines import LOADING, engine_in_store
from tests.bundling.small_model import small_model


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return engine_in_store(tmp_path_factory.mktemp("engine"))


def bundled(folder: Path, model: Artifact, serve: tuple[str, ...], engine: Artifact | None = None) -> Path:
    (folder / "loading.py").write_text(LOADING)
    (out := folder / "bundle").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(runner.ENGINE_RUNNER, "tensorrt_loading.py", folder / "loading.py")
        write_bundle(model, out, engine=engine, serve=serve)
    return out


def with_rule(model: Artifact, **changes: Any) -> Artifact:
    rule = model.io.preprocess.model_copy(update=changes)
    return model.with_io(model.io.model_copy(update={"preprocess": rule}))


def model_config(text: str) -> Any:
    """A ModelConfig of Triton, read by protobuf from NVIDIA's own definition."""
    package = find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("needs the package tritonclient")
    file = Path(package.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    spec = spec_from_file_location("model_config_pb2", file)
    assert spec is not None
    assert spec.loader is not None
    definition = module_from_spec(spec)
    spec.loader.exec_module(definition)
    return text_format.Parse(text, definition.ModelConfig())


def test_options_of_the_stage_are_the_servers_that_there_are() -> None:
    config = Bundle(stage="bundle", id="b", model="m", compiled=True, serve=tuple(SERVERS))
    assert config.serve == tuple(SERVERS)
    with pytest.raises(ValueError, match="needs compiled: true"):
        Bundle(stage="bundle", id="b", model="m", serve=("deepstream",))


def test_served_files_are_recorded_and_explained(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, small_model(tmp_path / "model"), ("systemd", "triton", "cpp"))
    record = json.loads((bundle / "bundle.json").read_text())
    added = {"edgevit.service", "config.pbtxt", "bundle.hpp", "CMakeLists.txt"}
    assert added <= record["files"].keys()
    assert {"classify_onnxruntime.cpp", "classify_tensorrt.cpp"} <= record["files"].keys()
    titles = [line for line in (bundle / "README.md").read_text().splitlines() if line.startswith("## ")]
    assert titles == ["## As a service", "## Triton Inference Server", "## C++"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, small_model(tmp_path / "model"), ("systemd",))
    text = (bundle / "edgevit.service").read_text().replace("/opt/edgevit-bundle", str(bundle))
    unit = tmp_path / "edgevit.service"
    unit.write_text(text.replace("/usr/bin/python3", sys.executable))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, [line for line in verified.stderr.splitlines() if "edgevit" in line]) == (0, [])
    unit.write_text(text.replace("DynamicUser=yes", "DynamicUsr=yes"))
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert "DynamicUsr" in verified.stderr  # it reads the unit


def test_the_command_of_the_unit_is_one_that_infer_takes(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, small_model(tmp_path / "model"), ("systemd",))
    (command,) = re.findall(r"^ExecStart=(.*)$", (bundle / "edgevit.service").read_text(), re.MULTILINE)
    python, *arguments = command.replace("/opt/edgevit-bundle", str(bundle)).split()
    assert python == "/usr/bin/python3"
    ended = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 2
    assert "/var/lib/edgevit/incoming: cannot be used\n  expected: a folder of images" in ended.stderr


def test_triton_reads_the_configuration_of_an_onnx_file(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    config = model_config(serving_files(["triton"], model, None)["config.pbtxt"])
    assert (config.platform, config.default_model_filename, config.max_batch_size) == (
        "onnxruntime_onnx",
        "model.onnx",
        32,
    )
    (image,), (logits,) = config.input, config.output
    assert (image.name, list(image.dims), image.data_type) == (
        "image",
        [3, 16, 24],
        11,  # TYPE_FP32
    )
    assert (logits.name, list(logits.dims), logits.label_filename) == ("logits", [4], "labels.txt")
    assert not config.optimization.graph.level
    fixed = model_config(serving_files(["triton"], small_model(tmp_path / "fixed", batch=4), None)["config.pbtxt"])
    assert (fixed.max_batch_size, list(fixed.input[0].dims), list(fixed.output[0].dims)) == (0, [4, 3, 16, 24], [4, 4])
    compiled = small_model(tmp_path / "compiled", options=AS_WRITTEN)
    assert model_config(serving_files(["triton"], compiled, None)["config.pbtxt"]).optimization.graph.level == 2


def test_triton_reads_the_configuration_of_an_engine(engine: Artifact) -> None:
    model, built = model_to_bundle(engine, True, SilentProgress())
    text = serving_files(["triton"], model, built)["config.pbtxt"]
    config = model_config(text)
    assert (config.platform, config.default_model_filename, config.max_batch_size) == (
        "tensorrt_plan",
        "model.engine",
        8,
    )
    assert "minus (0.485, 0.456, 0.406), divided by (0.229, 0.224, 0.225)" in text
    assert "The graph does not normalize" in text


def test_a_model_that_normalizes_itself_gets_uint8_images_in_triton(tmp_path: Path) -> None:
    model = small_model(tmp_path / "model")
    text = serving_files(["triton"], model.with_io(model.io.taking_uint8_images()), None)["config.pbtxt"]
    assert "as uint8. The graph scales and normalizes it." in text
    (image,) = model_config(text).input
    assert (image.data_type, list(image.dims)) == (2, [16, 24, 3])  # TYPE_UINT8


def test_names_of_a_model_stay_text_in_the_configuration(tmp_path: Path) -> None:
    """A line end in the name of an output would end a comment. Sizes with names are open sizes."""
    model = small_model(tmp_path / "model")
    odd = 'logits\nbackend: "python" #'
    output = model.io.outputs[0].model_copy(
        update={"name": odd, "meaning": "scores\ndynamic_batching {}", "shape": ("batch", "dynamic_batching {}")}
    )
    text = serving_files(["triton"], model.with_io(model.io.model_copy(update={"outputs": (output,)})), None)[
        "config.pbtxt"
    ]
    assert not re.search(r"^(backend|dynamic_batching)", text, re.MULTILINE)
    assert "dims: [ -1 ]" in text
    config = model_config(text)
    assert (config.output[0].name, config.backend, config.HasField("dynamic_batching")) == (odd, "", False)


def test_the_commands_of_the_readme_lay_out_a_model_repository(engine: Artifact, tmp_path: Path) -> None:
    model, built = model_to_bundle(engine, True, SilentProgress())
    bundle = bundled(tmp_path, model, ("triton",), built)
    block = (bundle / "README.md").read_text().split("## Triton Inference Server")[1].split("tritonserver")[0]
    commands = [line.strip() for line in block.splitlines() if line.startswith("    ")]
    subprocess.run(["sh", "-ec", "\n".join(commands)], cwd=bundle, check=True)
    files = {str(file.relative_to(bundle / "models")) for file in (bundle / "models").rglob("*") if file.is_file()}
    assert files == {"edgevit/config.pbtxt", "edgevit/labels.txt", "edgevit/1/model.engine"}


def nvinfer(text: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(delimiters=("=",), interpolation=None)
    parser.read_string(text)
    assert parser.sections() == ["property"]
    return parser["property"]


@pytest.mark.parametrize("std", [(0.5, 0.5, 0.5), (0.229, 0.224, 0.225)])
def test_deepstream_scales_as_edgevit_does_or_says_by_how_much_it_does_not(
    std: tuple[float, float, float], engine: Artifact
) -> None:
    """y = net-scale-factor · (x - offset), of NVIDIA's guide."""
    files = serving_files(["deepstream"], engine, with_rule(engine, std=std, mean=(0.41, 0.503, 0.617)))
    config = nvinfer(files["deepstream_nvinfer.txt"])
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    offsets = np.array(config["offsets"].split(";"), np.float64)
    given = config.getfloat("net-scale-factor") * (pixels - offsets)
    expected = normalized(pixels, (0.41, 0.503, 0.617), std).transpose(1, 2, 0)
    error = np.abs(given / expected - 1).max()
    stated = re.search(r"wrong by up to ([\d.]+)%", files["deepstream_nvinfer.txt"])
    assert (stated is None) == (len(set(std)) == 1)
    assert error == pytest.approx(float(stated[1]) / 100 if stated else 0, abs=1e-4)


def test_deepstream_reads_the_labels_and_is_told_what_differs(engine: Artifact) -> None:
    files = serving_files(["deepstream"], engine, engine)
    text, labels = files["deepstream_nvinfer.txt"], files["deepstream_labels.txt"]
    assert labels.splitlines()[0].split(";") == list(engine.io.classes)
    assert len(labels.splitlines()) == 1
    config = nvinfer(text)
    assert (config["network-type"], config["model-engine-file"], config["labelfile-path"], config["batch-size"]) == (
        "1",
        "model.engine",
        "deepstream_labels.txt",
        "1",
    )
    assert "onnx-file" not in config
    assert "0.875 of the shorter side" in text
    assert "without softmax" in text
    squash = serving_files(["deepstream"], engine, with_rule(engine, resize="squash"))["deepstream_nvinfer.txt"]
    assert "shorter side" not in squash


@pytest.mark.parametrize(
    ("change", "said", "step"),
    [
        ("uint8", "takes uint8 images", "export it without normalize; or "),
        ("embedding", "reads each output as a classifier", "export it without embedding; or "),
        ("one score", "a number for each class", ""),
        ("semicolon", "separates labels by semicolons", "rename the classes; or "),
    ],
)
def test_deepstream_is_refused_where_it_cannot_feed_or_read_the_model(
    change: str, said: str, step: str, engine: Artifact
) -> None:
    one_score = engine.io.outputs[0].model_copy(update={"meaning": "score of class 1"})
    io = {
        "one score": engine.io.model_copy(update={"outputs": (one_score,)}),
        "uint8": engine.io.taking_uint8_images(),
        "embedding": engine.io.with_embedding(8),
        "semicolon": engine.io.calling_its_classes(("a;b", "c", "d", "e")),
    }[change]
    with pytest.raises(ArtifactError, match=said) as caught:
        serving_files(["deepstream"], engine, engine.with_io(io))
    assert caught.value.next == f"{step}leave deepstream out of serve"


@pytest.mark.parametrize("name", ["triton", "cpp"])
def test_a_model_for_openvino_is_refused(name: str, tmp_path: Path) -> None:
    model = small_model(tmp_path / "model", options=OpenvinoOptions())
    with pytest.raises(ArtifactError, match="TensorRT") as caught:
        serving_files([name], model, None)
    assert caught.value.next == f"leave {name} out of serve"


def test_the_readme_prepares_an_image_for_the_programs_in_c(tmp_path: Path) -> None:
    bundle = bundled(tmp_path, small_model(tmp_path / "model"), ("cpp",))
    Image.fromarray(np.full((30, 50, 3), (10, 90, 200), np.uint8)).save(bundle / "photo.jpg")
    block = (bundle / "README.md").read_text().split("as the model expects it:")[1]
    code = "\n".join(line[4:] for line in block.splitlines() if line.startswith("    "))
    subprocess.run([sys.executable, "-B", "-c", code], cwd=bundle, check=True)
    content = (bundle / "photo.ppm").read_bytes()
    assert content.startswith(b"P6\n24 16\n255\n")
    assert len(content) == len(b"P6\n24 16\n255\n") + 24 * 16 * 3
