"""From a recipe to the things that a run needs: data, student, mentors, method."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from classroomkd.config.schema import RunRecipe, mentor_names
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.mentor_outputs import MentorOutputs
from classroomkd.engine.places import choose_device, task_of
from classroomkd.engine.skip_schedule import SkipSchedule
from classroomkd.engine.step import student_outputs
from classroomkd.engine.stores import open_stores
from classroomkd.errors import ClassroomError
from classroomkd.mentors import AwayMentor, Mentor
from classroomkd.methods import Method, Outputs, create_method, method_class
from classroomkd.tasks.base import Task


def build_classroom(
    recipe: RunRecipe, say: Callable[[str], object] = print, team: DistContext = SINGLE_PROCESS
) -> Classroom:
    """Build everything that a recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Args:
        recipe: checked.
        say: told what was left out of the data, and about damage in the recipe's bank.
        team: the processes that train it together; each shows its part of every batch.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other, or if the bank
            holds other views or mentors.
    """
    device = choose_device(recipe.train.device, team)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    task = task_of(recipe, device, team)
    train_set, dev_set = task.training_sets()
    for note in train_set.notes:
        say(note)
    team.check_shares(len(train_set), recipe.train.batch_size, called=task.samples)

    torch.manual_seed(recipe.seed)
    student = task.build_student(train_set)
    student.to(device=device, memory_format=memory_format)
    mentors = open_mentors(task, student, train_set, team)
    for note in task.prepare(student, mentors, train_set):
        say(note)
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options)
    dev = None if dev_set is None else task.plain_loader(dev_set)
    if method.needs_accuracy and dev is not None:  # a recipe without is refused
        found = [task.evaluate_mentor(mentor, dev) for mentor in mentors]
        told = (f"{m.name} {value:.1f} %" for m, value in zip(mentors, found, strict=True))
        say(f"mentors count by their accuracy on the development split: {', '.join(told)}")
        method.set_accuracy(found)
    train = task.training_loader(train_set, views=method.views)
    example = _show_shapes(task, method, student, mentors, train_set)
    return Classroom(
        recipe=recipe,
        task=task,
        student=student.train(),
        mentors=mentors,
        method=method.to(device),
        train=train,
        dev=dev,
        device=device,
        mentor_outputs=MentorOutputs(
            mentors,
            method,
            example,
            task.bins,
            open_stores(task, train_set, mentors, say),
            recipe.bank.top if recipe.bank else None,
            _skip_schedule(recipe, mentors),
            team,
            shared=recipe.train.mentor_placement == "shard",
        ),
        team=team,
    )


def _skip_schedule(recipe: RunRecipe, mentors: list[Mentor]) -> SkipSchedule | None:
    skip = recipe.train.skip
    if skip is None or not mentors:
        return None
    always = {place for place, mentor in enumerate(mentors) if mentor.learns}
    return SkipSchedule(len(mentors), skip.below, skip.every, always)


def open_mentors(
    task: Task, student: Any, train_set: Any, team: DistContext = SINGLE_PROCESS
) -> list[Mentor]:
    """The mentors that a recipe's method learns from, where the recipe places them."""
    recipe, device = task.recipe, task.place.device
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    mentors: list[Mentor] = []
    for place, (entry, name) in enumerate(method_mentors(recipe), start=1):
        torch.manual_seed(recipe.seed + 7919 * place)  # for those that start from nothing
        mentor = task.open_mentor(entry, name, student, train_set)
        if recipe.train.mentor_placement == "shard" and (place - 1) % team.size != team.rank:
            mentor.adapter.to(device)
            mentors.append(AwayMentor(name, entry.role, mentor.adapter))
            continue
        offload = recipe.train.mentor_placement == "offload" and mentor.here and not mentor.learns
        mentors.append((mentor.offload if offload else mentor.to)(device, memory_format))
    return mentors


@torch.no_grad()
def _show_shapes(
    task: Task, method: Method, student: Any, mentors: Sequence[Mentor], train_set: Any
) -> Outputs:
    """Let a method see the training set, and what the networks say about two samples of it.

    From the shapes it builds its adapters and memories.

    Returns:
        What the student says about the two samples, in eval mode.
    """
    inputs = task.example(train_set, 2)
    learning = [student, *(mentor.network for mentor in mentors if mentor.learns)]
    for network in learning:
        network.eval()  # two samples are not to be in anybody's running statistics
    wanted = {"features": method.needs_features, "preactivations": method.needs_preactivations}
    try:
        method.on_train_set(train_set.index, task.labels(train_set))
        shown = student_outputs(task, student, inputs, method, SINGLE_PROCESS)
        unseen = Outputs(torch.zeros_like(shown.logits))  # of mentors that cannot run here
        said = [m.outputs(inputs, **wanted) if m.here else unseen for m in mentors]
        method.setup(shown, said)
    except ValueError as error:
        raise _misfit(method, student, mentors, error) from error
    for network in learning:
        network.train()
    return shown


def _misfit(
    method: Method, student: Any, mentors: Sequence[Mentor], error: ValueError
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


def method_mentors(recipe: RunRecipe) -> list[tuple[Any, str]]:
    """The entries of the mentors that the recipe's method learns from, each with its name."""
    everybody = list(zip(recipe.mentors, mentor_names(recipe.mentors), strict=True))
    num_mentors = method_class(recipe.method.name).num_mentors
    if num_mentors == 0:
        return []
    if num_mentors == 1 and len(everybody) > 1:
        return [(entry, name) for entry, name in everybody if entry.role == "teacher"]
    return everybody
