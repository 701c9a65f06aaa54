"""Stand-in boards for tests: a folder with a board's files, and programs that answer as the board's do."""

from tests.targets.standin.boards import STANDINS, Standin
from tests.targets.standin.build import BuiltStandin, build

__all__ = ["STANDINS", "BuiltStandin", "Standin", "build"]
