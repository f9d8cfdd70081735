"""Mentors that speak about some units only, and ranks by other divergences than the likelihood."""

import pytest
import torch

from classroomkd.core import classroom_loss

M, B, U, K = 3, 5, 4, 6


def scene(seed=0):
    draw = torch.Generator().manual_seed(seed)
    student = torch.randn(B, U, K, generator=draw, dtype=torch.float64)
    mentors = torch.randn(M, B, U, K, generator=draw, dtype=torch.float64) * 2
    target = torch.randint(K, (B, U), generator=draw)
    weight = torch.rand(B, U, generator=draw, dtype=torch.float64) + 0.1
    return student, mentors, target, weight


@pytest.mark.parametrize("group", ["sample", "batch", "unit"])
def test_a_mentor_is_ranked_and_teaches_on_the_units_that_it_speaks_about(group):
    student, mentors, target, weight = scene()
    mentor_mask = torch.ones(M, U, dtype=torch.bool)
    mentor_mask[1, 2:] = False
    lesson = classroom_loss(
        student, mentors, target, unit_weight=weight, mentor_mask=mentor_mask, group=group
    )
    part = classroom_loss(
        student[:, :2], mentors[1:2, :, :2], target[:, :2], unit_weight=weight[:, :2], group=group
    )
    kept = (1, slice(None), slice(0, 2)) if group == "unit" else (1,)
    for name in ("active", "gap", "temperature", "mentor_score"):
        torch.testing.assert_close(getattr(lesson, name)[kept], getattr(part, name)[0])
    if group == "unit":
        assert not lesson.active[1, :, 2:].any()
    else:  # weights are shares of everybody's scores; the rest of the term is the part's
        term = lesson.mentor_loss[1] / lesson.weight[1]
        torch.testing.assert_close(term, part.mentor_loss[0] / part.weight[0])


def test_what_a_mentor_does_not_speak_about_has_no_effect():
    student, mentors, target, weight = scene()
    mentor_mask = torch.ones(M, B, U, dtype=torch.bool)
    mentor_mask[0, :, 1] = False
    mentor_mask[2, 3] = False  # it says nothing at all about one sample
    clean = classroom_loss(student, mentors, target, unit_weight=weight, mentor_mask=mentor_mask)
    spoiled = torch.where(mentor_mask.unsqueeze(-1), mentors, torch.nan)
    lesson = classroom_loss(student, spoiled, target, unit_weight=weight, mentor_mask=mentor_mask)
    torch.testing.assert_close(lesson.loss, clean.loss)
    assert not lesson.active[2, 3]
    assert lesson.mentor_loss[2, 3] == 0


def test_all_units_heard_changes_nothing():
    student, mentors, target, weight = scene()
    usual = classroom_loss(student, mentors, target, unit_weight=weight)
    mentor_mask = torch.ones(M, U, dtype=torch.bool)
    lesson = classroom_loss(student, mentors, target, unit_weight=weight, mentor_mask=mentor_mask)
    torch.testing.assert_close(lesson.loss, usual.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(lesson.temperature, usual.temperature)


def test_unheard_units_get_no_gradient():
    student, mentors, target, _ = scene()
    student.requires_grad_(True)
    mentor_mask = torch.zeros(M, U, dtype=torch.bool)
    mentor_mask[:, 0] = True
    classroom_loss(
        student, mentors, target, mentor_mask=mentor_mask, filtering=False, task_weight=0.0
    ).loss.backward()
    assert student.grad is not None
    assert (student.grad[:, 0] != 0).any()
    assert (student.grad[:, 1:] == 0).all()


def test_units_without_label_are_taught_at_the_rank_of_their_sample_if_asked():
    student, mentors, target, _ = scene()
    visible = torch.ones(B, U, dtype=torch.float64)
    visible[:, 3] = 0
    labelled = {"unit_weight": visible, "task_weight": 0.0}
    everything = torch.ones_like(visible)
    usual = classroom_loss(student, mentors, target, **labelled)
    lesson = classroom_loss(student, mentors, target, mentor_unit_weight=everything, **labelled)
    for name in ("active", "temperature", "weight", "student_score"):
        torch.testing.assert_close(getattr(lesson, name), getattr(usual, name))
    student.requires_grad_(True)
    for weight, touched in ((None, False), (everything, True)):
        loss = classroom_loss(student, mentors, target, mentor_unit_weight=weight, **labelled).loss
        (gradient,) = torch.autograd.grad(loss, student)
        assert bool((gradient[:, 3] != 0).any()) is touched
    wrong = target.clone()
    wrong[:, 3] = (wrong[:, 3] + 1) % K  # a label that nobody has given
    again = classroom_loss(student, mentors, wrong, mentor_unit_weight=everything, **labelled)
    torch.testing.assert_close(again.loss, lesson.loss)


def test_a_ranking_by_the_likelihood_is_the_usual_one():
    student, mentors, target, weight = scene()
    own = -student.log_softmax(-1).gather(-1, target[..., None]).squeeze(-1)
    others = -mentors.log_softmax(-1).gather(-1, target.expand(M, B, U)[..., None]).squeeze(-1)
    usual = classroom_loss(student, mentors, target, unit_weight=weight)
    ranked = classroom_loss(
        student, mentors, target, unit_weight=weight, rank_divergence=(own, others)
    )
    torch.testing.assert_close(ranked.loss, usual.loss)
    torch.testing.assert_close(ranked.student_score, usual.student_score)


def test_a_ranking_decides_who_teaches():
    student, mentors, target, _ = scene()
    rank_divergence = (
        torch.full((B, U), 0.5),
        torch.stack([torch.full((B, U), d) for d in (0.1, 0.6, 0.5)]),
    )
    lesson = classroom_loss(student, mentors, target, rank_divergence=rank_divergence)
    assert lesson.active[:, 0].tolist() == [True, False, False]
    torch.testing.assert_close(lesson.student_score, torch.full((B,), 0.5).neg().exp())
    gap = 1 - torch.tensor(0.1 - 0.5).exp()
    torch.testing.assert_close(lesson.temperature[0], (1 + 12 * gap).expand(B))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mentor_mask": torch.ones(M, B, dtype=torch.bool)}, r"mentor_mask has shape \(3, 5\), expected \(3, 4\) or"),
        ({"mentor_mask": torch.ones(M, 2, U, dtype=torch.bool)}, "mentor_mask has shape"),
        ({"mentor_unit_weight": torch.ones(B, 2)}, "mentor_unit_weight has shape"),
        ({"rank_divergence": (torch.zeros(B, U), torch.zeros(B, U))}, "rank_divergence has shapes"),
    ],
)  # fmt: skip
def test_shapes_that_do_not_fit_are_named(options, message):
    student, mentors, target, _ = scene()
    with pytest.raises(ValueError, match=message):
        classroom_loss(student, mentors, target, **options)
