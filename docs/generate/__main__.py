"""Commands for people who write pages.

python -m docs.generate figures          fill in the numbers and tables that hand-written pages cite
python -m docs.generate paths RESULT     list every number of a result with the path that cites it
python -m docs.generate tables RESULT    show the tables of a result with the keys that cite them
"""

from __future__ import annotations

import sys

from docs.generate.citations import cited_files, filled, paths_in
from docs.generate.records import ROOT, result_names
from docs.generate.tables import tables_of


def main(arguments: list[str]) -> int:
    """Run the command of the command line; the exit status."""
    match arguments:
        case ["figures"]:
            _fill_figures()
        case ["paths", name] if name in result_names():
            print("\n".join(f"{shown:>30}  {path}" for path, shown in paths_in(name)))
        case ["tables", name] if name in result_names():
            print("\n\n".join(f"{name} > {one.key}\n\n{one.note}\n\n{one.markdown()}" for one in tables_of(name)))
        case _:
            print(f"{__doc__}\nResults: {', '.join(result_names())}", file=sys.stderr)
            return 2
    return 0


def _fill_figures() -> None:
    for path in cited_files():
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"filled {path.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
