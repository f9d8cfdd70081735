"""The doctor looks at pose classrooms."""

import pytest
import torch

from classroomkd.doctor import conclude, examine
from classroomkd.engine.build import build_classroom
from classroomkd.tasks.pose.checks import _mentor
from tests.tasks.pose.engine.conftest import mentor_runs, persons, pose_recipe  # noqa: F401


@pytest.fixture(scope="module")
def recipe(persons, mentor_runs):  # noqa: F811
    return pose_recipe(
        persons,
        mentors=[{"run": str(mentor_runs / name)} for name in ("heatmap", "simcc")],
        method={"name": "classroom", "task_weight": 1},
    )


def verdicts(findings, aspect):
    return {f.subject: f.verdict for f in findings if f.aspect == aspect}


def test_every_part_is_looked_at(recipe):
    findings = examine(recipe)
    assert {f.subject for f in findings} == {"data", "heatmap", "simcc", "loss", "plan"}
    assert verdicts(findings, "data")["data"] == "ok"
    assert verdicts(findings, "balance").keys() == {"loss"}
    assert "40 training persons, 8 for development" in findings[0].text


def test_one_network_twice_is_noticed(recipe):
    twice = recipe.model_copy(update={"mentors": (recipe.mentors[0],) * 2})
    assert verdicts(examine(twice), "twins") == {"heatmap, heatmap-2": "warning"}


class Pointing:
    """A classroom's truth and a mentor, as far as one mentor's findings need them."""

    def __init__(self, recipe):
        self.classroom = build_classroom(recipe, lambda _: None)
        self.mentor = self.classroom.mentors[0]
        self.batch = next(iter(self.classroom.dev))

    def findings(self, points):
        return list(_mentor(self.classroom, self.mentor, points, self.batch))


def test_mentors_are_judged_by_where_they_point(recipe):
    look = Pointing(recipe)
    [good] = look.findings(look.batch.points)
    assert good.verdict == "ok"
    assert "OKS 100.0 %" in good.text
    swapped = look.batch.points[:, list(look.classroom.train.dataset.joints.mirrored)]
    [wrong] = look.findings(swapped)
    assert (wrong.verdict, wrong.aspect) == ("wrong", "order")
    assert "left and right" in wrong.text
    [blind] = look.findings(torch.zeros_like(look.batch.points))
    assert (blind.verdict, blind.aspect) == ("wrong", "accuracy")
    [broken] = look.findings(torch.full_like(look.batch.points, torch.nan))
    assert not conclude([broken]).ready
