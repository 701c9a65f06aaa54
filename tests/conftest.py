"""What each test process is given, however it was started."""

from __future__ import annotations

import os
import signal

# Two test processes run side by side: spinning OpenMP threads would starve each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Started in the background, a shell's processes ignore Ctrl-C, and hand that on to those that tests send one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
