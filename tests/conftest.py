"""One thread for each test process: two run side by side, and spinning OpenMP threads would starve each other."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
