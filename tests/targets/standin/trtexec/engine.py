"""The engine of a stand-in: a header of one line, then the ONNX file."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

from tests.targets.standin.trtexec.log import Log, number
from tests.targets.standin.trtexec.options import Options, Shapes
from tests.targets.standin.trtexec.settings import TrtexecSettings

MAGIC = b"edgevit stand-in engine\n"


@dataclass(frozen=True)
class Luck:
    """What a build happens to give."""

    slowdown: float = 1.0
    is_wrong: bool = False


@dataclass(frozen=True)
class Engine:
    """An engine that this trtexec may run.

    Attributes:
        profile: the least, the usual and the largest shape of each input with an open size.
        verbosity: what the inspector may say about it.
        slowdown: by which recorded times are multiplied.
        is_wrong: whether it gives one class everywhere.
    """

    onnx: bytes
    profile: tuple[Shapes, Shapes, Shapes]
    verbosity: str
    slowdown: float
    is_wrong: bool


def engine_bytes(
    onnx: bytes, profile: tuple[Shapes, ...], options: Options, settings: TrtexecSettings, luck: Luck
) -> bytes:
    """An engine. As with TensorRT, no two builds give the same bytes."""
    header = {
        "serialization": settings.serialization,
        "compute_capability": settings.compute_capability,
        "device": settings.device,
        "sms": settings.sms,
        "profile": profile,
        "verbosity": options.verbosity,
        "tactics": secrets.token_hex(16),
        "version": settings.version if options.version_compatible else None,
        **asdict(luck),
    }
    return MAGIC + json.dumps(header).encode("ascii") + b"\n" + onnx


def read_engine(file: str, settings: TrtexecSettings, allows_host_code: bool, log: Log) -> Engine:
    """An engine from a file. One of another TensorRT or GPU ends the run with TensorRT's words."""
    try:
        content = Path(file).read_bytes()
    except OSError:
        log.fail(f"Error opening engine file: {file}", *NO_ENGINE)
    return engine_in(content, settings, allows_host_code, log)


def engine_in(content: bytes, settings: TrtexecSettings, allows_host_code: bool, log: Log) -> Engine:
    """An engine from its bytes. One of another TensorRT or GPU ends the run with TensorRT's words."""
    log.info(f"[TRT] Loaded engine size: {len(content) >> 20} MiB")
    if not content.startswith(MAGIC):
        _refuse(log, f"{SERIALIZATION} (Serialization assertion plan->header.magicTag == rt::kPLAN_MAGIC_TAG failed."
                "Trying to load an engine created with incompatible serialization version. Check that the engine was "
                "not created using safety runtime, same OS was used and version compatibility parameters were set "
                "accordingly.)")  # fmt: skip
    line, _, onnx = content.removeprefix(MAGIC).partition(b"\n")
    header = json.loads(line)
    built_by = header["version"]
    if built_by and not allows_host_code:
        _refuse(log, HOST_CODE)
    runs_later = built_by and built_by[0] == settings.version[0] and tuple(built_by) <= settings.version
    if header["serialization"] != settings.serialization and not runs_later:
        _refuse(log, f"{SERIALIZATION} (Serialization assertion stdVersionRead == kSERIALIZATION_VERSION failed."
                f"Version tag does not match. Note: Current Version: {settings.serialization}, Serialized Engine "
                f"Version: {header['serialization']})")  # fmt: skip
    if header["compute_capability"] != settings.compute_capability:
        _refuse(log, "Error[6]: IRuntime::deserializeCudaEngine: Error Code 6: API Usage Error (The engine plan file "
                f"is generated on an incompatible device, expecting compute {settings.compute_capability} got compute "
                f"{header['compute_capability']}, please rebuild.)")  # fmt: skip
    if (header["device"], header["sms"]) != (settings.device, settings.sms):
        log.warning("[TRT] Using an engine plan file across different models of devices is not recommended and is "
                    "likely to affect performance or even cause errors.")  # fmt: skip
    log.info(f"Engine deserialized in {number(0.0123)} sec.")
    least, usual, largest = ({name: tuple(shape) for name, shape in end.items()} for end in header["profile"])
    return Engine(onnx, (least, usual, largest), header["verbosity"], header["slowdown"], header["is_wrong"])


HOST_CODE = (  # composed
    "Error[3]: IRuntime::deserializeCudaEngine: Error Code 3: API Usage Error (The engine holds a lean runtime, and "
    "host code of engines is not allowed.)"
)
SERIALIZATION = "Error[1]: IRuntime::deserializeCudaEngine: Error Code 1: Serialization"
NO_ENGINE = ("Failed to create engine from model or file.", "Engine set up failed")


def _refuse(log: Log, text: str) -> NoReturn:
    log.fail(text, "Engine deserialization failed", "Got invalid engine!", "Inference set up failed")
