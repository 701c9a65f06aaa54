"""The worker: runs and times models on the machine where it is started. Python 3.8 or later, numpy and a runtime.

edgevit starts `python -B worker.py` in a folder that holds `loop.py`, `loading.py`, `preprocess.py` and `conditions.py`
beside this file, for engines `tensorrt_loading.py`, the files that the request names, and request.json, which is one of

    {"do": "outputs", "threads": 1, MODEL, "images": "images.npy", "batch_size": 8, "fixed_batch": null}
    {"do": "measure", "threads": 1, MODEL, "input": "input.npy", "plan": PLAN}
    {"do": "race",    "threads": 1, "models": [{MODEL, "input": …}, …], "plan": PLAN}
    {"do": "compile", "threads": 1, MODEL}

    MODEL   "model": {"file", "runtime", "session_options", "input", "outputs"}, "preprocess": {an IOSpec's} or null
    PLAN    the fields of `loop.MeasurePlan`

With "is_attended": true, `measure` prints a line before the counted runs, waits for a line, and prints one after them.

The worker writes result.json; `outputs` writes its arrays to outputs.bin, `compile` its graph to compiled.onnx. If it
fails, it ends with status 1, and the last line of stderr is `edgevit-worker: KIND: text`. The kinds are

    import  numpy, Pillow or the runtime cannot be imported, or CUDA cannot be used
    model   the runtime does not load the model, or does not run it
    engine  TensorRT does not load the engine
    shape   the model does not take the input, or an output has not one row for each image
    memory  there is not enough memory
    disk    the disk is full
    bug     another error; its traceback comes before the line
"""

from __future__ import annotations

import errno
import importlib
import io
import json
import platform
import sys
import time
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

Json = Dict[str, Any]
Run = Callable[[Any], List[Any]]  # input tensor → output tensors

LONGEST_TEXT = 1_000  # characters of an error
COUNTING, COUNTED = "edgevit-worker: counting", "edgevit-worker: counted"  # lines before and after the counted runs
IS_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_MEMORY = (
    "out of memory",
    "OutOfMemory",
    "can't allocate memory",
    "Failed to allocate memory",
    "bad allocation",
    "bad_alloc",
)
MODULES = {  # by distribution
    "numpy": "numpy",
    "pillow": "PIL",
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "tensorrt": "tensorrt",
}
LOADING = {"onnxruntime": "loading", "openvino": "loading", "tensorrt": "tensorrt_loading"}  # files beside this one


class Failed(Exception):
    """A request that cannot be done.

    Args:
        kind: one of the kinds above.
    """

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def write_outputs(request: Json) -> Json:
    """Write the outputs for all images to outputs.bin, one array after another. The result has their types and shapes.

    The images are (n, height, width, 3), uint8, of the model's size; they are scaled and normalized as `preprocess`
    says. With `preprocess: null` they are the rows of the input tensor as it is. With a fixed batch size, the last
    batch is filled up with copies of its last image, which do not count.
    """
    numpy, rule = imported("numpy"), request["preprocess"]
    images = numpy.load(request["images"], mmap_mode="r", allow_pickle=False)
    run, rows = loaded(request["model"], request["threads"]), []
    for batch, count in batches(images, request["batch_size"], request["fixed_batch"]):
        rows.append([tensor[:count] for tensor in checked_outputs(run, tensor_of(batch, rule))])
    arrays = [numpy.concatenate(tensors) for tensors in zip(*rows)]
    with open("outputs.bin", "wb") as file:
        for array in arrays:
            file.write(array.astype(array.dtype.newbyteorder("<")).tobytes())
    return {"outputs": [{"type": array.dtype.name, "shape": list(array.shape)} for array in arrays]}


def measure(request: Json) -> Json:
    """Latencies (ms) in run order, and the start before them."""
    loop, plan = imported("loop"), request["plan"]
    run, start = started(request)
    work, settings, clock = work_of(run, request, plan), loop.MeasurePlan(**plan), loop.WallClock()
    before, hottest_c = conditions_now(), imported("conditions").hottest_c
    soak = loop.soak(work, settings.soak_s, hottest_c, clock) if settings.soak_s else None
    is_attended = request.get("is_attended", False)
    runs = loop.run_alone(work, settings, clock, attended if is_attended else None)
    if is_attended:
        print(COUNTED, flush=True)
    return {**runs._asdict(), "start": start, "soak": soak, "conditions": conditions_since(before)}


def attended() -> None:
    """Tell the program that attends to this one that the next run counts, and wait until it is ready."""
    print(COUNTING, flush=True)
    sys.stdin.readline()


def started(request: Json) -> tuple[Run, Any]:
    """A model that was loaded and has run once, and `loop.Start`."""
    conditions, feed = imported("conditions"), feed_of(request, request["plan"])
    imported(request["model"]["runtime"])
    if request["model"]["runtime"] == "onnxruntime":
        imported("loading").sums_overflow()  # asked before the clock starts
    tensor, own_bytes, begin = feed(), conditions.peak_bytes(), time.perf_counter()
    run = loaded(request["model"], request["threads"])
    is_loaded = time.perf_counter()
    checked_outputs(run, tensor)
    end = time.perf_counter()
    times_ms = (is_loaded - begin) * 1e3, (end - is_loaded) * 1e3
    return run, imported("loop").Start(*times_ms, own_bytes, conditions.peak_bytes())


def race(request: Json) -> Json:
    """Latencies (ms) of models that take turns: a list for each model, for each start."""
    loop = imported("loop")

    def opener(side: Json) -> Callable[[], Any]:
        feed = feed_of(side, request["plan"])

        def loaded_work() -> Any:
            return nullcontext(work_of(loaded(side["model"], request["threads"]), side, request["plan"]))

        checked_outputs(loaded(side["model"], request["threads"]), feed())
        return loaded_work

    openers, before = [opener(side) for side in request["models"]], conditions_now()
    starts = loop.run_in_turns(openers, loop.MeasurePlan(**request["plan"]), loop.WallClock())
    return {"starts": starts, "conditions": conditions_since(before)}


def write_compiled(request: Json) -> Json:
    """Write the graph that ONNX Runtime optimizes for this machine to compiled.onnx."""
    model, loading = request["model"], imported("loading")
    imported("onnxruntime")
    options = loading.onnxruntime_options(model["session_options"], request["threads"])
    options.optimized_model_filepath = "compiled.onnx"
    disabled = model["session_options"].get("disabled_optimizers")
    try:
        loading.onnxruntime_session(
            Path(model["file"]), options, providers=[loading.PROVIDER], disabled_optimizers=disabled
        )
    except Exception as error:  # the runtime has its own exceptions
        raise failed("model", error) from error
    return {}


ACTIONS = {"outputs": write_outputs, "measure": measure, "race": race, "compile": write_compiled}


def imported(name: str) -> Any:
    """A module. Raises Failed("import") if it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package that does not fit the machine raises anything
        raise Failed("import", f"{name} cannot be imported: {error}") from error


def loaded(model: Json, threads: int) -> Run:
    """A model in its runtime. Raises Failed("model") if the runtime does not load it."""
    imported(model["runtime"])
    load = imported(LOADING[model["runtime"]]).LOADERS[model["runtime"]]
    try:
        run = load(Path(model["file"]), model["session_options"], threads)
    except Exception as error:  # each runtime has its own exceptions
        raise failed(getattr(error, "kind", "model"), error) from error
    return lambda tensor: run(model["outputs"], {model["input"]: tensor})


def checked_outputs(run: Run, tensor: Any) -> list[Any]:
    """The outputs for an input tensor. Raises Failed if there are none, or if they do not have a row for each image."""
    try:
        outputs = run(tensor)
    except Exception as error:  # each runtime has its own exceptions
        kind = "shape" if type(error).__name__ == "InvalidArgument" else getattr(error, "kind", "model")
        raise failed(kind, error) from error
    shapes = [output.shape for output in outputs]
    if any(shape[:1] != tensor.shape[:1] for shape in shapes):
        raise Failed("shape", f"the outputs have shapes {shapes} for {len(tensor)} images")
    return outputs


def work_of(run: Run, side: Json, plan: Json) -> Callable[[], Any]:
    """A run that is timed: of the model alone, or in parts from a photo to the class of each image."""
    if plan["boundary"] == "compute":
        feed = feed_of(side, plan)
        return lambda: run(feed())
    parts = [*parts_of(side, plan), ("compute", run), ("post", lambda outputs: outputs[0].argmax(axis=1))]
    return imported("loop").Waterfall(parts)  # type: ignore[no-any-return]


def feed_of(side: Json, plan: Json) -> Callable[[], Any]:
    """A function that gives the input tensor of a run: one array, or a photo that is decoded and preprocessed anew."""
    if plan["boundary"] == "compute":
        tensor = imported("numpy").load(side["input"], allow_pickle=False)
        return lambda: tensor
    (_, decode), (_, prepare) = parts_of(side, plan)
    return lambda: prepare(decode(None))


def parts_of(side: Json, plan: Json) -> list[tuple[str, Callable[[Any], Any]]]:
    """The work from an encoded photo to the input tensor."""
    numpy, preprocessing, encoded = imported("numpy"), imported("preprocess"), Path(side["input"]).read_bytes()

    def decode(_: Any) -> Any:
        return [preprocessing.open_image(io.BytesIO(encoded)) for _ in range(plan["batch_size"])]

    def prepare(images: Any) -> Any:
        return numpy.stack([preprocessing.preprocess(image, **side["preprocess"]) for image in images])

    return [("decode", decode), ("preprocess", prepare)]


def batches(images: Any, batch_size: int, fixed_batch: int | None) -> Iterator[tuple[Any, int]]:
    """Batches of images, each with the number of images in it that count."""
    numpy = imported("numpy")
    size = fixed_batch or batch_size
    for start in range(0, len(images), size):
        batch = numpy.array(images[start : start + size])
        missing = size - len(batch) if fixed_batch else 0
        yield numpy.concatenate([batch, numpy.repeat(batch[-1:], missing, axis=0)]), len(batch)


def tensor_of(images: Any, rule: Json | None) -> Any:
    """The input tensor for resized images."""
    if rule is None or rule["normalised_inside"]:
        return images
    normalized = imported("preprocess").normalized
    return imported("numpy").stack([normalized(image, rule["mean"], rule["std"]) for image in images])


def conditions_since(before: Json) -> Json:
    """The CPU, and what changes over time: before the measurement and now."""
    return {"cpu": imported("conditions").cpu(), "before": before, "after": conditions_now()}


def conditions_now() -> Json:
    """Load, clock and temperatures of this moment."""
    conditions = imported("conditions")
    return {
        "load_average_1min": conditions.load_average(),
        "cpu_frequency": conditions.cpu_frequency(),
        "thermal_zones": conditions.thermal_zones(),
    }


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that were used."""
    used = {package: sys.modules[name] for package, name in MODULES.items() if name in sys.modules}
    return {"python": platform.python_version(), **{name: str(module.__version__) for name, module in used.items()}}


def failed(kind: str, error: BaseException) -> Failed:
    """A runtime's error as one of a kind. Where memory is short, the kind is `memory`."""
    is_memory = isinstance(error, MemoryError) or any(words in str(error) for words in NO_MEMORY)
    is_disk = isinstance(error, OSError) and error.errno in IS_FULL
    return Failed("memory" if is_memory else "disk" if is_disk else kind, str(error) or type(error).__name__)


def main() -> int:
    """Do the request. Returns the exit status."""
    try:
        request = json.loads(Path("request.json").read_text(encoding="utf-8"))
        result = ACTIONS[request["do"]](request)
        Path("result.json").write_text(json.dumps({**result, "versions": versions()}), encoding="utf-8")
        return 0
    except Failed as error:
        failure = error
    except Exception as error:  # noqa: BLE001 - the line says which kind it is
        traceback.print_exc()
        failure = failed("bug", error)
    text = " ".join(str(failure).split())[:LONGEST_TEXT]
    print(f"edgevit-worker: {failure.kind}: {text}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
