"""The ledger's means against means over all lessons at once."""

import math

import pytest
import torch

from classroomkd.core import classroom_loss
from classroomkd.engine.meter import EpochMeter


def lessons():
    generator = torch.Generator().manual_seed(0)
    for count in (8, 8, 3):
        yield classroom_loss(
            torch.randn(count, 5, generator=generator),
            3 * torch.randn(2, count, 5, generator=generator),
            torch.randint(5, (count,), generator=generator),
        )


def test_means_are_over_samples_and_taught_samples():
    meter, kept = EpochMeter(["a", "b"]), list(lessons())
    for lesson in kept:
        meter.add(lesson)
    student, mentors = meter.read()
    whole = {
        name: torch.cat([getattr(lesson, name) for lesson in kept], dim=-1)
        for name in ("task_loss", "mentor_loss", "student_score", "active", "gap", "temperature", "weight", "mentor_score")
    }  # fmt: skip
    total = (whole["task_loss"] + whole["mentor_loss"].sum(0)).mean().item()
    assert student["loss"] == pytest.approx(total, rel=1e-5)
    assert student["student_score"] == pytest.approx(whole["student_score"].mean().item())
    for m, row in enumerate(mentors):
        taught = whole["active"][m]
        assert row["mentor"] == "ab"[m]
        assert row["active_share"] == pytest.approx(taught.float().mean().item())
        for name in ("gap", "temperature", "weight"):
            assert row[name] == pytest.approx(whole[name][m][taught].mean().item(), rel=1e-5)
        assert row["score"] == pytest.approx(whole["mentor_score"][m].mean().item())


def test_reading_starts_anew_and_silence_is_not_a_number():
    meter = EpochMeter(["a"])
    student = torch.zeros(2, 3)
    meter.add(classroom_loss(student, [student], torch.tensor([0, 1])))
    _, [row] = meter.read()
    assert row["active_share"] == 0
    assert math.isnan(row["gap"])
    assert meter.read() == ({}, [])


def test_units_and_batch_relations_are_accepted():
    meter = EpochMeter(["a"])
    meter.add(
        classroom_loss(
            torch.zeros(2, 3, 4), torch.randn(1, 2, 3, 4), torch.zeros(2, 3).long(), group="unit"
        )
    )
    _, [row] = meter.read()
    assert 0 <= row["active_share"] <= 1
