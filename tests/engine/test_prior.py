"""Mentors that count by their accuracy on development data."""

import pytest
import torch

from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.errors import RecipeError
from classroomkd.methods.classroom import accuracy_prior


def test_accuracies_are_measured_said_and_kept_at_resume(digits_recipe, tmp_path):
    recipe = digits_recipe(method={"name": "classroom", "prior": "accuracy", "task_weight": 1})
    notes = []
    classroom = build_classroom(recipe, notes.append)
    told = [note for note in notes if "development split" in note]
    assert len(told) == 1
    assert all(mentor.name in told[0] for mentor in classroom.mentors)
    prior = classroom.method.loss.prior
    assert prior.sum().item() == pytest.approx(len(classroom.mentors), abs=1e-4)
    found = [float(part.rsplit(" ", 2)[1]) for part in told[0].split(": ", 1)[1].split(", ")]
    torch.testing.assert_close(prior, accuracy_prior(torch.tensor(found)), atol=0.05, rtol=0)
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    assert (tmp_path / "run" / "summary.json").exists()


def test_without_development_samples_it_is_refused(digits_recipe):
    with pytest.raises(RecipeError, match=r"method\.prior.*data\.dev=0"):
        digits_recipe(
            method={"name": "classroom", "prior": "accuracy"}, data={"name": "digits", "dev": 0}
        )
