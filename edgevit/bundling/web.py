"""The page of a bundle: labels images in a browser, with ONNX Runtime Web on WebAssembly."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact, Json
from edgevit.bundling.runner import PAGE
from edgevit.configs import Bundle
from edgevit.configs.runtimes import ONNXRUNTIME
from edgevit.disks import cache_folder, whole_or_not_at_all
from edgevit.errors import ArtifactError, MissingDependency, first_line
from edgevit.progress import Progress
from edgevit.runtimes.base import runtime_of

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
# Of that version's folder dist: the JavaScript and the WebAssembly of the CPU alone.
RUNTIME_FILES = {
    "ort.wasm.bundle.min.mjs": "11e64bd8ffe11bd1a2a2f0d6275fdfbbba7262f0b76b99b53d228a8a22ef3d90",
    "ort-wasm-simd-threaded.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
LARGEST_RUNTIME_FILE = 2**25  # bytes
DOWNLOAD_SECONDS = 600
# npm alone tries for minutes where there is no network.
NPM_LIMITS = ("--fetch-timeout=120000", "--fetch-retries=1", "--fetch-retry-mintimeout=1000")  # milliseconds
LICENCE = (
    f"{', '.join(RUNTIME_FILES)}: MIT, Copyright (c) Microsoft Corporation, from {PACKAGE} {VERSION}; "
    "the text is in onnxruntime-web.LICENSE.txt."
)


@dataclass(frozen=True)
class Page:
    """The page for browsers.

    Attributes:
        runtime: a folder with the files of ONNX Runtime Web; None to get its package from npm.
    """

    runtime: Path | None = None

    @classmethod
    def of(cls, config: Bundle) -> Page | None:
        """The page of a stage; None if it has none."""
        runtime = None if config.web_runtime is None else Path(config.web_runtime)
        return cls(runtime) if config.web else None


def write_page(model: Artifact, out: Path, page: Page, progress: Progress) -> Json:
    """Write the page and its runtime into a bundle's folder; returns their entry in bundle.json.

    Raises:
        ArtifactError: the model was made for another runtime, or a file of the runtime is missing or has another hash.
        MissingDependency: npm is not installed, or does not get the package.
    """
    check_page_runtime(runtime_of(model), model.id)
    for name, content in runtime_files(page, progress).items():
        (out / name).write_bytes(content)
    for source in PAGE.iterdir():
        shutil.copyfile(source, out / source.name)
    return {"page": "index.html", "runtime": PACKAGE, "version": VERSION}


def check_page_runtime(runtime: str, model_id: str) -> None:
    """Raise ArtifactError unless the model was made for ONNX Runtime."""
    if runtime != ONNXRUNTIME.name:
        raise ArtifactError(
            "the page runs models in ONNX Runtime Web",
            where=model_id,
            got=f"a model for {runtime}",
            expected=f"a model for {ONNXRUNTIME.name}",
        )


def runtime_files(page: Page, progress: Progress) -> dict[str, bytes]:
    """The files of ONNX Runtime Web: from the page's folder, or the user's cache folder, or else from npm.

    The cache folder keeps the files that npm gets.

    Raises:
        ArtifactError: a file is missing, or has another hash.
        MissingDependency: npm is not installed, or does not get the package.
    """
    if page.runtime is not None:
        return _runtime_in_folder(page.runtime)
    contents = _kept_runtime()
    if contents is None:
        contents = _runtime_from_npm(progress)
        _keep(contents)
    return contents


def _kept_runtime() -> dict[str, bytes] | None:
    """The files in the user's cache folder; None if one is missing, or has another hash."""
    folder = _kept_folder()
    try:
        return None if folder is None else _runtime_in_folder(folder)
    except (ArtifactError, OSError):
        return None


def _keep(contents: Mapping[str, bytes]) -> None:
    """Keep the files in the user's cache folder. Where it cannot be written, nothing is kept."""
    folder = _kept_folder()
    if folder is None:
        return
    with suppress(OSError):
        for name, content in contents.items():
            with whole_or_not_at_all(folder / name) as part:
                part.write_bytes(content)


def _kept_folder() -> Path | None:
    folder = cache_folder()
    return None if folder is None else folder / f"{PACKAGE}-{VERSION}"


def _runtime_in_folder(folder: Path) -> dict[str, bytes]:
    """The runtime's files in a folder, or in the folder `dist` of the unpacked package."""
    contents = {}
    for name in RUNTIME_FILES:
        file = next((file for file in (folder / name, folder / "dist" / name) if file.is_file()), None)
        if file is None:
            raise ArtifactError(
                f"there is no {name} in the folder",
                where=folder,
                expected=f"the folder dist of {PACKAGE} {VERSION}",
                next=f"npm pack {PACKAGE}@{VERSION}, and unpack it",
            )
        with file.open("rb") as opened:
            contents[name] = _checked(name, opened.read(LARGEST_RUNTIME_FILE + 1), file)
    return contents


def _runtime_from_npm(progress: Progress) -> dict[str, bytes]:
    """The runtime's files in the package that npm gets. Its cache answers where it has the package."""
    npm = shutil.which("npm")
    if npm is None:
        raise _unavailable("npm is not installed", None)
    progress.say(f"getting {PACKAGE} {VERSION} with npm")
    with TemporaryDirectory(prefix="edgevit-") as folder:
        options = ["--pack-destination", folder, "--ignore-scripts", "--prefer-offline", "--loglevel=error"]
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", *options, *NPM_LIMITS]
        try:
            ended = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise _unavailable(f"npm did not get the package within {DOWNLOAD_SECONDS} s", None) from None
        packages = list(Path(folder).glob("*.tgz"))
        if ended.returncode != 0 or len(packages) != 1:
            raise _unavailable("npm did not get the package", ended.stderr.strip()[-300:] or None)
        return _runtime_in_package(packages[0])


def _runtime_in_package(package: Path) -> dict[str, bytes]:
    contents = {}
    try:
        with tarfile.open(package) as archive:
            for name in RUNTIME_FILES:
                member = archive.extractfile(f"package/dist/{name}")
                content = member.read(LARGEST_RUNTIME_FILE + 1) if member else b""
                contents[name] = _checked(name, content, package)
    except (tarfile.TarError, KeyError, EOFError, OSError) as error:
        raise ArtifactError(f"the package cannot be read: {first_line(error)}", where=package.name) from None
    return contents


def _checked(name: str, content: bytes, where: Path) -> bytes:
    """The content of a file. Raises ArtifactError unless it has the hash of this version."""
    got = hashlib.sha256(content).hexdigest()
    if got != RUNTIME_FILES[name]:
        raise ArtifactError(
            f"{name} is not the file of {PACKAGE} {VERSION}",
            where=where,
            got=f"sha256 {got}",
            expected=f"sha256 {RUNTIME_FILES[name]}",
        )
    return content


def _unavailable(what: str, got: str | None) -> MissingDependency:
    return MissingDependency(
        f"{what}; the page needs {PACKAGE} {VERSION}",
        got=got,
        next="install Node.js with npm; or --web-runtime FOLDER (in a recipe web_runtime): the package's folder dist",
    )
