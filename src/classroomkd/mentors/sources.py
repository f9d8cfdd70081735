"""Where mentors come from: run folders and files of weights."""

from collections.abc import Sequence

from classroomkd.config.schema import MentorRecipe
from classroomkd.errors import ClassroomError
from classroomkd.mentors.mentor import Mentor, class_map
from classroomkd.models import build_model, load_student, load_weights


def open_mentor(recipe: MentorRecipe, name: str, classes: tuple[str, ...]) -> Mentor:
    """Build a mentor and map its classes to the data's.

    Args:
        recipe: its entry in the recipe, already checked.
        name: what to call it.
        classes: the data's classes.

    Raises:
        ClassroomError: if the weights do not fit or a class is missing.
    """
    if recipe.run is not None:
        network, info = load_student(recipe.run)
        return Mentor(network, name, recipe.role, class_map(info.classes, classes, name))
    if recipe.model is None or recipe.checkpoint is None:
        raise ClassroomError(f"{name}: give run, or checkpoint and model")
    own = recipe.classes or classes
    normalisation = {
        key: value for key in ("mean", "std") if (value := getattr(recipe, key)) is not None
    }
    network = build_model(recipe.model, len(own), **normalisation)
    load_weights(network, recipe.checkpoint)
    return Mentor(network, name, recipe.role, class_map(own, classes, name))


def mentor_names(recipes: Sequence[MentorRecipe]) -> list[str]:
    """A name for each mentor: its own, else its run's or model's; repeated ones get a number.

    Example:
        >>> mentor_names([MentorRecipe.model_construct(model="vgg8", run=None, name=None)] * 2)
        ['vgg8', 'vgg8-2']
    """
    names: list[str] = []
    for recipe in recipes:
        base = recipe.name or (recipe.run.name if recipe.run else recipe.model) or "mentor"
        same = sum(name == base or name.startswith(f"{base}-") for name in names)
        names.append(base if base not in names else f"{base}-{same + 1}")
    return names
