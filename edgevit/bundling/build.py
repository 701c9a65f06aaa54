"""Write a bundle: the model, its description, and the programs that run it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import onnx

from edgevit.artifacts import Artifact, Json, sha256_of_file
from edgevit.bundling.classes import ClassImages, write_classes
from edgevit.bundling.engine_record import copy_engine, engine_record, readme_values
from edgevit.bundling.infer import ENGINE
from edgevit.bundling.prototypes import FILE as CLASSES
from edgevit.bundling.prototypes import rates
from edgevit.bundling.requirements import OF_JETPACK, ONNX_REQUIREMENTS, packages_of, requirements_text
from edgevit.bundling.runner import ENGINE_RUNNER, ENROLLING, HERE, RECORD, RUNNER, write_runner
from edgevit.bundling.serving import SERVERS, serving_files
from edgevit.bundling.web import LICENCE, Page, write_page
from edgevit.errors import ArtifactError
from edgevit.graphs.files import copy_onnx
from edgevit.model_file import ONNX_FILE, json_of_options
from edgevit.progress import Progress, SilentProgress
from edgevit.provenance import version_of
from edgevit.runtimes.base import runtime_of
from edgevit.version import __version__

MODEL_LICENCE = (
    "model.onnx: depends on the licenses of its first weights and of its training images, which are not recorded here."
)
ENGINE_LICENCE = "model.engine: as model.onnx; it holds code of NVIDIA's TensorRT, to which NVIDIA's license applies."
PORTABLE = "A portable ONNX file: any machine with this runtime runs it."
WITH_ENGINE = "A TensorRT engine for the machine that built it, and its ONNX file for any machine."
MACHINE_SPECIFIC = (
    "This graph was optimized for the machine it was compiled and measured on. Other machines may refuse it or run it "
    "slowly. For a portable bundle, bundle the ONNX file that it was compiled from."
)


def write_bundle(
    model: Artifact,
    out: Path,
    images: ClassImages | None = None,
    progress: Progress | None = None,
    page: Page | None = None,
    engine: Artifact | None = None,
    serve: Collection[str] = (),
) -> Json:
    """Write the model, its labels and IOSpec, a runner, and a record of them into `out`; returns the bundle's metrics.

    Args:
        images: labelled images of each class, so that classes can be added later.
        page: adds a page for browsers.
        engine: the TensorRT engine that was built from the model, which `infer.py` then runs.
        serve: names of `serving.SERVERS`, whose files are added.

    Raises:
        ArtifactError: the model file was altered, a class name cannot be a line of labels.txt, there is a support set
            and the model has no embedding output, or an engine, or a program of `serve` cannot serve the model.
        DataError: images are unlabelled or too many, or their classes are not the model's.
    """
    say, extras = progress or SilentProgress(), _Extras(images, page, engine, serve)
    _write_model(model, out, extras)
    _write_texts(model, out, extras)
    write_runner(out, extras.programs)
    web = None if page is None else write_page(model, out, page, say)
    files: dict[str, Json] = {
        path.name: {"sha256": sha256_of_file(path), "size": path.stat().st_size} for path in sorted(out.iterdir())
    }
    record = _record(model, files)
    if web is not None:
        record["web"] = web
        record["licences"].append(LICENCE)
    if engine is not None:
        record["engine"] = engine_record(engine)
        record["licences"].append(ENGINE_LICENCE)
    metrics: Json = {"precision": model.model_file.precision, "runtime": runtime_of(engine or model)}
    if images is not None:
        classes = write_classes(model, images, out, say)
        metrics["nearest_class"] = asdict(rates(classes))
        record["changeable"] = {CLASSES: {"sha256_as_bundled": classes.sha256, "images": len(classes.labels)}}
        record["nearest_class"] = metrics["nearest_class"]
    size_bytes = sum(path.stat().st_size for path in out.iterdir())
    _write_json(out / RECORD, record)
    return {**metrics, "size_bytes": size_bytes}


@dataclass(frozen=True)
class _Extras:
    """The parts that not every bundle has: the arguments of `write_bundle`."""

    images: ClassImages | None
    page: Page | None
    engine: Artifact | None
    serve: Collection[str]

    @property
    def programs(self) -> Mapping[str, Path]:
        """The Python programs, by their names in the bundle."""
        programs = dict(RUNNER)
        if self.images is not None:
            programs |= ENROLLING
        if self.engine is not None:
            programs |= ENGINE_RUNNER
        return programs


def _write_model(model: Artifact, out: Path, extras: _Extras) -> None:
    """The ONNX file, the engine, and their description."""
    if extras.engine is not None:
        if extras.images is not None:
            raise _engine_with_support(extras.engine)
        copy_engine(extras.engine, out)
    copy_onnx(model, out / ONNX_FILE)
    (out / "labels.txt").write_text(_labels(model), encoding="utf-8", newline="\n")
    _write_json(out / "iospec.json", model.io.model_dump(mode="json"))


def _write_texts(model: Artifact, out: Path, extras: _Extras) -> None:
    """The requirements, the README, and files for other programs."""
    requirements = _requirements(model, out / ONNX_FILE)
    texts = {"requirements.txt": requirements}
    if extras.engine is not None:
        texts = {"requirements.txt": OF_JETPACK, ONNX_REQUIREMENTS: requirements}
    texts |= serving_files(extras.serve, model, extras.engine)
    texts["README.md"] = _readme(model, extras)
    for name, text in texts.items():
        (out / name).write_text(text, encoding="utf-8")


def _labels(model: Artifact) -> str:
    for name in model.io.classes:
        if name.splitlines() != [name]:
            raise ArtifactError("a class name has to fit on one line of labels.txt", where=model.path, got=repr(name))
    return "".join(f"{name}\n" for name in model.io.classes)


def _record(model: Artifact, files: Json) -> Json:
    programs = [name for name in files if name.endswith((".py", ".cpp", ".hpp"))]
    return {
        "format": "edgevit-bundle",
        "format_version": 1,
        "files": files,
        "runtime": {
            "name": runtime_of(model),
            "verified_with": {name: version_of(name) for name in packages_of(runtime_of(model))},
        },
        "session_options": json_of_options(model.model_file.options),
        "model": {
            "id": model.id,
            "kind": model.kind,
            "portable": not model.is_compiled,
            "note": _note(model),
            "metrics": model.metrics,
        },
        "provenance": {
            "edgevit": __version__,
            "key": model.manifest.key,
            "digest": model.digest,
            "stage": model.manifest.stage,
            "inputs": {name: ref.model_dump() for name, ref in model.manifest.inputs.items()},
        },
        "licences": [f"{', '.join(programs)}: Apache-2.0, from edgevit.", MODEL_LICENCE],
    }


def _note(model: Artifact) -> str:
    return MACHINE_SPECIFIC if model.is_compiled else PORTABLE


def _requirements(model: Artifact, shipped: Path) -> str:
    return requirements_text(runtime_of(model), onnx.load(shipped, load_external_data=False), model.is_compiled)


def _readme(model: Artifact, extras: _Extras) -> str:
    spec, engine = model.io, extras.engine
    parts = {"engine": engine, "enroll": extras.images, "web": extras.page}
    names = ["README.txt", *(f"README.{name}.txt" for name, of in parts.items() if of is not None)]
    names += [f"README.{name}.txt" for name in SERVERS if name in extras.serve]
    return "".join((HERE / name).read_text(encoding="utf-8") for name in names).format(
        note=WITH_ENGINE if engine is not None else _note(model),
        classes=len(spec.classes),
        height=spec.preprocess.height,
        width=spec.preprocess.width,
        served=ONNX_FILE if engine is None else ENGINE,
        **(readme_values(engine) if engine is not None else {}),
    )


def _engine_with_support(engine: Artifact) -> ArtifactError:
    return ArtifactError(
        "a bundle that takes classes holds no TensorRT engine: its rates are those of the ONNX file",
        where=engine.id,
        next="leave compiled out, or support",
    )


def _write_json(path: Path, value: Json) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
