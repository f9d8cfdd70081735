"""The examination of a pose classroom."""

from collections.abc import Iterator

import torch
from torch import Tensor

from classroomkd.config import PoseRecipe
from classroomkd.data.pose import PoseBatch, PoseLoader, mirror_joints
from classroomkd.doctor.finding import Finding
from classroomkd.engine.balance import FirstLesson
from classroomkd.engine.pose import PoseClassroom, build_pose_classroom
from classroomkd.mentors.pose import PoseMentor
from classroomkd.tasks.pose import person_oks

PERSONS = 256
LEAST = 0.01  # of the joints, below which a mentor teaches almost nobody


def examine_pose(recipe: PoseRecipe) -> list[Finding]:
    """Build a pose recipe's classroom and look at it on plain crops and on a batch of views.

    Looks at the data: labels, and joints beyond the crops; at every mentor: the joints that it
    knows, its OKS on training persons, whether left and right are exchanged, mentors that say the
    same; and at the terms of the loss at the start.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    classroom = build_pose_classroom(recipe, lambda _: None)
    batch = _plain_batch(classroom)
    said = {m.name: m(batch.images, decoded=True).points for m in classroom.mentors}
    return [
        *_data(classroom, batch),
        *(f for m in classroom.mentors for f in _mentor(classroom, m, said[m.name], batch)),
        *_twins(said),
        *_terms(classroom),
    ]


def _plain_batch(classroom: PoseClassroom) -> PoseBatch:
    """Some training persons as an evaluation would show them."""
    persons = classroom.persons
    chosen = torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))[:PERSONS]
    loader = classroom.train
    plain = PoseLoader(
        persons.subset(chosen),
        PERSONS,
        size=loader.size,
        padding=loader.padding,
        device=classroom.device,
    )
    return next(iter(plain))


def _data(classroom: PoseClassroom, batch: PoseBatch) -> Iterator[Finding]:
    persons, dev = classroom.persons, classroom.dev
    labelled = (persons.visible > 0).float().sum(1).mean().item()
    kept = f"{len(dev.persons)} for development" if dev else "none kept apart for development"
    text = (
        f"{persons.name}: {len(persons)} training persons, {kept}; {labelled:.1f} of"
        f" {len(persons.joints)} joints labelled on average; boxes: {persons.box_source}"
    )
    yield Finding("ok" if dev else "warning", "data", text, "data")
    rows = torch.isin(persons.index, batch.index.cpu())
    shown, there = batch.visible.sum().item(), (persons.visible[rows] > 0).sum().item()
    lost = 100 * (1 - shown / max(there, 1))
    if lost > 2:
        yield Finding(
            "warning",
            "data",
            f"{lost:.1f} % of the labelled joints lie outside their crops and cannot be found",
            "data",
            "look at the boxes, or raise data.padding",
        )


def _mentor(
    classroom: PoseClassroom, mentor: PoseMentor, points: Tensor | None, batch: PoseBatch
) -> Iterator[Finding]:
    assert points is not None
    joints = classroom.persons.joints
    if not points.isfinite().all():
        cure = "get the weights again"
        yield Finding(
            "wrong", mentor.name, "sees joints nowhere: damaged weights?", "accuracy", cure
        )
        return
    visible = batch.visible * mentor.known
    everybody = torch.ones(len(points), dtype=torch.bool, device=points.device)
    straight, mirrored = (
        100 * person_oks(p, batch.points, visible, batch.area, joints.sigmas).nanmean().item()
        for p in (points, mirror_joints(points, joints, everybody))
    )
    lacking = [n for n, known in zip(joints.names, mentor.known.tolist(), strict=True) if not known]
    known = f"{len(joints) - len(lacking)} of {len(joints)} joints"
    if lacking:
        known += f" (not {', '.join(lacking)})"
    text = (
        f"{mentor.role}, frozen, knows {known}; OKS {straight:.1f} % on {len(points)} training"
        " persons"
    )
    middle = torch.tensor([[batch.images.shape[-1], batch.images.shape[-2]]]) / 2 - 0.5
    guess = middle.to(points).expand_as(points)
    chance = 100 * person_oks(guess, batch.points, visible, batch.area, joints.sigmas)
    if mirrored > straight + 10:
        yield Finding(
            "wrong",
            mentor.name,
            f"{text}; with left and right exchanged it would be {mirrored:.1f} %",
            "order",
            "its joints are in another order: give the names that it was trained with",
        )
    elif straight < chance.nanmean().item() + 5:
        yield Finding(
            "wrong",
            mentor.name,
            f"{text}, no better than to point at the middle of the crop",
            "accuracy",
            "it expects other pixels or joints, or was never trained",
        )
    else:
        yield Finding("ok", mentor.name, text, "accuracy")


def _twins(said: dict[str, Tensor | None]) -> Iterator[Finding]:
    seen: list[tuple[str, Tensor]] = []
    for name, points in said.items():
        assert points is not None
        for other, before in seen:
            if torch.allclose(points, before, atol=1e-2):
                text = "see the same: one network twice adds nothing"
                yield Finding("warning", f"{other}, {name}", text, "twins", "leave one out")
        seen.append((name, points))


def _terms(classroom: PoseClassroom) -> Iterator[Finding]:
    said: list[str] = []
    classroom.first = FirstLesson(classroom, said.append)
    classroom.begin_epoch(0)
    lesson = classroom.training_step(next(iter(classroom.train)))
    if not lesson.loss.isfinite():
        yield Finding("wrong", "loss", "is not finite on the first batch", "finite")
        return
    classroom.first.look(lesson)
    task = lesson.task_loss.mean().item()
    terms = lesson.mentor_loss.mean(1).tolist()
    parts = ", ".join(f"{m.name} {t:.3g}" for m, t in zip(classroom.mentors, terms, strict=True))
    score = "OKS" if classroom.pose_loss.score == "oks" else "likelihood"
    text = f"at the start: task {task:.3g}" + (
        f"; mentors, ranked by {score}: {sum(terms):.3g} ({parts})" if terms else ""
    )
    if said:
        yield Finding("warning", "loss", f"{text}. {said[0]}", "balance")
    else:
        yield Finding("ok", "loss", text, "balance")
    for mentor, share in zip(
        classroom.mentors, lesson.active.float().flatten(1).mean(1).tolist(), strict=True
    ):
        if share < LEAST:
            text = "would teach almost nobody: it is no better than the student"
            yield Finding("warning", mentor.name, text, "teaching", "leave it out")
