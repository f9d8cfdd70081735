"""Where mentors come from: run folders, files of weights, and other libraries."""

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.mentors.labels import class_count_map, class_map, imagenet_classes
from classroomkd.mentors.mentor import LearningMentor, Mentor, StoredMentor
from classroomkd.models import Network, build_model, load_student, load_weights
from classroomkd.tasks.classification.recipe import MentorRecipe


def open_mentor(recipe: MentorRecipe, name: str, classes: tuple[str, ...]) -> Mentor:
    """Build a mentor and map its classes to the data's.

    Args:
        recipe: its entry in the recipe, already checked.
        name: what to call it.
        classes: the data's classes.

    Raises:
        ClassroomError: if the weights do not fit or are not finite, or a class is missing.
    """
    if recipe.outputs is not None:
        return StoredMentor(name, recipe.role, recipe.outputs)
    if recipe.classes == ():
        raise ClassroomError(f"{name}: classes is empty: name them in order, or leave it out")
    kind = LearningMentor if recipe.train else Mentor
    network, own = _network(recipe, name, classes)
    _check_finite(network, name)
    return kind(network, name, recipe.role, _class_map(recipe, name, network, own, classes))


def _network(
    recipe: MentorRecipe, name: str, classes: tuple[str, ...]
) -> tuple[Network, tuple[str, ...] | None]:
    """A mentor's network, and the names of its classes if its source knows them."""
    if recipe.student_folder is not None:
        network, info = load_student(recipe.student_folder)
        return network, info.classes
    if recipe.model is None or not (recipe.checkpoint or recipe.pretrained or recipe.train):
        raise ClassroomError(f"{name}: give run, or checkpoint and model")
    if recipe.pretrained:
        network = build_model(recipe.model, None, pretrained=True)
        return network, getattr(network, "classes", None)
    network = build_model(
        recipe.model, _class_count(recipe, classes), mean=recipe.mean, std=recipe.std
    )
    if recipe.checkpoint is not None:
        load_weights(network, recipe.checkpoint)
        _normalise(network, recipe)
    return network, None


def _normalise(network: Network, recipe: MentorRecipe) -> None:
    """Give a network the mean and std of its recipe, in place of those of its file."""
    normalize = network.normalize
    for own, given in ((normalize.mean, recipe.mean), (normalize.std, recipe.std)):
        if given is not None:
            own.copy_(torch.tensor(given).view_as(own))


def _check_finite(network: Network, name: str) -> None:
    """Raise a ClassroomError for weights of a training that came to nothing."""
    for place, values in network.named_parameters():
        if not values.isfinite().all():
            raise ClassroomError(
                f"{name} has weights that are not finite, as in {place}: its training diverged, or"
                " its file is damaged; take an earlier checkpoint"
            )


def _class_count(recipe: MentorRecipe, classes: tuple[str, ...]) -> int | None:
    """How many classes a checkpoint has; None for as many as its model usually has."""
    own = _own_classes(recipe)
    if own is None and recipe.labels is not None and "/" in (recipe.model or ""):
        return None
    return len(classes if own is None else own)


def _own_classes(recipe: MentorRecipe) -> tuple[str, ...] | None:
    return imagenet_classes() if recipe.classes == "imagenet" else recipe.classes


def _class_map(
    recipe: MentorRecipe,
    name: str,
    network: Network,
    known: tuple[str, ...] | None,
    classes: tuple[str, ...],
) -> Tensor | None:
    given = _own_classes(recipe)
    own = known if given is None else given
    if own is None:
        return class_count_map(network.num_classes, classes, name, recipe.labels)
    if len(own) != network.num_classes:
        raise ClassroomError(
            f"{name} tells {network.num_classes} classes apart, but classes names {len(own)}"
        )
    return class_map(own, classes, name, recipe.labels)
