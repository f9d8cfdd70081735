"""Recipes: the schema, and reading one from YAML with every mistake listed."""

from classroomkd.config.pose import PoseRecipe
from classroomkd.config.reading import (
    AnyRecipe,
    find_recipe,
    list_recipes,
    load_recipe,
    parse_recipe,
)
from classroomkd.config.schema import MentorRecipe, Recipe, Role

__all__ = [
    "AnyRecipe",
    "MentorRecipe",
    "PoseRecipe",
    "Recipe",
    "Role",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "parse_recipe",
]
