"""Artifacts, which flow between stages: finished directories with a typed manifest; and the IOSpec of a model."""

from __future__ import annotations

import hashlib
import json
import posixpath
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from edgevit import bounds
from edgevit.errors import ArtifactError, first_line
from edgevit.frozen import Frozen as Frozen  # every record above this file takes it from here
from edgevit.model_file import (
    UNKNOWN_TARGET,
    ModelFile,
    TargetInfo,
    json_of_options,
    model_file_with,
    options_from_json,
)

Kind = Literal[
    "dataset", "checkpoint", "onnx", "engine", "evaluation", "latency", "check", "attention", "report", "bundle"
]
Json = dict[str, Any]

MODEL_KINDS: tuple[Kind, ...] = ("checkpoint", "onnx", "engine")
FILE_KINDS: tuple[Kind, ...] = ("onnx", "engine", "bundle")  # they have a ModelFile
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**27  # bytes
SENSITIVITY = "sensitivity.json"  # of a quantized model: the closeness to float with each layer alone quantized
EMBEDDING = "embedding"
MADE_AGAIN = "make it again with edgevit run or edgevit bundle"
LEARNED_TOO = "learned_too"  # tested images that models learned from: see data/duplicates.Overlap


def composed(name: str) -> str:
    """A class name in Unicode's composed form (NFC), in which names are compared. macOS decomposes folder names."""
    return unicodedata.normalize("NFC", name)


ClassName = Annotated[str, AfterValidator(composed)]


class TensorSpec(Frozen):
    """One named input or output. A dimension that may vary is a string ("batch")."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    layout: str = ""
    meaning: str = ""


_Mean = Annotated[float, bounds.CHANNEL_MEAN]
_Std = Annotated[float, bounds.CHANNEL_STD]


class Preprocess(Frozen):
    """The preprocessing of a uint8_image into the input tensor; only `edgevit.data.preprocess` reads it.

    `crop`: the shorter side is resized to size / crop_pct and the center is cut out. `squash`: both sides are resized
    to the size, whatever the aspect ratio. Values are scaled to 0..1, then (x - mean) / std. A model with
    `normalised_inside` scales and normalizes itself; its input is the resized uint8_image as uint8 (height, width, 3).
    """

    height: int
    width: int
    resize: Literal["crop", "squash"] = "crop"
    crop_pct: Annotated[float, bounds.CROP_SHARE] = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[_Mean, _Mean, _Mean] = (0.485, 0.456, 0.406)
    std: tuple[_Std, _Std, _Std] = (0.229, 0.224, 0.225)
    normalised_inside: bool = False


class IOSpec(Frozen):
    """Inputs, outputs, preprocessing and classes of a model. Training, evaluation and the shipped runner all read it.

    `numbers_are_names`: classes "0", "1", … are names that a data set or the user gave. Otherwise such numbers are the
    positions of unnamed outputs. The field is written only if it is true.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    classes: tuple[ClassName, ...]
    numbers_are_names: bool = False

    @model_serializer(mode="wrap")
    def _without_default(self, handler: SerializerFunctionWrapHandler) -> Json:
        fields: Json = handler(self)
        return {name: value for name, value in fields.items() if name != "numbers_are_names" or value}

    @classmethod
    def for_classifier(cls, preprocess: Preprocess, classes: tuple[str, ...], batch: int | str = "batch") -> IOSpec:
        """The spec of a model with input `image` (NCHW) and output `logits` (N, classes)."""
        image = TensorSpec(
            name="image", shape=(batch, 3, preprocess.height, preprocess.width), layout="NCHW", meaning="RGB image"
        )
        logits = TensorSpec(name="logits", shape=(batch, len(classes)), layout="NC", meaning="class scores")
        return cls(inputs=(image,), outputs=(logits,), preprocess=preprocess, classes=classes)

    def with_embedding(self, width: int) -> IOSpec:
        """A copy with a second output, `embedding` (N, width): the features that enter the classifier."""
        batch = self.outputs[0].shape[0]
        embedding = TensorSpec(name=EMBEDDING, shape=(batch, width), layout="NC", meaning="features")
        return self.model_copy(update={"outputs": (*self.outputs, embedding)})

    def taking_uint8_images(self) -> IOSpec:
        """A copy for a model that scales and normalizes itself: input `image` is uint8 (N, height, width, 3)."""
        rule, image = self.preprocess.model_copy(update={"normalised_inside": True}), self.inputs[0]
        shape = (image.shape[0], rule.height, rule.width, 3)
        uint8_image = image.model_copy(update={"shape": shape, "dtype": "uint8", "layout": "NHWC"})
        return self.model_copy(update={"inputs": (uint8_image,), "preprocess": rule})

    @property
    def has_embedding(self) -> bool:
        return any(output.name == EMBEDDING for output in self.outputs)

    def calling_its_classes(self, names: tuple[str, ...]) -> IOSpec:
        """A copy with these class names, in the order of the outputs."""
        classes = tuple(map(composed, names))
        return self.model_copy(update={"classes": classes, "numbers_are_names": classes == numbers(len(names))})

    @property
    def names_its_classes(self) -> bool:
        """Whether the classes have names, not only positions."""
        return self.numbers_are_names or self.classes != numbers(len(self.classes))


def numbers(count: int) -> tuple[str, ...]:
    """ "0", "1", …: the names of unnamed outputs."""
    return tuple(map(str, range(count)))


class FileEntry(Frozen):
    """One file of an artifact. Only files with `content` true enter the artifact's digest."""

    sha256: str
    size: int
    content: bool = True


class InputRef(Frozen):
    """A reference to an input: enough to find its directory in the same store."""

    id: str
    kind: Kind
    key: str
    digest: str


def _file_inside(name: str) -> str:
    """The name of a file, if it lies in the artifact's folder. Raises ValueError otherwise."""
    if posixpath.normpath(name).startswith(("..", "/")) or "\0" in name:
        raise ValueError("a file lies outside the artifact's folder")
    return name


FileName = Annotated[str, AfterValidator(_file_inside)]


class Manifest(Frozen):
    """The typed record in every finished directory. Its presence means finished.

    On disk it has one more field, `sha256`: the hash of all other fields as canonical JSON. Manifests of schema version
    1, from older versions of edgevit, do not have it. Those of versions 1 and 2 are read as version 3.
    """

    schema_version: Literal[3] = 3
    kind: Kind
    id: str
    key: str
    digest: str
    stage: str
    stage_version: int
    config: Json
    inputs: dict[str, InputRef] = {}
    ingredients: Json = {}
    files: dict[FileName, FileEntry] = {}
    metrics: Json = {}
    io: IOSpec | None = None
    model_file: ModelFile | None = None
    provenance: Json = {}


@dataclass(frozen=True)
class Contents:
    """The return value of a stage, after it has written its files into `out`.

    Every file under `out` is recorded. Files in `logs` (times, curves), `provenance` and `log_metrics` are not part of
    the content digest.

    Attributes:
        passed_on: the input whose model the stage passes on: the manifest names it as `model`, and no other model.
    """

    kind: Kind
    metrics: Json = field(default_factory=dict)
    log_metrics: Json = field(default_factory=dict)
    logs: tuple[str, ...] = ()
    io: IOSpec | None = None
    model_file: ModelFile | None = None
    provenance: Json = field(default_factory=dict)
    passed_on: str | None = None

    def __post_init__(self) -> None:
        if self.model_file and self.metrics.get("precision") != self.model_file.precision:
            raise ValueError(f"metrics.precision is not that of the file: {self.metrics.get('precision')}")


@dataclass(frozen=True)
class Artifact:
    """A finished directory and its manifest.

    Attributes:
        contents: sha256 of each uint8_image of a data set, concatenated; in memory only.
    """

    path: Path
    manifest: Manifest
    contents: bytes = b""

    @classmethod
    def load(cls, path: Path) -> Artifact:
        """Read the artifact in directory `path`. Raises ArtifactError if there is none, or it is not whole."""
        return cls(path.resolve(), read_manifest(path / MANIFEST))

    @property
    def kind(self) -> Kind:
        return self.manifest.kind

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def metrics(self) -> Json:
        return self.manifest.metrics

    @cached_property
    def io(self) -> IOSpec:
        if self.manifest.io is None:
            raise ArtifactError(f"a {self.kind} has no IOSpec", where=self.path, expected="a model")
        return self.manifest.io

    @property
    def model_file(self) -> ModelFile:
        """The record of the model's file. Raises ArtifactError if the artifact is not a file of a runtime."""
        if self.manifest.model_file is None:
            raise ArtifactError(f"a {self.kind} is no file of a runtime", where=self.path, expected="an ONNX file")
        return self.manifest.model_file

    @property
    def content_sha256(self) -> dict[str, str]:
        """The hash of each content file, by name."""
        return {name: entry.sha256 for name, entry in self.manifest.files.items() if entry.content}

    @property
    def is_compiled(self) -> bool:
        """Whether the model is a file that was compiled for one machine."""
        return self.manifest.model_file is not None and self.manifest.model_file.is_compiled

    def calling_its_classes(self, names: tuple[str, ...]) -> Artifact:
        """This model with other class names. Its file keeps the names that it was written with."""
        return self.with_io(self.io.calling_its_classes(names))

    def with_io(self, io: IOSpec) -> Artifact:
        """This model with another IOSpec. Its file keeps the IOSpec that it was written with."""
        return replace(self, manifest=self.manifest.model_copy(update={"io": io}))

    def with_model_file(self, model_file: ModelFile) -> Artifact:
        """This model with another record of its file. The file stays as it is."""
        return replace(self, manifest=self.manifest.model_copy(update={"model_file": model_file}))

    def ref(self) -> InputRef:
        return InputRef(id=self.id, kind=self.kind, key=self.manifest.key, digest=self.digest)

    def file(self, name: str) -> Path:
        """The path of a file of this artifact, after a check of its size and hash.

        Raises ArtifactError if the artifact has no such file, or the file changed since it was made.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(
                f"no file '{name}' in this {self.kind}", where=self.path, expected=", ".join(self.manifest.files)
            )
        path = self.path / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry.size:
            got = "no file" if size is None else f"{size:,} bytes"
            raise self._altered(path, got, f"{entry.size:,} bytes")
        if (got := sha256_of_file(path)) != entry.sha256:
            raise self._altered(path, f"sha256 {got}", f"sha256 {entry.sha256}")
        return path

    def _altered(self, path: Path, got: str, expected: str) -> ArtifactError:
        again = f"make it again: edgevit run RECIPE --fresh {self.id}"
        return ArtifactError(
            "the file was altered after it was made", where=path, got=got, expected=expected, next=again
        )


def read_manifest(file: Path) -> Manifest:
    """The manifest in a file. Raises ArtifactError if there is none, or it changed since it was written."""
    try:
        if file.stat().st_size > LARGEST_MANIFEST:
            raise ValueError(f"{file.stat().st_size:,} bytes, more than {LARGEST_MANIFEST:,}")
        fields = json.loads(file.read_bytes())
        digest = fields.pop("sha256", None)
        got = sha256_of(fields)
        manifest = Manifest.model_validate(_of_schema_3(fields))
    except (FileNotFoundError, NotADirectoryError):
        expected = f"a {MANIFEST}"
        raise ArtifactError("there is no finished artifact here", where=file.parent, expected=expected) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else first_line(error)
        raise ArtifactError(f"{MANIFEST} cannot be read: {reason}", where=file, next=MADE_AGAIN) from None
    if digest != got and not (digest is None and fields.get("schema_version") == 1):
        raise ArtifactError(
            f"{MANIFEST} was altered after it was written",
            where=file,
            got=f"sha256 {got}",
            expected="no sha256" if digest is None else f"sha256 {digest}",
            next=MADE_AGAIN,
        )
    return manifest


def _of_schema_3(fields: Json) -> Json:
    """The fields of a manifest of any schema version. Versions 1 and 2 have session options and no ModelFile."""
    if fields.get("schema_version") not in (1, 2):
        return fields
    kept = {name: value for name, value in fields.items() if name != "session_options"}
    model_file = _model_file_of_schema_2(fields) if fields.get("kind") in FILE_KINDS else None
    return {**kept, "schema_version": 3, "model_file": model_file}


def _model_file_of_schema_2(fields: Json) -> ModelFile:
    precision = fields.get("metrics", {}).get("precision") or "float32"
    # Float32 graphs that OpenVINO computes in bfloat16 had this precision. No file stores bfloat16.
    weight_precision = "float32" if precision == "bfloat16" else precision
    file = model_file_with(options_from_json(fields.get("session_options", {})), weight_precision)
    if fields["kind"] != "engine":
        return file
    target = fields.get("ingredients", {}).get("target")
    bound_to = TargetInfo.model_validate(target) if target else UNKNOWN_TARGET
    return file.model_copy(update={"bound_to": bound_to})


def manifest_text(manifest: Manifest) -> str:
    """The text of a manifest, as `read_manifest` reads it."""
    fields = json.loads(manifest.model_dump_json())
    return json.dumps({**fields, "sha256": sha256_of(fields)}, indent=1, ensure_ascii=False)


def ancestors(artifact: Artifact) -> list[Artifact]:
    """Every ancestor of `artifact` in the same store, parents before children, and `artifact` itself last.

    An artifact of a store lies in <store>/<key>/<digest>. Data sets of a recipe have no directory and are left out.

    Raises:
        ArtifactError: a manifest of an ancestor was altered, or an artifact is its own ancestor.
    """
    store = artifact.path.parent.parent
    complete: dict[str, Artifact] = {}
    branch = {artifact.digest: (artifact, iter(artifact.manifest.inputs.values()))}
    while branch:
        child, refs = branch[next(reversed(branch))]
        parents = (in_store(store, ref.key, ref.digest) for ref in refs if ref.digest not in complete)
        parent = next(filter(None, parents), None)
        if parent is None:
            complete[child.digest] = branch.pop(child.digest)[0]
        elif parent.digest in branch:
            raise ArtifactError(f"its inputs lead back to itself, by '{child.id}'", where=parent.path, next=MADE_AGAIN)
        else:
            branch[parent.digest] = (parent, iter(parent.manifest.inputs.values()))
    return list(complete.values())


def before_selection(model: Artifact) -> Artifact:
    """The model that `select` stages passed on as `model`: the result of the stage that made it."""
    while model.manifest.stage == "select":
        ref = model.manifest.inputs["model"]
        made = in_store(model.path.parent.parent, ref.key, ref.digest)
        if made is None:
            return model
        model = made
    return model


def in_store(store: Path, key: str, digest: str) -> Artifact | None:
    """The artifact of this key and digest in a store; None if there is none.

    Raises ArtifactError if its manifest was altered, or belongs to another folder.
    """
    folder = store / key / digest
    if not (folder / MANIFEST).is_file():
        return None
    artifact = Artifact.load(folder)
    recorded, of_folder = (artifact.manifest.key, artifact.digest), (folder.parent.name, folder.name)
    if not recorded == of_folder == (key, digest):
        raise ArtifactError(
            "this is the result of another stage", where=folder, got="/".join(recorded), expected=f"{key}/{digest}"
        )
    return artifact


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of(value: object) -> str:
    """Hex digest of the canonical JSON of `value`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_digest(contents: Contents, files: Mapping[str, FileEntry]) -> str:
    """Digest of an artifact's content: its content files, metrics, IOSpec and session options."""
    return sha256_of(
        {
            "kind": contents.kind,
            "files": {name: entry.sha256 for name, entry in files.items() if entry.content},
            "metrics": contents.metrics,
            "io": contents.io.model_dump(mode="json") if contents.io else None,
            "session_options": json_of_options(contents.model_file.options) if contents.model_file else {},
        }
    )
