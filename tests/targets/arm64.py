"""Another processor: Debian's Python 3.11 for arm64, under emulation of a single process (qemu-user).

As a target, it is a machine whose Python command is the emulator. What it computes is right; its times mean nothing.
ONNX Runtime 1.24 to 1.26 run there. Newer ones crash at import in qemu 7.2, that of Debian 12.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ONNXRUNTIME = "1.26.0"
PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6", "zlib1g")


def python_for_arm64(root: Path) -> tuple[str, ...]:
    """The command of the Python. Its files are unpacked into a new folder; nothing is installed."""
    emulator, unpacker = shutil.which("qemu-aarch64-static"), shutil.which("mmdebstrap")
    if sys.platform != "linux" or emulator is None or unpacker is None:
        pytest.skip("needs an emulator of arm64 on Debian (apt-get install qemu-user-static mmdebstrap)")
    options = ["--quiet", "--variant=extract", "--architectures=arm64", f"--include={','.join(PACKAGES)}"]
    command = [unpacker, *options, "bookworm", str(root)]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if answer.returncode:
        pytest.skip(f"needs Debian's packages: {answer.stderr.strip()[-200:]}")
    return emulator, "-L", str(root), str(root / "usr" / "bin" / "python3.11")
