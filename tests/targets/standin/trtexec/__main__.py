import sys

from tests.targets.standin.trtexec.program import main

sys.exit(main(sys.argv[1:]))
