"""Every model of the catalogue before NVIDIA's builder, in float16, INT8, FP8 and INT4: taken or not, what would run.

    python -m benchmarks.tensorrt_plans [--models NAME …]

Each at its default size with 1,000 classes and random weights, calibrated on random images: neither changes what the
builder makes of a graph. Kernels and bytes are those of one image by TensorRT for RTX, which is made for 16-bit
convolutions: on a board, where TensorRT fuses INT8 convolutions with what follows, they say little about these.
`int8` is all that the dialect makes integers, `int8 products` leaves convolutions in float16. `proposal` names of these
two and float16 the form that moves the fewest bytes; a measurement on the board decides. Not all boards have FP8 (E4M3)
or a parser for INT4 weights. A form that has nothing to quantize in a model is left out of it.
About three quarters of an hour on two cores; needs the extra tensorrt-check.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from benchmarks.common import publish, spread
from edgevit.artifacts import IOSpec, Json
from edgevit.checking import check_for_tensorrt
from edgevit.configs import QuantizedPrecision
from edgevit.errors import EdgevitError
from edgevit.exporting import onnx_from_module
from edgevit.graphs.files import write_onnx
from edgevit.graphs.float16 import with_float16
from edgevit.models import catalogue, create_model
from edgevit.quantization import CalibratedModel, calibrated
from edgevit.quantization.dialects import Placement

CALIBRATION_BATCHES, BATCH = 2, 4
QUANTIZED: dict[str, tuple[QuantizedPrecision, Placement]] = {
    "int8": ("int8", "all"),
    "int8 products": ("int8", "products"),
    "float8": ("float8", "all"),
    "int4": ("int4", "all"),
}
FORMS = ("float16", *QUANTIZED)
PROPOSED = ("float16", "int8", "int8 products")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=[entry.name for entry in catalogue.read()])
    names = parser.parse_args().models
    rows = {}
    for name in names:
        with TemporaryDirectory() as folder:
            rows[name] = _plans(name, Path(folder))
        print(name, _in_brief(rows[name]), flush=True)
    publish("tensorrt_plans", {"summary": _summary(rows), "models": rows})


def _plans(name: str, folder: Path) -> Json:
    size = next(entry.default_size for entry in catalogue.read() if entry.name == name)
    built = create_model(name, 1000, size)
    spec = IOSpec.for_classifier(built.preprocess, tuple(map(str, range(1000))))
    row: Json = {"image_size": size}
    start = time.perf_counter()
    try:
        exported = onnx_from_module(built.module, spec, 20, dynamic_batch=True)
    except EdgevitError as error:
        return {**row, "failed": f"export: {error}"}
    row["export"] = {"exporter": exported.exporter, "seconds": time.perf_counter() - start}
    model, spec = exported.model, exported.spec

    def images() -> Iterator[npt.NDArray[np.float32]]:
        rng, batch = np.random.default_rng(0), BATCH if exported.dynamic_batch else 1
        for _ in range(CALIBRATION_BATCHES):
            yield rng.standard_normal((batch, 3, size, size)).astype(np.float32)

    row["float16"] = _checked(with_float16(model, name), spec, folder)
    ranges: dict[QuantizedPrecision, CalibratedModel] = {}
    for form, (precision, placement) in QUANTIZED.items():
        try:
            if precision not in ranges:
                ranges[precision] = calibrated(model, images, "minmax", "tensorrt", 2, name, precision=precision)
            row[form] = _checked(ranges[precision].quantized(placement).model, spec, folder)
        except EdgevitError as error:
            row[form] = {"failed": str(error)}
    moved = {form: row[form]["bytes_moved"] for form in PROPOSED if row[form].get("bytes_moved")}
    return {**row, "proposal": min(moved, key=lambda form: moved[form])} if len(moved) == len(PROPOSED) else row


def _checked(model: ModelProto, spec: IOSpec, folder: Path) -> Json:
    file = folder / "model.onnx"
    write_onnx(model, file, spec)
    check = check_for_tensorrt(file)
    if check.build_result is None:
        raise SystemExit(check.not_asked)
    return {**check.summary(), "size_bytes": file.stat().st_size, "seconds": check.build_result.seconds}


def _in_brief(row: Json) -> str:
    forms = [
        f"{form}: {'ok' if check['ok'] else 'NOT ok'}, {check['kernels']} kernels, "
        f"{(check['bytes_moved'] or 0) / 1e6:.1f} MB, attention {check['attentions_fused']}/{check['attentions']}"
        for form in FORMS
        if "ok" in (check := row.get(form, {}))
    ]
    return "; ".join(forms) or str(row.get("failed"))


def _summary(rows: dict[str, Json]) -> Json:
    taken = {form: {name: row[form] for name, row in rows.items() if "ok" in row.get(form, {})} for form in FORMS}
    attentive = [row for name, row in rows.items() if name in taken["int8"] and row["int8"]["attentions"]]
    return {
        "models": len(rows),
        "exported": sum("export" in row for row in rows.values()),
        "forms": {form: _of_form(checks, taken["float16"]) for form, checks in taken.items()},
        "with_attention": len(attentive),
        "attention_fused_alike": sum(row["float16"]["unfused"] == row["int8"]["unfused"] for row in attentive),
        "proposals": {form: sum(row.get("proposal") == form for row in rows.values()) for form in PROPOSED},
    }


def _of_form(checks: dict[str, Json], float16: dict[str, Json]) -> Json:
    """How many models there are in a form, how many pass, and what they ask, get, weigh and move beside float16."""
    built = [name for name, check in checks.items() if check["built"]]
    return {
        "models": len(checks),
        "ok": sum(check["ok"] for check in checks.values()),
        "products_asked": sum(check["quantized_asked"] for check in checks.values()),
        "products_got": sum(check["quantized_got"] for check in checks.values()),
        "fewer_bytes_moved": sum(checks[name]["bytes_moved"] < float16[name]["bytes_moved"] for name in built),
        **{
            f"{cost}_over_float16": spread([checks[name][cost] / float16[name][cost] for name in built])
            for cost in ("bytes_moved", "kernels", "size_bytes")
        },
    }


if __name__ == "__main__":
    main()
