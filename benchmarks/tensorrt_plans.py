"""Every model of the catalogue before NVIDIA's builder, in float16 and in INT8: taken or not, and what would run.

    python -m benchmarks.tensorrt_plans [--models NAME …]

Each at its default size with 1,000 classes and random weights, calibrated on random pictures: neither changes what the
builder makes of a graph. Kernels and bytes are those of one image by TensorRT for RTX, which is made for 16-bit
convolutions: on a board, where TensorRT fuses INT8 convolutions with what follows, they say little about these.
`proposal` names the form that moves fewer bytes; a measurement on the board decides.
About half an hour on two cores; needs the extra tensorrt-check.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import publish
from edgevit.artifacts import IOSpec
from edgevit.checking import check_onnx
from edgevit.errors import EdgevitError
from edgevit.exporting import onnx_from_module
from edgevit.models import catalogue, create_model
from edgevit.quantization import calibrated
from edgevit.runtimes.files import write_onnx
from edgevit.runtimes.float16 import with_float16

CALIBRATION_BATCHES, BATCH = 2, 4


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


def _plans(name: str, folder: Path) -> dict[str, Any]:
    size = next(entry.default_size for entry in catalogue.read() if entry.name == name)
    built = create_model(name, 1000, size)
    spec = IOSpec.for_classifier(built.preprocess, tuple(map(str, range(1000))))
    row: dict[str, Any] = {"image_size": size}
    start = time.perf_counter()
    try:
        exported = onnx_from_module(built.module, spec, 20, dynamic_batch=True)
    except EdgevitError as error:
        return {**row, "failed": f"export: {error}"}
    row["export"] = {"exporter": exported.exporter, "seconds": time.perf_counter() - start}
    model, spec = exported.model, exported.spec

    def pictures() -> Iterator[npt.NDArray[np.float32]]:
        rng, batch = np.random.default_rng(0), BATCH if exported.dynamic_batch else 1
        for _ in range(CALIBRATION_BATCHES):
            yield rng.standard_normal((batch, 3, size, size)).astype(np.float32)

    for form in ("float16", "int8"):
        file = folder / f"{form}.onnx"
        try:
            if form == "float16":
                write_onnx(with_float16(model, name), file, spec)
            else:
                write_onnx(calibrated(model, pictures, "minmax", "tensorrt", 2, name).quantized().model, file, spec)
            row[form] = _checked(file)
        except EdgevitError as error:
            row[form] = {"ok": False, "failed": str(error)}
    moved = {form: row[form].get("bytes_moved") for form in ("float16", "int8")}
    if all(moved.values()):
        row["proposal"] = min(moved, key=lambda form: moved[form])
    return row


def _checked(file: Path) -> dict[str, Any]:
    found = check_onnx(file)
    if found.answer is None:
        raise SystemExit(found.not_asked)
    return {**found.summary(), "seconds": found.answer.seconds}


def _in_brief(row: dict[str, Any]) -> str:
    forms = [
        f"{form}: {'ok' if one['ok'] else 'NOT ok'}, {one.get('kernels')} kernels, "
        f"{(one.get('bytes_moved') or 0) / 1e6:.1f} MB, attention {one.get('attentions_fused')}/{one.get('attentions')}"
        for form in ("float16", "int8")
        if (one := row.get(form))
    ]
    return "; ".join(forms) or str(row.get("failed"))


def _summary(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    forms = {form: [row[form] for row in rows.values() if form in row] for form in ("float16", "int8")}
    return {
        "models": len(rows),
        "exported": sum("export" in row for row in rows.values()),
        "ok": {form: sum(one["ok"] for one in found) for form, found in forms.items()},
        "with_attention": sum(bool(row.get("int8", {}).get("attentions")) for row in rows.values()),
        "attention_fused_alike": sum(
            row["float16"].get("unfused", 0) == row["int8"].get("unfused", 1)
            for row in rows.values()
            if "int8" in row and row["int8"].get("attentions")
        ),
        "proposals": {form: sum(row.get("proposal") == form for row in rows.values()) for form in forms},
    }


if __name__ == "__main__":
    main()
