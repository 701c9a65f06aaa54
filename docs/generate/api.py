"""The reference of the Python API: a page for the functions of `edgevit`, and one for each part of the library.

Sphinx's autodoc fills the pages from signatures and docstrings.
"""

from __future__ import annotations

import edgevit
from docs.generate.markdown import page, table, toctree

# What researchers call on its own, by the title of its page. A module moves: change its name here, nothing else.
PARTS: dict[str, tuple[str, ...]] = {
    "Few-shot heads": ("edgevit.fewshot.methods", "edgevit.fewshot.heads", "edgevit.fewshot.transduction"),
    "Losses and objectives": ("edgevit.training.losses", "edgevit.training.objectives"),
    "Data": ("edgevit.data.dataset", "edgevit.data.images", "edgevit.data.preprocess", "edgevit.data.corruptions"),
    "Evaluation": ("edgevit.evaluation.classify", "edgevit.evaluation.accuracy", "edgevit.evaluation.corruptions"),
    "Export": ("edgevit.exporting.onnx", "edgevit.exporting.normalization"),
    "Quantization": ("edgevit.quantization.ptq", "edgevit.quantization.calibration", "edgevit.quantization.images"),
    "Measuring": ("edgevit.profiling.measure", "edgevit.profiling.loop", "edgevit.profiling.statistics"),
    "Errors": ("edgevit.errors",),
}
INTERFACE = "The functions of edgevit"


def api_pages() -> dict[str, str]:
    """Every page of the reference of the Python API, by its path below docs/."""
    pages = {f"reference/api/{_file(title)}.md": part_page(title, modules) for title, modules in PARTS.items()}
    return {"reference/api/index.md": index_page(), "reference/api/edgevit.md": interface_page(), **pages}


def public_names() -> list[str]:
    """The public functions and classes of `edgevit`."""
    return [name for name in edgevit.__all__ if not name.startswith("__")]


def interface_page() -> str:
    """The functions of `edgevit`, and the classes of what they return."""
    functions = [name for name in public_names() if name.islower()]
    classes = [name for name in public_names() if not name.islower()]
    return page(
        INTERFACE,
        _directive("automodule", "edgevit"),
        "## Functions",
        *(_directive("autofunction", f"edgevit.{name}") for name in functions),
        "## Classes",
        *(_directive("autoclass", f"edgevit.{name}", "members") for name in classes),
    )


def index_page() -> str:
    """All pages of the Python API."""
    rows = [
        (f"[{title}]({_file(title)}.md)", ", ".join(f"`{module}`" for module in modules))
        for title, modules in PARTS.items()
    ]
    first = (f"[{INTERFACE}](edgevit.md)", "`edgevit`")
    files = ["edgevit", *map(_file, PARTS)]
    return page("Python", table(("page", "modules"), [first, *rows]), toctree(files, "hidden"))


def part_page(title: str, modules: tuple[str, ...]) -> str:
    """The public functions and classes of some modules."""
    sections = [f"## `{module}`\n\n{_directive('automodule', module, 'members')}" for module in modules]
    return page(title, *sections)


def _directive(name: str, argument: str, *options: str) -> str:
    return "\n".join(["```{eval-rst}", f".. {name}:: {argument}", *(f"   :{option}:" for option in options), "```"])


def _file(title: str) -> str:
    return title.lower().replace(" ", "-")
