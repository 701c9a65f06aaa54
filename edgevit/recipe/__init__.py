"""Recipes: YAML in, frozen and checked configuration out, with the line of every mistake."""

from edgevit.configs import Recipe
from edgevit.recipe.load import load_recipe, recipe_and_folder, recipe_schema
from edgevit.recipe.mistakes import suggestion

__all__ = ["Recipe", "load_recipe", "recipe_and_folder", "recipe_schema", "suggestion"]
