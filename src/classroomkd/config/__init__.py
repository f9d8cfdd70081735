"""Recipes: what all tasks have in common, and reading one from YAML with every mistake listed."""

from classroomkd.config.reading import find_recipe, list_recipes, load_recipe, parse_recipe
from classroomkd.config.schema import MethodRecipe, RunRecipe, mentor_names

__all__ = [
    "MethodRecipe",
    "RunRecipe",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "mentor_names",
    "parse_recipe",
]
