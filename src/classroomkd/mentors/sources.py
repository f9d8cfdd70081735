"""Where mentors come from: run folders and files of weights."""

from collections.abc import Sequence
from itertools import count

from classroomkd.config.schema import MentorRecipe
from classroomkd.errors import ClassroomError
from classroomkd.mentors.mentor import LearningMentor, Mentor, StoredMentor, class_map
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
    if recipe.outputs is not None:
        return StoredMentor(name, recipe.role, recipe.outputs)
    kind = LearningMentor if recipe.train else Mentor
    if recipe.run is not None:
        network, info = load_student(recipe.run)
        return kind(network, name, recipe.role, class_map(info.classes, classes, name))
    if recipe.model is None or (recipe.checkpoint is None and not recipe.train):
        raise ClassroomError(f"{name}: give run, or checkpoint and model")
    own = recipe.classes or classes
    normalisation = {
        key: value for key in ("mean", "std") if (value := getattr(recipe, key)) is not None
    }
    network = build_model(recipe.model, len(own), **normalisation)
    if recipe.checkpoint is not None:
        load_weights(network, recipe.checkpoint)
    return kind(network, name, recipe.role, class_map(own, classes, name))


def mentor_names(recipes: Sequence[MentorRecipe]) -> list[str]:
    """A name for each mentor: its own, else its folder's or model's; repeated ones get a number.

    Example:
        >>> mentor_names([MentorRecipe.model_construct(model="vgg8", run=None, name=None)] * 2)
        ['vgg8', 'vgg8-2']
    """
    own = [
        r.name or next((p.name for p in (r.run, r.outputs) if p), r.model) or "mentor"
        for r in recipes
    ]
    names: list[str] = []
    for name in own:
        numbered = (f"{name}-{number}" for number in count(2))
        free = (other for other in numbered if other not in own and other not in names)
        names.append(next(free) if name in names else name)
    return names
