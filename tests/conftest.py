"""What each test process is given, however it was started."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile

# Two test processes run side by side: spinning OpenMP threads would starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test asks the hub for weights, and none reads or writes what the user keeps between runs.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["EDGEVIT_CACHE"] = tempfile.mkdtemp(prefix="edgevit-tests-")
os.environ["XDG_CONFIG_HOME"] = os.path.join(os.environ["EDGEVIT_CACHE"], "config")
atexit.register(shutil.rmtree, os.environ["EDGEVIT_CACHE"], ignore_errors=True)
# Started in the background, a shell's processes ignore Ctrl-C, and hand that on to those that tests send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
