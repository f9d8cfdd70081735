"""Recipes: what all tasks have in common, and reading one from YAML with every mistake listed."""

from classroomkd.config.reading import find_recipe, list_recipes, load_recipe, parse_recipe
from classroomkd.config.schema import MethodRecipe, RunRecipe, mentor_names
from classroomkd.moved import names_of

__all__ = [
    "MethodRecipe",
    "RunRecipe",
    "find_recipe",
    "list_recipes",
    "load_recipe",
    "mentor_names",
    "parse_recipe",
]

__getattr__ = names_of(__name__, {
    "AnyRecipe": "classroomkd.config.schema:RunRecipe",
    "Recipe": "classroomkd.tasks.classification.recipe",
    "MentorRecipe": "classroomkd.tasks.classification.recipe",
    "PoseRecipe": "classroomkd.tasks.pose.recipe",
    "Role": "classroomkd.config.fields",
})  # fmt: skip
