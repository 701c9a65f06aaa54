"""What each test process is given, however it was started."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from functools import cache

import hypothesis

# Two test processes run side by side: spinning OpenMP threads would starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test depends on the speed of the machine.
hypothesis.settings.register_profile("edgevit", deadline=None)
hypothesis.settings.load_profile("edgevit")
# No test depends on what else this machine does: profiles in this process see a machine that tells nothing.
os.environ["EDGEVIT_METER_ROOT"] = "/nonexistent"
# No test asks the hub for weights, and none reads or writes what the user keeps between runs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EDGEVIT_CACHE"] = tempfile.mkdtemp(prefix="edgevit-tests-")
os.environ["XDG_CONFIG_HOME"] = os.path.join(os.environ["EDGEVIT_CACHE"], "config")
atexit.register(shutil.rmtree, os.environ["EDGEVIT_CACHE"], ignore_errors=True)
# Started in the background, a shell's processes ignore Ctrl-C, and hand that on to those that tests send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Let PyTorch's exporter read its table of ONNX functions once: at each export that takes a fifth of the time.

    The table depends on the opset alone. The exporter changes it only where a caller gives translations of its own.
    """
    if "edgevit.exporting.onnx" in sys.modules:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        ONNXRegistry.from_torchlib = staticmethod(cache(ONNXRegistry.from_torchlib))  # type: ignore[method-assign]
