"""What can be wrong with mentors: seen from what they say about plain images.

Shapes: ``N`` images, ``C`` classes.
"""

from collections.abc import Iterator, Sequence
from itertools import combinations

import torch
from torch import Tensor

from classroomkd.data import Batch
from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import Mentor
from classroomkd.tasks.base import Finding
from classroomkd.tasks.classification.checks.accuracy import (
    MentorPredictions,
    as_claimed,
    judge_accuracy,
)
from classroomkd.tasks.classification.checks.order import best_order, right_in_best_order
from classroomkd.tasks.classification.checks.pixels import Scale, better_pixels
from classroomkd.tasks.classification.checks.sample import ask, gain
from classroomkd.tasks.classification.recipe import MentorRecipe

COMPANY = 16  # images that a mentor is asked about once more, without the others


def judge_mentor(
    predictions: MentorPredictions, classroom: Classroom, batch: Batch
) -> list[Finding]:
    """All that is to be said about one frozen mentor.

    Args:
        predictions: what it said.
        classroom: where it teaches.
        batch: the images that it was shown, or more.
    """
    mentor, name = predictions.mentor, predictions.mentor.name
    findings = list(_frozen(mentor))
    if not torch.isfinite(predictions.logits).all():
        text = "gives logits that are not finite: damaged weights?"
        return [*findings, Finding("wrong", name, text, "finite", "get its weights again")]
    doubts = list(_order(predictions, classroom.train.dataset.classes))
    if not doubts and mentor.here:
        image_set = classroom.train.dataset
        doubts = list(_pixels(predictions, batch, (image_set.mean, image_set.std)))
    if mentor.here:
        doubts += _steady(predictions, batch)
    if not doubts:
        doubts = list(judge_accuracy(predictions, classroom))
    if doubts:
        return [*findings, *doubts]
    order = "order mapped by name" if mentor.class_map is not None else "same order"
    text = f"{mentor.role}, frozen, {order}; {predictions.seen}{as_claimed(predictions, classroom)}"
    return [*findings, Finding("ok", name, text, "accuracy")]


def _frozen(mentor: Mentor) -> Iterator[Finding]:
    training = any(module.training for module in mentor.network.modules())
    if training or any(p.requires_grad for p in mentor.network.parameters()):
        text = "is in training mode or has gradients: it would change"
        cure = "call network.eval().requires_grad_(False)"
        yield Finding("wrong", mentor.name, text, "frozen", cure)


def _steady(predictions: MentorPredictions, batch: Batch) -> Iterator[Finding]:
    """Whether it says the same of an image when it is asked again, among fewer others."""
    count = min(COMPANY, len(predictions.logits) // 2)
    if count < 2:
        return
    before, again = (
        predictions.logits[:count],
        predictions.mentor(batch.images[:count]).float().cpu(),
    )
    if (again - before).abs().max() > 0.01 * before.abs().max():
        text = "says something else about the same images when it is asked again, among fewer"
        cure = "see that it uses no dropout and no statistics of the batch in eval mode"
        yield Finding("wrong", predictions.mentor.name, text, "frozen", cure)


def _order(predictions: MentorPredictions, classes: tuple[str, ...]) -> Iterator[Finding]:
    """Whether more were right if its classes stood in another order."""
    count = len(predictions.target.unique())
    if count < 2 or len(predictions.target) < 2 * count:
        return  # too few to tell orders apart
    ordered = right_in_best_order(predictions.said, predictions.target, len(classes))
    share = 100 * ordered.float().mean().item()
    if not gain(ordered, predictions.right) or share < min(50 * (1 + 1 / count), 1000 / count):
        return  # even one that was never trained gains something
    order = best_order(predictions.said, predictions.target, len(classes))
    moved = predictions.said.bincount(minlength=len(classes)).argsort(descending=True).tolist()
    shown = [f"{classes[k]} for {classes[order[k]]}" for k in moved if order[k] != k][:3]
    text = (
        f"{predictions.seen}, and {share:.0f} % if its classes stood in another order: it says"
        f" {', '.join(shown)}"
    )
    cure = "its class order is wrong: give its classes (names in the order of its logits) or labels"
    yield Finding("wrong", predictions.mentor.name, text, "order", cure)


def _pixels(predictions: MentorPredictions, batch: Batch, data: Scale) -> Iterator[Finding]:
    """Whether more were right if it got other pixels."""
    images, target = batch.images[: len(predictions.said)], predictions.target
    found = better_pixels(predictions.mentor, images, target, predictions.said, data)
    if found is None:
        return
    what, points, scale = found
    text = f"{predictions.seen}, and {points:.0f} points more with other pixels: {what}"
    yield Finding(
        "wrong", predictions.mentor.name, text, "pixels", _other_pixels(predictions.entry, scale)
    )


def _other_pixels(entry: MentorRecipe, scale: Scale | None) -> str:
    if scale is None:
        return "turn its first layer's input channels round, and save its weights again"
    if entry.checkpoint is None:
        return "its source tells of other pixels than it was trained on: see whether it is whole"
    mean, std = ([round(value, 4) for value in values] for values in scale)
    return f"give mean: {mean} and std: {std} with its checkpoint"


def find_twins(predictions: Sequence[MentorPredictions]) -> Iterator[Finding]:
    """Mentors that say the same about all images that both were asked about.

    Weights that were saved in half precision, or logits that are all shifted, do not hide a twin.
    """
    for one, other in combinations(predictions, 2):
        count = min(len(one.logits), len(other.logits))
        here, there = (_centred(who.logits[:count]) for who in (one, other))
        if (here - there).abs().max() <= 0.01 * there.abs().max():
            names = f"{one.mentor.name}, {other.mentor.name}"
            text = "say the same: one network twice adds nothing"
            yield Finding("warning", names, text, "twins", "leave one of them out")


def find_behind(
    predictions: Sequence[MentorPredictions], classroom: Classroom, batch: Batch
) -> Iterator[Finding]:
    """Mentors that are right less often than a student that starts from trained weights."""
    asked = [one for one in predictions if one.mentor.here]
    if classroom.recipe.student.checkpoint is None or not asked:
        return
    student = classroom.student.eval()
    with torch.inference_mode():
        said = ask(student, batch.images).argmax(-1)
    student.train()
    for one in asked:
        count = min(len(said), len(one.said))
        right = said[:count] == one.target[:count]
        if points := gain(right, one.right[:count]):
            text = f"{one.seen}, {points:.0f} points less than the student before it learns"
            cure = "use mentors that do better, or a method that asks who does (classroom)"
            yield Finding("warning", one.mentor.name, text, "teaching", cure)


def _centred(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)
