"""python -m edgevit: the command line."""

import sys

from edgevit.cli import main

sys.exit(main())
