"""From a pose recipe to the things that a run needs: persons, student, mentors, method."""

from collections.abc import Callable

import torch

from classroomkd.config.pose import PoseRecipe
from classroomkd.data.pose import PersonSet
from classroomkd.engine.build import method_mentors
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.pose.classroom import PoseClassroom
from classroomkd.engine.pose.lesson import PoseLoss
from classroomkd.engine.pose.views import plain_loader, training_loader, training_persons
from classroomkd.engine.views import choose_device
from classroomkd.errors import ClassroomError
from classroomkd.mentors.pose import PoseMentor, check_scores, open_pose_mentor
from classroomkd.methods import create_method
from classroomkd.models.pose import PoseNetwork, build_pose_model
from classroomkd.models.pose.files import load_pose_weights


def build_pose_classroom(
    recipe: PoseRecipe, say: Callable[[str], object] = print, team: DistContext = SINGLE_PROCESS
) -> PoseClassroom:
    """Build everything that a pose recipe names.

    The student's first weights depend on the seed alone, not on the mentors.

    Args:
        recipe: checked.
        say: told what was left out of the data, and how mentors are ranked.
        team: the processes that train it together; each shows its part of every batch.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    device = choose_device(recipe.train.device, team)
    memory_format = torch.channels_last if recipe.train.channels_last else torch.contiguous_format
    persons, dev = training_persons(recipe)
    for note in persons.notes:
        say(note)

    torch.manual_seed(recipe.seed)
    student = build_student(recipe, persons)
    student.to(device=device, memory_format=memory_format)  # type: ignore[call-overload]
    place = PoseMentor.offload if recipe.train.mentor_placement == "offload" else PoseMentor.to
    mentors = [
        place(open_pose_mentor(entry, name, student), device, memory_format)
        for entry, name in method_mentors(recipe)
    ]
    torch.manual_seed(recipe.seed)
    method = create_method(recipe.method.name, **recipe.method.options).to(device)
    pose_loss = choose_rules(recipe, mentors, persons, device)
    if mentors:
        say(f"mentors are ranked by {'OKS' if pose_loss.score == 'oks' else 'likelihood'}")
    if method.own_task:
        say(f"the task is {pose_loss.task}, as {method.name} has it")
    return PoseClassroom(
        recipe=recipe,
        student=student.train(),
        mentors=mentors,
        method=method,
        train=training_loader(recipe, persons, device, team),
        dev=None if dev is None else plain_loader(recipe, dev, device, team),
        device=device,
        pose_loss=pose_loss,
        team=team,
    )


def build_student(recipe: PoseRecipe, persons: PersonSet) -> PoseNetwork:
    """The recipe's student for the persons' joints, with its first weights."""
    entry, joints = recipe.student, persons.joints
    try:
        student = build_pose_model(
            entry.model,
            joints.names,
            joints.pairs,
            entry.input,
            pretrained=entry.pretrained,
            **entry.options,
        )
    except (ValueError, TypeError) as error:
        raise ClassroomError(f"student: {error}") from error
    if entry.checkpoint is not None:
        load_pose_weights(student, entry.checkpoint)
    return student


def choose_rules(
    recipe: PoseRecipe, mentors: list[PoseMentor], persons: PersonSet, device: torch.device
) -> PoseLoss:
    """What scores, units and the task are, where the recipe leaves it open."""
    lessons = recipe.lessons
    return PoseLoss(
        score=check_scores(mentors, lessons.score),
        task=lessons.task,
        unlabelled=lessons.unlabelled,
        sigmas=torch.tensor(persons.joints.sigmas, device=device),
    )
