"""The examination: every check, on one classroom."""

from collections.abc import Iterator

from classroomkd.config import AnyRecipe, Recipe
from classroomkd.data import Batch
from classroomkd.doctor.accuracy import MentorPredictions
from classroomkd.doctor.finding import Finding
from classroomkd.doctor.mentors import find_behind, find_twins, judge_mentor, weights
from classroomkd.doctor.sample import ask, judged_on, plain_sample
from classroomkd.doctor.terms import judge_terms
from classroomkd.engine.build import build_classroom, method_mentors
from classroomkd.engine.classroom import Classroom
from classroomkd.engine.plan import forecast
from classroomkd.mentors import StoredMentor
from classroomkd.methods import Outputs


def examine(recipe: AnyRecipe) -> list[Finding]:
    """Build a recipe's classroom and look at it on plain images and on a batch of views.

    Looks at the data; at every frozen mentor: its mode, whether it says the same again, its
    accuracy, against chance and what its source claims, its class order and its pixels; at mentors
    that are the same network, or behind the student; at how much each term of the loss moves the
    student, at the full weight of the method (after its warm-up); at who teaches at the start; and
    at the time and memory that a run will take. Mentors that train along are not judged: they have
    learnt nothing yet.

    Raises:
        ClassroomError: if data or weights cannot be had or do not fit each other.
    """
    if not isinstance(recipe, Recipe):
        from classroomkd.doctor.pose import examine_pose  # its libraries are an extra

        return examine_pose(recipe)
    classroom = build_classroom(recipe)
    classroom.train.set_epoch(0)
    classroom.mentor_outputs.begin(classroom.train.view, classroom.train.samples())
    views, plain = next(iter(classroom.train)), plain_sample(classroom)
    taught = classroom.mentor_outputs(views)
    predictions = _hear(classroom, views, plain, taught)
    before = [weights(one.mentor) for one in predictions]
    judged = [finding for one in predictions for finding in judge_mentor(one, classroom, plain)]
    wrong = {finding.subject for finding in judged if finding.verdict == "wrong"}
    behind = list(
        find_behind([h for h in predictions if h.mentor.name not in wrong], classroom, plain)
    )
    known = wrong | {finding.subject for finding in behind}
    findings = [
        *_data(classroom, plain),
        *(
            Finding("ok", m.name, f"{m.role}, trains along: nothing to check before", "accuracy")
            for m in classroom.mentors
            if m.learns
        ),
        *judged,
        *find_twins(predictions),
        *behind,
        *judge_terms(classroom, views, taught, known),
        *_plan(classroom),
    ]
    changed = [
        one for one, old in zip(predictions, before, strict=True) if weights(one.mentor) != old
    ]
    for one in changed:
        text = "has changed while the student learnt: it is not frozen"
        findings.append(Finding("wrong", one.mentor.name, text, "frozen", "keep it in eval mode"))
    return findings


def _hear(
    classroom: Classroom, views: Batch, plain: Batch, taught: list[Outputs]
) -> list[MentorPredictions]:
    """What frozen mentors say: about plain images, or about views where a bank speaks for them."""
    predictions = []
    entries = (entry for entry, _ in method_mentors(classroom.recipe))
    _, called = judged_on(classroom)
    for mentor, entry, told in zip(classroom.mentors, entries, taught, strict=True):
        if mentor.learns:
            continue
        if isinstance(mentor, StoredMentor):
            target = views.label.cpu()
            predictions.append(
                MentorPredictions(mentor, entry, told.logits.float().cpu(), target, "augmented")
            )
        else:
            logits = ask(mentor, plain.images)
            target = plain.target[: len(logits)].cpu()
            predictions.append(MentorPredictions(mentor, entry, logits, target, called))
    return predictions


def _data(classroom: Classroom, plain: Batch) -> Iterator[Finding]:
    data, target = classroom.recipe.data, classroom.train.image_set.target
    low, high = plain.images.amin().item(), plain.images.amax().item()
    dev = f"{len(classroom.dev.image_set)} for development" if classroom.dev else "none kept apart"
    met, count = len(target.unique()), len(classroom.classes)
    classes = f"{count} class{'es' * (count > 1)}"
    classes += f", of which {met} have training images" if met < count else ""
    text = (
        f"{data.name}: {len(target)} training images, {dev}; {classes}; pixels from {low:.2f} to"
        f" {high:.2f}"
    )
    if met < 2:
        text += ". All training images are of one class: there is nothing to tell apart"
        yield Finding("wrong", "data", text, "data", "give images of two classes at least")
    elif classroom.dev:
        yield Finding("ok", "data", text, "data")
    else:
        text += ". Without a development split no epoch can be chosen honestly"
        yield Finding("warning", "data", text, "data", "set data.dev=0.1")
    if not (0 <= low < 0.25 and 0.5 < high <= 1):
        text = "pixels do not fill [0, 1]: are the images read rightly?"
        yield Finding("warning", "data", text, "data", "look at some images")


def _plan(classroom: Classroom) -> Iterator[Finding]:
    yield Finding("ok", "plan", forecast(classroom), "plan")
