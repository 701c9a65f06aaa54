"""The recipes that come with edgevit. A command takes the file of a recipe, or the name of one of these."""

from __future__ import annotations

from pathlib import Path

from edgevit.errors import RecipeError, did_you_mean

FOLDER = Path(__file__).parent


def shipped_recipes() -> dict[str, Path]:
    """The files of the recipes that come with edgevit, by name, in the order of the names."""
    return {file.stem: file for file in sorted(FOLDER.glob("*.yaml"), key=lambda file: file.stem)}


def shipped_recipe(name: str) -> Path:
    """The file of a recipe that comes with edgevit. Raises RecipeError where no recipe has this name."""
    shipped = shipped_recipes()
    if name not in shipped:
        hint = did_you_mean(name, shipped) or ""
        raise RecipeError(
            f"no recipe of this name comes with edgevit. {hint}".rstrip(),
            got=name,
            expected=f"one of {', '.join(shipped)}",
        )
    return shipped[name]


def find_recipe(given: Path) -> tuple[Path, Path]:
    """The file of a recipe, and the folder from which relative paths in the recipe start.

    Args:
        given: a YAML file, or the name of a recipe that comes with edgevit, such as "quickstart". A file wins.

    Returns:
        The file and its folder. For a recipe that comes with edgevit, the folder is the working directory.

    Raises:
        RecipeError: there is no such file and no such name.
    """
    if given.is_file():
        return given, given.parent
    shipped = shipped_recipes()
    if str(given) in shipped:
        return shipped[str(given)], Path()
    hint = did_you_mean(given.stem, shipped) or ""
    raise RecipeError(
        f"there is no such recipe. {hint}".rstrip(),
        where=given,
        expected=f"a YAML file, or the name of a recipe that comes with edgevit: {', '.join(shipped)}",
        next="edgevit init FOLDER writes a recipe for your own photos",
    )
