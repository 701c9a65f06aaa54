"""What flows between stages: finished directories with a typed manifest, and the IOSpec of a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from edgevit.errors import ArtifactError

Kind = Literal["dataset", "checkpoint", "onnx", "engine", "evaluation", "latency", "check", "report", "bundle"]
Json = dict[str, Any]

MANIFEST = "manifest.json"
SENSITIVITY = "sensitivity.json"  # of a quantized model: what each layer costs
EMBEDDING = "embedding"


class Frozen(BaseModel):
    """Base of every record that is written to disk: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorSpec(Frozen):
    """One named input or output. A dimension that may vary is a string ("batch")."""

    name: str
    shape: tuple[int | str, ...]
    dtype: str = "float32"
    layout: str = ""
    meaning: str = ""


_AboveZero = Annotated[FiniteFloat, Field(gt=0)]


class Preprocess(Frozen):
    """How a picture becomes the input tensor; `edgevit.data.preprocess` is the only code that reads it.

    `crop`: the shorter side is resized to size / crop_pct and the centre is cut out; `squash`: both sides
    are resized to the size, whatever the aspect ratio. Values are scaled to 0..1, then (x - mean) / std; a model with
    `normalised_inside` does that itself, and takes the resized picture as uint8 (height, width, 3).
    """

    height: int
    width: int
    resize: Literal["crop", "squash"] = "crop"
    crop_pct: _AboveZero = 1.0
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bicubic"
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat] = (0.485, 0.456, 0.406)
    std: tuple[_AboveZero, _AboveZero, _AboveZero] = (0.229, 0.224, 0.225)
    normalised_inside: bool = False


class IOSpec(Frozen):
    """The one record that training, calibration, evaluation and the shipped runner all read.

    `numbers_are_names`: classes "0", "1", … are names that a data set or the user gave. Otherwise such numbers are the
    positions of outputs that nobody named. It is written only where it is true.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    preprocess: Preprocess
    classes: tuple[str, ...]
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
        """The same with a second output, `embedding` (N, width): what enters the classifier."""
        batch = self.outputs[0].shape[0]
        embedding = TensorSpec(name=EMBEDDING, shape=(batch, width), layout="NC", meaning="features")
        return self.model_copy(update={"outputs": (*self.outputs, embedding)})

    def taking_pictures(self) -> IOSpec:
        """The same for a model that scales and normalises itself: input `image` is uint8 (N, height, width, 3)."""
        rule, image = self.preprocess.model_copy(update={"normalised_inside": True}), self.inputs[0]
        shape = (image.shape[0], rule.height, rule.width, 3)
        taken = image.model_copy(update={"shape": shape, "dtype": "uint8", "layout": "NHWC"})
        return self.model_copy(update={"inputs": (taken,), "preprocess": rule})

    @property
    def has_embedding(self) -> bool:
        return any(output.name == EMBEDDING for output in self.outputs)

    def calling_its_classes(self, names: tuple[str, ...]) -> IOSpec:
        """A copy whose outputs have these names, in their order."""
        return self.model_copy(update={"classes": names, "numbers_are_names": names == numbers(len(names))})

    @property
    def names_its_classes(self) -> bool:
        """Whether the classes have names, and not the positions of the outputs alone."""
        return self.numbers_are_names or self.classes != numbers(len(self.classes))


def numbers(count: int) -> tuple[str, ...]:
    """ "0", "1", …: what outputs are called that nobody named."""
    return tuple(map(str, range(count)))


class FileEntry(Frozen):
    """One file of an artifact. Only files with `content` true enter the artifact's digest."""

    sha256: str
    size: int
    content: bool = True


class InputRef(Frozen):
    """Where an input came from: enough to find its directory in the same store."""

    id: str
    kind: Kind
    key: str
    digest: str


class Manifest(Frozen):
    """The typed record in every finished directory; its presence means finished."""

    schema_version: Literal[1] = 1
    kind: Kind
    id: str
    key: str
    digest: str
    stage: str
    stage_version: int
    config: Json
    inputs: dict[str, InputRef] = {}
    ingredients: Json = {}
    files: dict[str, FileEntry] = {}
    metrics: Json = {}
    io: IOSpec | None = None
    session_options: Json = {}
    provenance: Json = {}


@dataclass(frozen=True)
class Contents:
    """What a stage hands back after it has written its files into `out`.

    Every file under `out` is recorded. Those named in `logs` (times, curves, rates of making it) stay out of the
    content digest, as do `provenance` and the names in `log_metrics`.
    """

    kind: Kind
    metrics: Json = field(default_factory=dict)
    log_metrics: Json = field(default_factory=dict)
    logs: tuple[str, ...] = ()
    io: IOSpec | None = None
    session_options: Json = field(default_factory=dict)
    provenance: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Artifact:
    """A finished directory and its manifest."""

    path: Path
    manifest: Manifest

    @classmethod
    def load(cls, path: Path) -> Artifact:
        """Read the artifact in directory `path`. Raises ArtifactError if there is none, or none that is whole."""
        file = path / MANIFEST
        try:
            manifest = Manifest.model_validate_json(file.read_bytes())
        except FileNotFoundError:
            raise ArtifactError("there is no finished artifact here", where=path, expected=f"a {MANIFEST}") from None
        except ValidationError as error:
            raise ArtifactError(f"{MANIFEST} cannot be read: {error.errors()[0]['msg']}", where=file) from None
        return cls(path.resolve(), manifest)

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

    def calling_its_classes(self, names: tuple[str, ...]) -> Artifact:
        """The same model with other names for its classes; its file keeps those that it was written with."""
        io = self.io.calling_its_classes(names)
        return replace(self, manifest=self.manifest.model_copy(update={"io": io}))

    def without_class_names(self) -> Artifact:
        """The same model, classes "0", "1", … of which are the positions of its outputs, and no names."""
        io = self.io.model_copy(update={"numbers_are_names": False})
        return replace(self, manifest=self.manifest.model_copy(update={"io": io}))

    def ref(self) -> InputRef:
        return InputRef(id=self.id, kind=self.kind, key=self.manifest.key, digest=self.digest)

    def file(self, name: str) -> Path:
        """The path of one of this artifact's files, after its hash has been checked.

        Raises ArtifactError if the artifact holds no such file, or if it changed since it was made.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise ArtifactError(
                f"no file '{name}' in this {self.kind}", where=self.path, expected=", ".join(self.manifest.files)
            )
        path = self.path / name
        got = sha256_of_file(path) if path.is_file() else "no file"
        if got != entry.sha256:
            raise ArtifactError(
                "the file was altered after it was made",
                where=path,
                got=f"sha256 {got}",
                expected=f"sha256 {entry.sha256}",
                next=f"make it again: edgevit run RECIPE --fresh {self.id}",
            )
        return path


def ancestors(artifact: Artifact) -> list[Artifact]:
    """Every artifact behind `artifact` that lies in the same store, parents before children, itself last.

    An artifact of a store lies in <store>/<key>/<digest>; data sets of a recipe have no directory and are left out.
    """
    store = artifact.path.parent.parent
    found: dict[str, Artifact] = {}

    def visit(one: Artifact) -> None:
        for ref in one.manifest.inputs.values():
            folder = store / ref.key / ref.digest
            if ref.digest not in found and (folder / MANIFEST).is_file():
                visit(Artifact.load(folder))
        found[one.digest] = one

    visit(artifact)
    return list(found.values())


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
    """Digest of what an artifact is for: its content files, metrics, IOSpec and session options."""
    return sha256_of(
        {
            "kind": contents.kind,
            "files": {name: entry.sha256 for name, entry in files.items() if entry.content},
            "metrics": contents.metrics,
            "io": contents.io.model_dump(mode="json") if contents.io else None,
            "session_options": contents.session_options,
        }
    )
