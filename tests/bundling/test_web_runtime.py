"""ONNX Runtime Web in a bundle: only files with the known hashes are taken, from npm's package or from a folder."""

import hashlib
import io
import json
import stat
import tarfile
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from edgevit.bundling import Page, web, write_bundle
from edgevit.bundling.runner import PAGE
from edgevit.cli import app
from edgevit.configs import Bundle, with_absolute_files
from edgevit.errors import ArtifactError, EdgevitError, MissingDependency
from edgevit.model_file import OpenvinoOptions
from edgevit.progress import SilentProgress
from edgevit.store import ingredients
from tests.bundling.small_model import small_model

RECIPE = """\
name: paged
datasets: {{digits: {{source: digits}}}}
stages:
  - {{stage: load, id: model, model: resnet10t, classes_of: digits}}
  - {{stage: export, id: onnx, model: model, runtime: {runtime}}}
  - {{stage: bundle, id: bundle, model: onnx, web: true{fields}}}
"""
CONTENTS = {name: f"the file {name}".encode() for name in web.RUNTIME_FILES}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small files in place of the runtime's 14 MB; the tests in Chromium take the real ones."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()}
    monkeypatch.setattr(web, "RUNTIME_FILES", hashes)


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("EDGEVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("below", [".", "dist"])
def test_a_folder_of_the_runtime_is_taken(known: None, below: str, tmp_path: Path):
    bundle = bundled(tmp_path, Page(runtime_folder(tmp_path / "package", below, CONTENTS)))
    record = json.loads((bundle / "bundle.json").read_text())
    assert record["web"] == {"page": "index.html", "runtime": "onnxruntime-web", "version": web.VERSION}
    assert {path.name for path in PAGE.iterdir()} | CONTENTS.keys() <= record["files"].keys()
    assert all((bundle / name).read_bytes() == content for name, content in CONTENTS.items())
    assert "Copyright (c) Microsoft Corporation" in (bundle / "onnxruntime-web.LICENSE.txt").read_text()
    assert any("MIT" in licence and "onnxruntime-web" in licence for licence in record["licences"])
    assert "python -m http.server" in (bundle / "README.md").read_text()


def test_a_file_with_another_hash_is_refused(known: None, tmp_path: Path):
    altered = CONTENTS | {"ort.wasm.bundle.min.mjs": b"something else"}
    with pytest.raises(ArtifactError, match=r"ort\.wasm\.bundle\.min\.mjs is not the file") as caught:
        bundled(tmp_path, Page(runtime_folder(tmp_path / "package", ".", altered)))
    assert hashlib.sha256(b"something else").hexdigest() in str(caught.value)


def test_a_folder_without_the_runtime_is_refused(tmp_path: Path):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        with pytest.raises(ArtifactError, match="there is no"):
            web.write_page(small_model(tmp_path / "model"), tmp_path, Page(folder), SilentProgress())


def test_the_package_that_npm_gets_is_taken(known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_npm(tmp_path, monkeypatch, package_of({f"package/dist/{name}": content for name, content in CONTENTS.items()}))
    bundle = bundled(tmp_path, Page())
    assert all((bundle / name).read_bytes() == content for name, content in CONTENTS.items())
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith(f"pack onnxruntime-web@{web.VERSION} ")
    assert "--ignore-scripts" in asked


def test_npm_is_asked_once_and_a_damaged_file_is_fetched_again(
    known: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fake_npm(tmp_path, monkeypatch, package_of({f"package/dist/{name}": content for name, content in CONTENTS.items()}))
    assert web.runtime_files(Page(), SilentProgress()) == CONTENTS
    (tmp_path / "asked").unlink()
    assert web.runtime_files(Page(), SilentProgress()) == CONTENTS
    assert not (tmp_path / "asked").exists()
    next(cache.glob("*/*.wasm")).write_bytes(b"damaged")
    assert web.runtime_files(Page(), SilentProgress()) == CONTENTS
    assert "--fetch-retries=1" in (tmp_path / "asked").read_text()


def test_a_cache_folder_that_cannot_be_written_is_no_error(
    known: None, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cache.write_text("a file")
    fake_npm(tmp_path, monkeypatch, package_of({f"package/dist/{name}": content for name, content in CONTENTS.items()}))
    assert web.runtime_files(Page(), SilentProgress()) == CONTENTS


@pytest.mark.parametrize("dry", [True, False])
@pytest.mark.parametrize(
    ("fields", "runtime", "problem"),
    [
        ("web_runtime: empty", "onnxruntime", "there is no ort.wasm.bundle.min.mjs in the folder"),
        ("", "onnxruntime", "npm is not installed"),
        ("", "openvino", "got: a model for openvino"),
    ],
)
def test_a_page_that_cannot_be_made_is_known_before_the_first_stage(
    fields: str, runtime: str, problem: str, dry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "empty").mkdir()
    (file := tmp_path / "recipe.yaml").write_text(RECIPE.format(runtime=runtime, fields=fields and f", {fields}"))
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    options = ["--dry-run"] if dry else []
    with pytest.raises(EdgevitError) as caught:
        CliRunner().invoke(app, ["run", str(file), "--runs", str(tmp_path / "runs"), *options], catch_exceptions=False)
    assert problem in str(caught.value)
    assert not list((tmp_path / "runs").glob("*/model"))


@pytest.mark.parametrize("content", [b"no archive", b""])
def test_a_damaged_package_is_refused(known: None, content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_npm(tmp_path, monkeypatch, content)
    with pytest.raises(ArtifactError, match="cannot be read"):
        bundled(tmp_path, Page())


def test_a_package_without_the_files_is_refused(known: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_npm(tmp_path, monkeypatch, package_of({"package/dist/other.js": b"1"}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        bundled(tmp_path, Page())


def test_without_npm_the_error_names_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependency, match="npm is not installed") as caught:
        bundled(tmp_path, Page())
    assert "--web-runtime FOLDER" in str(caught.value)


def test_npm_without_a_network_is_an_error_that_quotes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    fake_npm(tmp_path, monkeypatch, None)
    with pytest.raises(MissingDependency, match="npm did not get the package") as caught:
        bundled(tmp_path, Page())
    assert "no network today" in str(caught.value)


def test_a_model_for_another_runtime_gets_no_page(tmp_path: Path):
    model = small_model(tmp_path / "model", options=OpenvinoOptions())
    with pytest.raises(ArtifactError, match="ONNX Runtime Web"):
        web.write_page(model, tmp_path, Page(), SilentProgress())


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"web": True, "support": "d.support"}, "web and support do not go together"),
        ({"web": True, "compiled": True}, "web and compiled do not go together"),
        ({"web_runtime": "dist"}, "needs web: true"),
    ],
)
def test_options_that_do_not_fit_are_refused(fields: dict[str, Any], problem: str):
    with pytest.raises(ValueError, match=problem):
        Bundle.model_validate({"stage": "bundle", "id": "bundle", "model": "m", **fields})


def test_the_folder_starts_from_the_recipe_and_does_not_enter_the_key(tmp_path: Path):
    config = Bundle(stage="bundle", id="bundle", model="model", web=True, web_runtime="dist")
    absolute = with_absolute_files(config, tmp_path)
    assert absolute.web_runtime == str(tmp_path / "dist")
    model = {"model": small_model(tmp_path / "model")}
    plain = config.model_copy(update={"web_runtime": None})
    assert ingredients(absolute, model, None, None) == ingredients(plain, model, None, None)


def bundled(folder: Path, page: Page) -> Path:
    (out := folder / "bundle").mkdir()
    write_bundle(small_model(folder / "model"), out, page=page)
    return out


def runtime_folder(folder: Path, below: str, contents: dict[str, bytes]) -> Path:
    (folder / below).mkdir(parents=True)
    for name, content in contents.items():
        (folder / below / name).write_bytes(content)
    return folder


def package_of(contents: dict[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, content in contents.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def fake_npm(folder: Path, monkeypatch: pytest.MonkeyPatch, package: bytes | None) -> None:
    """An npm that writes a package where it is told to; None: it fails, as without a network."""
    (tools := folder / "tools").mkdir()
    ending = "echo 'no network today' >&2; exit 1"
    if package is not None:
        (folder / "package.tgz").write_bytes(package)
        ending = f'cp {folder / "package.tgz"} "$4"/'
    npm = tools / "npm"
    npm.write_text(f'#!/bin/sh\necho "$@" > {folder / "asked"}\n{ending}\n')
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
