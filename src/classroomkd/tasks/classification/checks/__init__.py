"""What the doctor says about images and the mentors of their classes.

``C`` classes.
"""

from collections.abc import Iterator, Sequence

from classroomkd.data import Batch
from classroomkd.engine.build import method_mentors
from classroomkd.engine.classroom import Classroom
from classroomkd.mentors import StoredMentor
from classroomkd.methods import Outputs
from classroomkd.tasks.base import Finding
from classroomkd.tasks.classification.checks.accuracy import MentorPredictions
from classroomkd.tasks.classification.checks.mentors import find_behind, find_twins, judge_mentor
from classroomkd.tasks.classification.checks.sample import ask, judged_on, plain_sample


def examine(classroom: Classroom, views: Batch, taught: Sequence[Outputs]) -> list[Finding]:
    """Look at the data, and at every frozen mentor.

    Of a mentor, at its mode, whether it says the same again, its accuracy, against chance and what
    its source claims, its class order and its pixels; and at mentors that are the same network, or
    behind the student.
    """
    plain = plain_sample(classroom)
    predictions = _predictions(classroom, views, plain, taught)
    judged = [finding for one in predictions for finding in judge_mentor(one, classroom, plain)]
    wrong = {finding.subject for finding in judged if finding.verdict == "wrong"}
    sound = [one for one in predictions if one.mentor.name not in wrong]
    return [
        *_data(classroom, plain),
        *judged,
        *find_twins(predictions),
        *find_behind(sound, classroom, plain),
    ]


def _predictions(
    classroom: Classroom, views: Batch, plain: Batch, taught: Sequence[Outputs]
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
    data, target = classroom.recipe.data, classroom.train.dataset.target
    low, high = plain.images.amin().item(), plain.images.amax().item()
    dev = f"{len(classroom.dev.dataset)} for development" if classroom.dev else "none kept apart"
    met, count = len(target.unique()), len(classroom.train.dataset.classes)
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
