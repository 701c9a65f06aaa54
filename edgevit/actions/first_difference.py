"""The first tensor in which a TensorRT engine differs from its ONNX file: built on the target, tensor by tensor.

The ONNX file is built with some of its tensors as further outputs, and these are held against ONNX Runtime here. Each
build narrows the tensors between those that agree and those that differ. Polygraphy finds wrong layers in this way.

A further output ends a fusion, so the fault may vanish in such a build. It then takes fewer further outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from edgevit.artifacts import Artifact, Json, TensorSpec
from edgevit.checking.inner_tensors import InnerTensor, InnerTensors
from edgevit.configs import Compile
from edgevit.context import Context, usable_cpus
from edgevit.errors import ArtifactError
from edgevit.graphs.files import artifact_from_onnx, onnx_file, read_onnx, write_onnx
from edgevit.model_file import ModelFile
from edgevit.runtimes.base import Session, SessionOptions, fixed_batch
from edgevit.runtimes.parity import ENGINE_DB, EngineCloseness, closeness_of_tensors
from edgevit.runtimes.sessions import session_as_declared
from edgevit.stages.compile import unfinished
from edgevit.targets import target_for

MARKED = 8  # further outputs of a build
MOST_VALUES = 4_000_000  # of all further outputs of a run: trtexec writes them as text
MOST_VALUES_ALONE = 8_000_000  # of one that is the only further output
MOST_BUILDS = 24
MOST_VANISHED = 3  # tensors with which the fault has vanished
JUMP_DB = 10.0  # below, the SQNR falls slowly, as where roundings add up


@dataclass(frozen=True)
class ComparedTensor:
    """A tensor of an engine, held against ONNX Runtime's.

    Attributes:
        between_images_db: the SQNR after the mean over the images is subtracted; None where images hardly differ.
        agrees: whether both reach their floors.
    """

    name: str
    node: str
    operator: str
    sqnr_db: float
    between_images_db: float | None
    agrees: bool


@dataclass(frozen=True)
class Difference:
    """The first tensor that differs.

    Attributes:
        first: that tensor; None if the fault has vanished in each build.
        before: the last tensors that it is computed from and that agree.
        compared: all tensors that were compared, in the order of the graph.
        vanished: tensors with which, as further outputs, the fault is gone.
        too_large: tensors that may differ earlier than `first`, and that were not compared: a run cannot give so many
            values.
        is_whole: whether no tensor that can be an output is left between `before` and `first`.
        batch_size: in which the outputs differ; None if they agree in each build.
    """

    first: ComparedTensor | None
    before: tuple[ComparedTensor, ...]
    compared: tuple[ComparedTensor, ...]
    vanished: tuple[str, ...]
    too_large: tuple[str, ...]
    is_whole: bool
    batch_size: int | None
    builds: int
    floor_db: float

    @property
    def falls_slowly(self) -> bool:
        """Whether the SQNR before the first tensor is hardly above that tensor's."""
        if self.first is None or not self.before:
            return False
        return min(tensor.sqnr_db for tensor in self.before) - self.first.sqnr_db < JUMP_DB

    def to_json(self) -> Json:
        return {**asdict(self), "falls_slowly": self.falls_slowly}


def first_difference(model: Artifact, config: Compile, context: Context) -> Difference:
    """Find the first tensor that differs in the engine of an ONNX model, whose outputs were found to be wrong.

    Raises:
        TargetError: a build or a run fails on the target.
        ArtifactError: TensorRT does not take the model with further outputs, or no tensor of it can be one.
    """
    return _Search(model, config, context).run()


class _Search:
    """Narrows the tensors that may be the first to differ, build by build."""

    def __init__(self, model: Artifact, config: Compile, context: Context) -> None:
        self._model, self._config, self._context = model, config, context
        file = onnx_file(model)
        self._inner = InnerTensors(read_onnx(file), file)
        self._precision = model.model_file.precision
        fixed = fixed_batch(model.io)
        self._sizes = [fixed] if fixed else sorted({1, config.batch_size, config.max_batch})
        self._found_size: int | None = None
        self._compared: dict[str, ComparedTensor] = {}
        self._vanished: list[str] = []
        self._builds = 0

    def run(self) -> Difference:
        suspects, first, marked = self._suspects(), None, MARKED
        while self._goes_on(suspects):
            chosen = self._spread(self._that_fit(suspects), marked)
            compared = self._compare(chosen)
            different = [tensor for tensor in compared if not tensor.agrees]
            if not different:  # the outputs are right, too
                if not chosen:
                    break
                if len(chosen) == 1:
                    self._vanished.append(chosen[0].name)
                    suspects = [tensor for tensor in suspects if tensor != chosen[0]]
                marked = max(1, len(chosen) // 2)
                continue
            self._compared |= {tensor.name: tensor for tensor in compared}
            first, marked = min([*([first] if first else []), *different], key=self._place), MARKED
            suspects = self._left(suspects, first)
        return self._difference(first, suspects)

    def _difference(self, first: ComparedTensor | None, suspects: Sequence[InnerTensor]) -> Difference:
        fitting = self._that_fit(suspects)
        return Difference(
            first=first,
            before=self._before(first) if first else (),
            compared=tuple(sorted(self._compared.values(), key=self._place)),
            vanished=tuple(self._vanished),
            too_large=tuple(tensor.name for tensor in suspects if tensor not in fitting),
            is_whole=not suspects and not self._vanished,
            batch_size=self._found_size,
            builds=self._builds,
            floor_db=ENGINE_DB[self._precision],
        )

    def _goes_on(self, suspects: Sequence[InnerTensor]) -> bool:
        """Whether another build may tell more. Without a tensor that fits, it tells the batch size."""
        may_tell = bool(self._that_fit(suspects) or (suspects and self._found_size is None))
        return may_tell and self._builds < MOST_BUILDS and len(self._vanished) < MOST_VANISHED

    def _left(self, suspects: Sequence[InnerTensor], first: ComparedTensor) -> list[InnerTensor]:
        """The tensors that `first` is computed from, and that may differ: no agreeing tensor is computed from them."""
        right = [tensor.name for tensor in self._compared.values() if tensor.agrees]
        known = self._inner.before(right).union(right)
        behind = self._inner.before([first.name]) - known
        return [tensor for tensor in suspects if tensor.name in behind]

    def _before(self, first: ComparedTensor) -> tuple[ComparedTensor, ...]:
        behind = self._inner.before([first.name])
        right = [tensor for tensor in self._compared.values() if tensor.agrees and tensor.name in behind]
        earlier = self._inner.before(tensor.name for tensor in right)
        return tuple(tensor for tensor in right if tensor.name not in earlier)

    def _compare(self, chosen: Sequence[InnerTensor]) -> list[ComparedTensor]:
        """Build with these further outputs, and compare all outputs, in the batch size in which they differ."""
        self._builds += 1
        self._context.progress.say(f"build {self._builds} on {self._config.target}, with {len(chosen)} further outputs")
        compared: list[ComparedTensor] = []
        with TemporaryDirectory() as folder:
            marked, out = self._marked(chosen, Path(folder)), Path(folder) / "engine"
            out.mkdir()
            target = target_for(self._config.target, self._context)

            def compare(compiled: ModelFile) -> Json:
                with target.open(unfinished(marked, compiled, out), SessionOptions(threads=1)) as engine:
                    compared.extend(self._compare_outputs(engine, marked))
                return {}

            target.compile(marked, out, self._config.model_copy(update={"builds": 1}), compare)
        return compared

    def _compare_outputs(self, engine: Session, marked: Artifact) -> list[ComparedTensor]:
        """All outputs in the batch size in which they differ; if that is not known, in the first in which one does."""
        source = session_as_declared(onnx_file(marked), marked.io, marked.model_file.options, usable_cpus())
        compared: list[ComparedTensor] = []
        for size in [self._found_size] if self._found_size else self._sizes:
            closeness = closeness_of_tensors(engine, source, self._precision, size)
            compared = [self._judged(name, found) for name, found in closeness.items()]
            if not all(tensor.agrees for tensor in compared):
                self._found_size = size
                break
        return compared

    def _marked(self, chosen: Sequence[InnerTensor], folder: Path) -> Artifact:
        """The model with further outputs, as a file of its own."""
        batch, file = self._model.io.inputs[0].shape[0], folder / f"{self._model.id.replace('/', '-')}.onnx"
        further = tuple(TensorSpec(name=tensor.name, shape=(batch, *tensor.shape)) for tensor in chosen)
        spec = self._model.io.model_copy(update={"outputs": (*self._model.io.outputs, *further)})
        write_onnx(self._inner.with_outputs(chosen, batch), file, spec, self._model.model_file.options)
        record = self._model.model_file.model_copy(update={"name": file.name})
        return artifact_from_onnx(file).with_io(spec).with_model_file(record)

    def _judged(self, name: str, closeness: EngineCloseness) -> ComparedTensor:
        node = self._inner.maker(name)
        agrees = closeness.reaches(self._precision)
        return ComparedTensor(name, node.name, node.op_type, closeness.sqnr_db, closeness.between_images_db, agrees)

    def _place(self, tensor: ComparedTensor) -> int:
        return self._inner.order[tensor.name]

    def _suspects(self) -> list[InnerTensor]:
        """The tensors that an output of the model is computed from."""
        behind = self._inner.before(output.name for output in self._model.io.outputs)
        if suspects := [tensor for tensor in self._inner.tensors if tensor.name in behind]:
            return suspects
        raise ArtifactError(
            "no tensor inside the model can be a further output, so the first that differs cannot be found",
            where=self._model.id,
            expected="a float tensor, computed from the image, whose first dimension is the batch and whose other "
            "dimensions are known",
        )

    def _that_fit(self, tensors: Sequence[InnerTensor]) -> list[InnerTensor]:
        """The tensors that a run can give."""
        return [tensor for tensor in tensors if self._values(tensor) <= MOST_VALUES_ALONE]

    def _spread(self, suspects: Sequence[InnerTensor], most: int) -> list[InnerTensor]:
        """At most so many of the suspects, at equal distances, as far as a run can give their values."""
        count = min(most, len(suspects))
        places = {round((place + 1) * (len(suspects) + 1) / (count + 1)) - 1 for place in range(count)}
        chosen = [suspects[place] for place in sorted(places)]
        while len(chosen) > 1 and sum(map(self._values, chosen)) > MOST_VALUES:
            chosen = chosen[::2]
        return chosen

    def _values(self, tensor: InnerTensor) -> int:
        """The values of a tensor in the batch size in which the outputs differ; in the largest until that is known."""
        return (self._found_size or max(self._sizes)) * math.prod(tensor.shape)
