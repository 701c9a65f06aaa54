"""The page of a bundle in headless Chromium, against `evaluate` and `predict`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from edgevit.actions.predict_images import predict_images
from edgevit.artifacts import Artifact
from edgevit.bundling import Page, write_bundle
from edgevit.configs import Evaluate, ImageFolder, Splits
from edgevit.context import Context
from edgevit.data import dataset_artifacts
from edgevit.errors import MissingDependency
from edgevit.stages import evaluate
from tests.bundling.browser import CHROMIUM, Tab, open_browser, served
from tests.bundling.small_model import small_model
from tests.bundling.test_fresh_environment import DIGITS, linear_digits

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)"),
]
COUNT = 200
READY = "document.getElementById('files')?.disabled === false || document.querySelector('#status.error')?.textContent"
FOUND = """[...document.querySelectorAll('#results > li')].map(item => ({
  image: item.querySelector('.name').textContent, error: item.querySelector('.error')?.textContent ?? null,
  labels: [...item.querySelectorAll('.labels li')].map(label => ({
    label: label.querySelector('.label').textContent,
    confidence: Number(label.querySelector('.share').dataset.confidence)}))}))"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return linear_digits(tmp_path_factory.mktemp("digits") / "model")


@pytest.fixture(scope="module")
def bundle(model: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return web_bundle(model, tmp_path_factory.mktemp("bundles") / "digits")


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Tab]:
    with open_browser(tmp_path) as opened:
        yield opened


def web_bundle(model: Artifact, out: Path) -> Path:
    out.mkdir()
    try:
        write_bundle(model, out, page=Page())
    except MissingDependency as error:
        pytest.skip(str(error))
    return out


@pytest.mark.parametrize(("suffix", "least"), [("png", COUNT), ("jpg", COUNT - 2)])
def test_the_same_labels_as_evaluate(suffix: str, least: int, model: Artifact, bundle: Path, tab: Tab, tmp_path: Path):
    photos = photos_of_digits(tmp_path / "photos", suffix)
    config = ImageFolder(source="image_folder", path=str(photos), splits=Splits(val=0.0, test=0.5))
    data = dataset_artifacts({"digits": config}, tmp_path, ["digits.test"])["digits.test"]
    stage = Evaluate(stage="evaluate", id="accuracy", model="model", data="digits.test")
    (out := tmp_path / "evaluation").mkdir()
    contents = evaluate.run(stage, {"model": model, "data": data}, Context(), out)
    table = np.load(out / "predictions.npz")
    chosen = list(zip(table["sample_ids"], table["predicted"], strict=True))[:COUNT]
    assert contents.metrics["top1"]["value"] > 0.6
    assert len(chosen) == COUNT

    with served(bundle) as url:
        opened(tab, url)
    found = labelled(tab, [photos / name for name, _ in chosen])  # with the server gone
    same = [one["labels"][0]["label"] == DIGITS[index] for one, (_, index) in zip(found, chosen, strict=True)]
    assert sum(same) >= least
    assert tab.complaints() == []


def test_png_images_get_the_confidences_of_python(tab: Tab, tmp_path: Path):
    model = small_model(tmp_path / "model", batch=3)
    generator = np.random.default_rng(0)
    images = []
    for index in range(20):
        size = (*generator.integers(8, 200, 2), 3)
        Image.fromarray(generator.integers(0, 256, size, dtype=np.uint8)).save(path := tmp_path / f"{index:02d}.png")
        images.append(path)
    with served(web_bundle(model, tmp_path / "bundle")) as url:
        opened(tab, url)
        found = labelled(tab, images)
    for got, wanted in zip(found, predict_images(model, images, 3).answers, strict=True):
        assert [one["label"] for one in got["labels"]] == [one["label"] for one in wanted["labels"]]
        for one, other in zip(got["labels"], wanted["labels"], strict=True):
            assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-4)


def test_kinds_of_files_are_read_as_in_python(model: Artifact, bundle: Path, tab: Tab, tmp_path: Path):
    """Turned photos, transparent parts, palettes, gray with 8 and 16 bits. Decoders may round otherwise."""
    pixels = digit_pixels(5, 96)
    color = Image.fromarray(pixels)
    alpha = Image.fromarray(np.dstack([255 - pixels, pixels[..., :1]]))
    turned = color.rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a turn to the right
    color.convert("L").save(tmp_path / "gray.png")
    color.convert("P").save(tmp_path / "palette.png")
    alpha.save(tmp_path / "alpha.png")
    Image.fromarray((pixels[..., 0].astype(np.uint16)) * 257).save(tmp_path / "gray16.png")
    turned.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    color.save(tmp_path / "photo.webp", quality=95)
    color.save(tmp_path / "photo.bmp")
    images = sorted(path for path in tmp_path.iterdir() if path.is_file())
    with served(bundle) as url:
        opened(tab, url)
        found = labelled(tab, images)
    assert len(images) == 7
    for got, wanted in zip(found, predict_images(model, images, 1).answers, strict=True):
        assert got["image"] == Path(wanted["image"]).name
        assert got["labels"][0]["label"] == wanted["labels"][0]["label"], got["image"]
        assert got["labels"][0]["confidence"] == pytest.approx(wanted["labels"][0]["confidence"], abs=0.02), got[
            "image"
        ]


def test_names_are_text_and_bad_files_are_named(tab: Tab, tmp_path: Path):
    names = ("<img src=x onerror=alert(1)>", "naïve & \u202ebidi", "dog", "cat")
    (tmp_path / "broken<b>.png").write_bytes(b"\x89PNG but no more")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    with served(web_bundle(small_model(tmp_path / "model", classes=names), tmp_path / "bundle")) as url:
        opened(tab, url)
        broken, red = labelled(tab, [tmp_path / "broken<b>.png", tmp_path / "red.png"])
    assert broken == {"image": "broken<b>.png", "error": "this browser cannot read it as an image", "labels": []}
    assert {one["label"] for one in red["labels"]} <= {names[0], "naïve & \\u202ebidi", "dog", "cat"}
    assert tab.evaluate("document.querySelectorAll('#results img, #results b').length") == 0
    assert tab.complaints() == []


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "ort-wasm-simd-threaded.wasm"])
def test_an_altered_file_is_not_used(name: str, model: Artifact, tab: Tab, tmp_path: Path):
    folder = web_bundle(model, tmp_path / "bundle")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with served(folder) as url:
        tab("Page.navigate", url=url)
        assert tab.wait_for(READY) == f"Cannot load the model: {name}: was altered"


@pytest.mark.parametrize("width", [1000, 390, 320])
def test_nothing_sticks_out_and_the_camera_is_labelled(width: int, bundle: Path, tab: Tab, tmp_path: Path):
    tab.set_width(width)
    with served(bundle) as url:
        opened(tab, url)
        Image.fromarray(digit_pixels(3, 64)).save(path := tmp_path / f"{'a-long-name' * 9}.png")
        labelled(tab, [path])
        tab.evaluate("document.getElementById('camera').click()")
        tab.wait_for("document.querySelectorAll('#live-labels li').length == 3")
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
        assert "Time of this browser on this device" in tab.evaluate("document.getElementById('time').textContent")
        tab.evaluate("document.getElementById('camera').click()")
        assert tab.evaluate("document.getElementById('live').hidden && !document.querySelector('video').srcObject")
    assert tab.complaints() == []


def test_two_clicks_open_one_camera_and_a_stop_is_no_error(bundle: Path, tab: Tab):
    script = """window.opened = 0; const media = MediaDevices.prototype, original = media.getUserMedia;
      media.getUserMedia = async function (wanted) {
        window.opened++; await new Promise((done) => setTimeout(done, 300)); return original.call(this, wanted); }"""
    tab("Page.addScriptToEvaluateOnNewDocument", source=script)
    with served(bundle) as url:
        opened(tab, url)
        ready = tab.evaluate("document.getElementById('status').textContent")
        for _ in range(2):
            tab.evaluate("document.getElementById('camera').click()")
        assert tab.evaluate("document.getElementById('camera').disabled")
        tab.wait_for("document.getElementById('camera').textContent == 'Stop camera'")
        assert tab.evaluate("window.opened") == 1
        tab.evaluate("document.getElementById('camera').click()")
        tab.evaluate("new Promise((done) => setTimeout(done, 500))")
        assert tab.evaluate("document.getElementById('status').textContent") == ready
    assert tab.complaints() == []


def test_a_video_that_does_not_play_is_an_error_and_closes_the_camera(bundle: Path, tab: Tab):
    script = """HTMLMediaElement.prototype.play = function () {
      window.track = this.srcObject.getTracks()[0]; return Promise.reject(new Error("not today")); }"""
    tab("Page.addScriptToEvaluateOnNewDocument", source=script)
    with served(bundle) as url:
        opened(tab, url)
        tab.evaluate("document.getElementById('camera').click()")
        tab.wait_for("document.getElementById('status').textContent == 'No camera: not today'")
    assert tab.evaluate("window.track.readyState") == "ended"
    assert not tab.evaluate("document.getElementById('camera').disabled")
    assert tab.complaints() == []


def test_images_that_were_labelled_are_counted_and_checked_files_are_named(bundle: Path, tab: Tab, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    Image.new("RGB", (30, 30), "red").save(tmp_path / "red.png")
    status = "document.getElementById('status').textContent"
    with served(bundle) as url:
        opened(tab, url)
        assert "iospec.json, labels.txt, model.onnx, ort-wasm-simd-threaded.wasm have their" in tab.evaluate(status)
        for files, text in ((("broken", "red"), "1 of 2 images labelled."), (("red",), "1 image labelled.")):
            tab.choose_files("#files", [tmp_path / f"{name}.png" for name in files])
            tab.wait_for(f"{status} == '{text}'")
            tab.wait_for("!document.getElementById('files').disabled")


def test_a_worker_that_dies_ends_what_waits_for_it(bundle: Path, tab: Tab, tmp_path: Path):
    script = """const Original = Worker; window.Worker = class extends Original {
      constructor(...all) { super(...all); window.worker = this; }
      postMessage(data, ...more) { if (data.load) super.postMessage(data, ...more); } }"""  # images are lost
    tab("Page.addScriptToEvaluateOnNewDocument", source=script)
    for name in ("first", "second"):
        Image.new("RGB", (30, 30), "red").save(tmp_path / f"{name}.png")
    with served(bundle) as url:
        opened(tab, url)
        tab.choose_files("#files", [tmp_path / "first.png", tmp_path / "second.png"])
        tab.wait_for("document.querySelectorAll('#results > li').length == 1")
        assert tab.evaluate("document.getElementById('files').disabled")
        tab.evaluate("window.worker.dispatchEvent(new ErrorEvent('error', {message: 'out of memory'}))")
        tab.wait_for("document.querySelector('#results .error')?.textContent == 'The model stopped: out of memory'")
    assert tab.evaluate("document.getElementById('status').textContent") == "The model stopped: out of memory"
    assert tab.evaluate("document.getElementById('files').disabled && document.getElementById('camera').disabled")
    assert tab.evaluate("document.querySelectorAll('#results > li').length") == 1


def test_without_https_the_page_says_what_the_camera_needs(bundle: Path, tab: Tab):
    """On an address that is not secure, browsers have no mediaDevices."""
    tab("Page.addScriptToEvaluateOnNewDocument", source="delete Navigator.prototype.mediaDevices")
    with served(bundle) as url:
        opened(tab, url)
    assert tab.evaluate("document.getElementById('camera').disabled")
    assert tab.evaluate("document.getElementById('camera-note').offsetHeight") > 0
    assert "HTTPS or localhost" in tab.evaluate("document.getElementById('camera-note').textContent")


def test_the_page_opened_as_a_file_says_what_to_do(bundle: Path, tab: Tab):
    tab("Page.navigate", url=(bundle / "index.html").as_uri())
    assert "python -m http.server" in tab.wait_for("document.getElementById('status')?.innerText")


def opened(tab: Tab, url: str) -> None:
    tab("Page.navigate", url=url)
    assert tab.wait_for(READY) is True


def labelled(tab: Tab, images: list[Path]) -> list[dict[str, Any]]:
    before = tab.evaluate("document.querySelectorAll('#results > li').length")
    tab.choose_files("#files", images)
    done = "document.querySelectorAll('#results .labels, #results .error').length"
    tab.wait_for(f"{done} >= {before + len(images)}")
    return json.loads(json.dumps(tab.evaluate(FOUND)))[before:]


def digit_pixels(index: int, side: int) -> Any:
    """A scanned digit, enlarged and slightly colored, (side, side, 3) uint8."""
    gray = Image.fromarray((load_digits().images[index] * 255 / 16).astype(np.uint8)).resize((side, side))
    return np.stack([np.asarray(gray) // divisor * divisor for divisor in (1, 2, 3)], axis=-1)


def photos_of_digits(folder: Path, suffix: str) -> Path:
    """Scanned digits as color photos of various sizes, in a folder for each class."""
    generator, digits = np.random.default_rng(0), load_digits()
    for index in range(900, 1350):
        path = folder / str(digits.target[index]) / f"{index:04d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = generator.integers(40, 160, 2)
        photo = Image.fromarray(digit_pixels(index, 80)).resize((int(width), int(height)))
        photo.save(path, quality=90)  # of JPEG files
    return folder
