"""What the doctor says about persons and their mentors."""

from collections.abc import Iterator

import torch
from torch import Tensor

from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor
from classroomkd.tasks.base import Finding
from classroomkd.tasks.pose.data import PoseBatch, PoseLoader, mirror_joints
from classroomkd.tasks.pose.mentor import JointAdapter
from classroomkd.tasks.pose.metrics import person_oks

PERSONS = 256


def examine(classroom: Classroom) -> list[Finding]:
    """Look at the data: labels, and joints beyond the crops; and at every mentor.

    Of these, at the joints that it knows, its OKS on training persons, whether left and right are
    exchanged, and mentors that say the same.
    """
    batch = _plain_batch(classroom)
    points = {m.name: _points(m, batch) for m in classroom.mentors if m.here and not m.learns}
    judged = [m for m in classroom.mentors if m.name in points]
    return [
        *_data(classroom, batch),
        *(f for m in judged for f in _mentor(classroom, m, points[m.name], batch)),
        *_twins(points),
    ]


def _points(mentor: Mentor, batch: PoseBatch) -> Tensor:
    """Where a mentor sees joints, ``[B, U, 2]``, in pixels of the student's input."""
    adapter = mentor.adapter
    assert isinstance(adapter, JointAdapter)
    decoded, adapter.decoded = adapter.decoded, True
    try:
        return mentor.outputs(batch.images).extras["points"]
    finally:
        adapter.decoded = decoded


def _plain_batch(classroom: Classroom) -> PoseBatch:
    """Some training persons as an evaluation would show them."""
    persons = classroom.train.dataset
    chosen = torch.randperm(len(persons), generator=torch.Generator().manual_seed(0))[:PERSONS]
    recipe = classroom.recipe
    plain = PoseLoader(
        persons.subset(chosen),
        PERSONS,
        size=recipe.student.input,
        padding=recipe.data.padding,
        device=classroom.device,
    )
    return next(iter(plain))


def _data(classroom: Classroom, batch: PoseBatch) -> Iterator[Finding]:
    persons, dev = classroom.train.dataset, classroom.dev
    labelled = (persons.visible > 0).float().sum(1).mean().item()
    kept = f"{len(dev.dataset)} for development" if dev else "none kept apart for development"
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
    classroom: Classroom, mentor: Mentor, points: Tensor, batch: PoseBatch
) -> Iterator[Finding]:
    joints, mask = classroom.train.dataset.joints, mentor.adapter.mask
    assert mask is not None
    if not points.isfinite().all():
        cure = "get the weights again"
        yield Finding(
            "wrong", mentor.name, "sees joints nowhere: damaged weights?", "accuracy", cure
        )
        return
    visible = batch.visible * mask
    everybody = torch.ones(len(points), dtype=torch.bool, device=points.device)
    straight, mirrored = (
        100 * person_oks(p, batch.points, visible, batch.area, joints.sigmas).nanmean().item()
        for p in (points, mirror_joints(points, joints, everybody))
    )
    lacking = [n for n, known in zip(joints.names, mask.tolist(), strict=True) if not known]
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


def _twins(said: dict[str, Tensor]) -> Iterator[Finding]:
    seen: list[tuple[str, Tensor]] = []
    for name, points in said.items():
        for other, before in seen:
            if torch.allclose(points, before, atol=1e-2):
                text = "see the same: one network twice adds nothing"
                yield Finding("warning", f"{other}, {name}", text, "twins", "leave one out")
        seen.append((name, points))
