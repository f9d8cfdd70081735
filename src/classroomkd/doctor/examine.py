"""The examination: every check, on one classroom."""

from collections.abc import Iterator

import torch

from classroomkd.config import AnyRecipe, Recipe
from classroomkd.data import Batch
from classroomkd.doctor.finding import Finding
from classroomkd.doctor.gradients import Shares, gradient_shares
from classroomkd.doctor.mentors import Heard, find_twins, judge_mentor, weights
from classroomkd.doctor.sample import ask, judged_on, plain_sample
from classroomkd.engine.build import build_classroom, heard_mentors
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.hearing import outputs
from classroomkd.engine.plan import forecast
from classroomkd.mentors import StoredMentor
from classroomkd.methods import Outputs, method_options

LEAST = 1.0  # percent of the gradient below which a term hardly counts


def examine(recipe: AnyRecipe) -> list[Finding]:
    """Build a recipe's classroom and look at it on plain images and on a batch of views.

    Looks at the data; at every frozen mentor: its mode, its accuracy, against what its source
    claims, its class order and its pixels; at mentors that are the same network; at how much each
    term of the loss moves the student, at the full weight of the method (after its warm-up); at who
    teaches at the start; and at the time and memory that a run will take. Mentors that train along
    are not judged: they have learnt nothing yet.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    if not isinstance(recipe, Recipe):
        from classroomkd.doctor.pose import examine_pose  # its libraries are an extra

        return examine_pose(recipe)
    classroom = build_classroom(recipe)
    classroom.train.set_epoch(0)
    classroom.hearing.begin(classroom.train.view, classroom.train.samples())
    views, plain = next(iter(classroom.train)), plain_sample(classroom)
    taught = classroom.hearing(views)
    heard = _hear(classroom, views, plain, taught)
    before = [weights(one.mentor) for one in heard]
    findings = [
        *_data(classroom, plain),
        *(
            Finding("ok", m.name, f"{m.role}, trains along: nothing to check before", "accuracy")
            for m in classroom.mentors
            if m.learns
        ),
        *(finding for one in heard for finding in judge_mentor(one, classroom, plain)),
        *find_twins(heard),
        *_terms(classroom, views, taught),
        *_plan(classroom),
    ]
    changed = [one for one, old in zip(heard, before, strict=True) if weights(one.mentor) != old]
    for one in changed:
        text = "has changed while the student learnt: it is not frozen"
        findings.append(Finding("wrong", one.mentor.name, text, "frozen", "keep it in eval mode"))
    return findings


def _hear(classroom: Classroom, views: Batch, plain: Batch, taught: list[Outputs]) -> list[Heard]:
    """What frozen mentors say: about plain images, or about views where a bank speaks for them."""
    heard = []
    entries = (entry for entry, _ in heard_mentors(classroom.recipe))
    _, called = judged_on(classroom)
    for mentor, entry, told in zip(classroom.mentors, entries, taught, strict=True):
        if mentor.learns:
            continue
        if isinstance(mentor, StoredMentor):
            target = views.label.cpu()
            heard.append(Heard(mentor, entry, told.logits.float().cpu(), target, "augmented"))
        else:
            logits = ask(mentor, plain.images)
            target = plain.target[: len(logits)].cpu()
            heard.append(Heard(mentor, entry, logits, target, called))
    return heard


def _data(classroom: Classroom, plain: Batch) -> Iterator[Finding]:
    data, count = classroom.recipe.data, len(classroom.train.image_set)
    low, high = plain.images.amin().item(), plain.images.amax().item()
    dev = f"{len(classroom.dev.image_set)} for development" if classroom.dev else "none kept apart"
    text = (
        f"{data.name}: {count} training images, {dev}; {len(classroom.classes)} classes; "
        f"pixels from {low:.2f} to {high:.2f}"
    )
    if classroom.dev:
        yield Finding("ok", "data", text, "data")
    else:
        text += ". Without a development split no epoch can be chosen honestly"
        yield Finding("warning", "data", text, "data", "set data.dev=0.1")
    if not (0 <= low < 0.25 and 0.5 < high <= 1):
        text = "pixels do not fill [0, 1]: are the images read rightly?"
        yield Finding("warning", "data", text, "data", "look at some images")


def _terms(classroom: Classroom, views: Batch, taught: list[Outputs]) -> Iterator[Finding]:
    """How much each term moves the student, and who teaches, in the first lesson."""
    student, method = classroom.student, classroom.method
    lesson, shares = gradient_shares(
        student,
        lambda: method(outputs(student, views.images, method), taught, views.target, views.index),
    )
    if not torch.isfinite(lesson.loss):
        text = "is not finite on the first batch"
        yield Finding("wrong", "loss", text, "finite", "lower the method's weights")
        return
    yield _balance(classroom, shares)
    active = lesson.active.float().flatten(1).mean(1)
    for mentor, share in zip(classroom.mentors, active, strict=False):
        if not mentor.learns and share.item() < 0.01:
            text = "would teach almost nobody: it is no better than the student"
            cure = "train it longer, or leave it out"
            yield Finding("warning", mentor.name, text, "teaching", cure)


def _balance(classroom: Classroom, shares: Shares) -> Finding:
    named = {"task": shares.task}
    named |= {m.name: n for m, n in zip(classroom.mentors, shares.mentors, strict=False)}
    named |= {"other terms": shares.rest} if shares.rest else {}
    parts = ", ".join(f"{name} {shares.percent(norm):.1f} %" for name, norm in named.items())
    text = f"gradient for the student at the start: {parts} (norm {shares.total:.3g})"
    mentors = shares.percent(sum(shares.mentors))
    options = method_options(classroom.method.name).model_fields
    if shares.mentors and mentors + shares.percent(shares.rest) < LEAST:
        cure = "raise method.weight" if "weight" in options else "use other mentors or methods"
        text += ". The mentors hardly count beside the task"
        return Finding("warning", "loss", text, "balance", cure)
    if 0 < shares.percent(shares.task) < LEAST:
        text += ". The task hardly counts beside the mentors"
        known = {"task_weight": "set method.task_weight=1", "weight": "lower method.weight"}
        cures = [cure for option, cure in known.items() if option in options]
        cure = ", or ".join(cures) or "lower the mentors' weight"
        return Finding("warning", "loss", text, "balance", cure)
    return Finding("ok", "loss", text, "balance")


def _plan(classroom: Classroom) -> Iterator[Finding]:
    yield Finding("ok", "plan", forecast(classroom), "plan")
