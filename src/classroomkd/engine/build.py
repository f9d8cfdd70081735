"""From a recipe to the things that a run needs: data, student, mentors, method."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from classroomkd.config import AnyRecipe, Recipe
from classroomkd.config.schema import MentorRecipe
from classroomkd.data import ImageSet, PhotoSet, ViewLoader
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.mentor_outputs import MentorOutputs, outputs
from classroomkd.engine.skip_schedule import SkipSchedule
from classroomkd.engine.stores import open_stores
from classroomkd.engine.views import EVALUATION_BATCH, choose_device, training_sets, training_views
from classroomkd.errors import ClassroomError
from classroomkd.mentors import AwayMentor, Mentor, mentor_names, open_mentor
from classroomkd.methods import Method, Outputs, create_method, method_class
from classroomkd.models import Network, build_model, load_weights
from classroomkd.models.external.pixels import FitPixels
from classroomkd.tasks.classification import accuracy


def build_classroom(
    recipe: Recipe, say: Callable[[str], object] = print, team: DistContext = SINGLE_PROCESS
) -> Classroom:
    """Build everything that a recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Args:
        recipe: checked.
        say: told about damage in the recipe's bank.
        team: the processes that train it together; each shows its part of every batch.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other, or if the bank
            holds other views or mentors.
    """
    device = choose_device(recipe.train.device, team)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    train_set, dev_set = training_sets(recipe.data)
    for note in train_set.notes:
        say(note)
    classes = train_set.classes

    torch.manual_seed(recipe.seed)
    student = build_model(
        recipe.student.model,
        len(classes),
        mean=None if recipe.student.pretrained else train_set.mean,
        std=None if recipe.student.pretrained else train_set.std,
        pretrained=recipe.student.pretrained,
    )
    if recipe.student.checkpoint is not None:
        load_weights(student, recipe.student.checkpoint)
    student.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    mentors = open_mentors(recipe, train_set, device, team)
    for note in _enlargements(student, mentors, train_set):
        say(note)
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options)
    _check_bank(recipe, method)
    plain = partial(ViewLoader, device=device, channels_last=recipe.train.channels_last)
    dev = plain(dev_set, EVALUATION_BATCH) if dev_set is not None else None
    if method.needs_accuracy and dev is not None:  # a recipe without is refused
        found = [accuracy(mentor, dev) for mentor in mentors]
        told = (f"{m.name} {value:.1f} %" for m, value in zip(mentors, found, strict=True))
        say(f"mentors count by their accuracy on the development split: {', '.join(told)}")
        method.set_accuracy(found)
    _show_shapes(method, student, mentors, train_set, device)
    return Classroom(
        recipe=recipe,
        student=student,
        mentors=mentors,
        method=method.to(device),
        train=training_views(recipe, train_set, device, views=method.views, team=team),
        dev=dev,
        device=device,
        mentor_outputs=MentorOutputs(
            mentors,
            method,
            device,
            len(classes),
            open_stores(recipe, train_set, mentors, say),
            recipe.bank.top if recipe.bank else None,
            _skip_schedule(recipe, method, mentors),
            team,
            shared=recipe.train.mentor_placement == "shard",
        ),
        team=team,
    )


def _enlargements(student: Network, mentors: list[Mentor], train_set: ImageSet) -> Iterator[str]:
    """Who sees the images larger than they are, which takes its time, in words."""
    height, width = train_set.subset(torch.arange(1)).images.shape[-2:]
    networks = [(f"the student {student.name}", student)]
    networks += [(f"the mentor {m.name}", m.network) for m in mentors if m.here]
    for who, network in networks:
        fit = getattr(network, "normalize", None)
        shown = fit.shown(height, width) if isinstance(fit, FitPixels) else (height, width)
        if shown[0] * shown[1] > height * width:
            photos = isinstance(train_set, PhotoSet)
            more = f"; data.size={max(shown)} shows it more of the photographs" if photos else ""
            yield (
                f"{who} sees images of {height} x {width} pixels enlarged to"
                f" {shown[0]} x {shown[1]}, which it is made for{more}"
            )


def _skip_schedule(recipe: Recipe, method: Method, mentors: list[Mentor]) -> SkipSchedule | None:
    skip = recipe.train.skip
    if skip is None or not mentors:
        return None
    if method.needs_features or recipe.bank is not None:
        raise ClassroomError(
            "train.skip leaves out mentors that would be run and whose logits hardly teach: it goes"
            " neither with methods that read features nor with a bank; leave it out"
        )
    always = {place for place, mentor in enumerate(mentors) if mentor.learns}
    return SkipSchedule(len(mentors), skip.below, skip.every, always)


def open_mentors(
    recipe: Recipe, train_set: ImageSet, device: torch.device, team: DistContext = SINGLE_PROCESS
) -> list[Mentor]:
    """The mentors that a recipe's method learns from, where the recipe places them."""
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    mentors = []
    for place, (entry, name) in enumerate(method_mentors(recipe), start=1):
        torch.manual_seed(recipe.seed + 7919 * place)  # for those that start from nothing
        if recipe.train.mentor_placement == "shard" and (place - 1) % team.size != team.rank:
            mentors.append(AwayMentor(name, entry.role))
            continue
        mentor = open_mentor(_normalised(entry, train_set), name, train_set.classes)
        offload = recipe.train.mentor_placement == "offload" and mentor.here and not mentor.learns
        mentors.append((mentor.offload if offload else mentor.to)(device, memory_format))
    return mentors


def _check_bank(recipe: Recipe, method: Method) -> None:
    stored = recipe.bank is not None or any(mentor.outputs for mentor in recipe.mentors)
    if stored and (method.needs_features or method.views > 1):
        wants = "reads features" if method.needs_features else "wants two views of a sample"
        raise ClassroomError(
            f"method '{recipe.method.name}' {wants}, and a bank holds the logits of one view:"
            " leave bank out, or use another method"
        )


def _normalised(entry: MentorRecipe, image_set: ImageSet) -> MentorRecipe:
    """A mentor that starts from nothing normalises by the data's pixels, as the student does."""
    if entry.run is not None or entry.checkpoint is not None:
        return entry
    own = {"mean": entry.mean or image_set.mean, "std": entry.std or image_set.std}
    return entry.model_copy(update=own)


@torch.no_grad()
def _show_shapes(
    method: Method,
    student: Network,
    mentors: list[Mentor],
    image_set: ImageSet,
    device: torch.device,
) -> None:
    """Let a method see the training set, and what the networks say about two images of it.

    From the shapes it builds its adapters and memories.
    """
    images = image_set.subset(torch.arange(2)).images.to(device).float().div(255)
    learning = [student, *(mentor.network for mentor in mentors if mentor.learns)]
    for network in learning:
        network.eval()  # two images are not to be in anybody's running statistics
    try:
        method.on_train_set(image_set.index, image_set.target)
        shown = outputs(student, images, method)
        unseen = Outputs(torch.zeros_like(shown.logits))  # of mentors that cannot run here
        said = [outputs(mentor, images, method) if mentor.here else unseen for mentor in mentors]
        method.setup(shown, said)
    except ValueError as error:
        raise _misfit(method, student, mentors, error) from error
    for network in learning:
        network.train()


def _misfit(
    method: Method, student: Network, mentors: list[Mentor], error: ValueError
) -> ClassroomError:
    """What to do where the networks do not show what a method reads."""
    taught = ", ".join(f"{m.name} ({getattr(m.network, 'name', '?')})" for m in mentors)
    cure = (
        "Take networks that show it (all of `classroomkd list models` do), or a method that reads"
        " less: every network has logits (classroom, kd, dist), nearly every one a pooled feature"
        " (rkd, pkt, crd) and stages (at, fitnets)"
    )
    return ClassroomError(
        f"method '{method.name}' does not go with the student {student.name} and the mentors"
        f" {taught or 'none'}: {error}. {cure if method.needs_features else ''}".removesuffix(" ")
    )


def method_mentors(recipe: AnyRecipe) -> list[tuple[Any, str]]:
    """The entries of the mentors that the recipe's method learns from, each with its name."""
    everybody = list(zip(recipe.mentors, mentor_names(recipe.mentors), strict=True))
    num_mentors = method_class(recipe.method.name).num_mentors
    if num_mentors == 0:
        return []
    if num_mentors == 1 and len(everybody) > 1:
        return [(entry, name) for entry, name in everybody if entry.role == "teacher"]
    return everybody
