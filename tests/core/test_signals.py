"""Signals: without labels, with the names of before, and choices that are made once."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd import ClassroomLoss, classroom_loss
from classroomkd.core import combine, compose_lesson, make_signals
from classroomkd.core import loss as loss_module
from classroomkd.methods import Method, create_method

B, C, M = 5, 7, 3


def logits(seed, *shape):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


STUDENT, MENTORS, TARGET = logits(0, B, C), logits(1, M, B, C), torch.tensor([3, 0, 6, 6, 1])
UNRANKED = {"select": "all", "weighting": "equal", "mentoring": "fixed", "task_weight": 1.0}


@pytest.mark.parametrize("mix", ["terms", "logits", "zscores", "probabilities"])
def test_without_labels_mentors_teach_unranked(mix):
    student = STUDENT.clone().requires_grad_()
    lesson = classroom_loss(student, MENTORS, None, mix=mix, temperature=3.0, **UNRANKED)
    labelled = classroom_loss(student, MENTORS, TARGET, mix=mix, temperature=3.0, **UNRANKED)
    torch.testing.assert_close(lesson.mentor_loss, labelled.mentor_loss)
    assert (lesson.task_loss == 0).all()
    assert lesson.active.all()
    for unknown in (lesson.student_score, lesson.mentor_score, lesson.gap):
        assert unknown.isnan().all()
    lesson.loss.backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {**UNRANKED, "select": "better"},
        {**UNRANKED, "select": "best"},
        {**UNRANKED, "select": "soft"},
        {**UNRANKED, "weighting": "score"},
        {**UNRANKED, "mentoring": "gap"},
    ],
)
def test_what_ranks_by_labels_says_that_it_needs_them(options):
    with pytest.raises(ValueError, match=r"without a target nobody can be ranked.*select='all'"):
        classroom_loss(STUDENT, MENTORS, None, **options)
    with pytest.raises(ValueError, match="nobody is known to be correct"):
        classroom_loss(STUDENT, MENTORS, None, require_correct=True, **UNRANKED)


def test_ranks_from_elsewhere_need_no_labels():
    own, others = torch.full((B, 1), 1.0), torch.tensor([0.5, 1.5, 0.0]).view(M, 1, 1)
    blocks = STUDENT.unsqueeze(1), MENTORS.unsqueeze(2)
    lesson = classroom_loss(*blocks, None, rank_divergence=(own, others.expand(M, B, 1)))
    assert lesson.active.tolist() == [[True] * B, [False] * B, [True] * B]
    assert (lesson.task_loss == 0).all()


def test_a_mentor_that_says_nothing_finite_is_left_out_without_labels_too():
    mentors = MENTORS.clone()
    mentors[1, 2, 0] = torch.nan
    lesson = classroom_loss(STUDENT, mentors, None, **UNRANKED)
    assert lesson.active.sum() == M * B - 1
    assert lesson.loss.isfinite()


@pytest.mark.parametrize("name", ["kd", "aver", "lskd", "dist", "meal", "ebkd", "dgkd", "dtkd"])
def test_methods_without_labels(name):
    method = create_method(name)
    mentors = list(MENTORS)[: 1 if method.num_mentors == 1 else M]
    torch.manual_seed(0)
    unlabelled = method(STUDENT, mentors, None)
    torch.manual_seed(0)
    labelled = method(STUDENT, mentors, TARGET)
    torch.testing.assert_close(unlabelled.mentor_loss, labelled.mentor_loss)


@pytest.mark.parametrize("name", ["dkd", "rld", "wsld", "ca_mkd", "classroom", "nkd"])
def test_methods_that_need_labels_say_so(name):
    method = create_method(name, **({"feature_weight": 0.0} if name == "ca_mkd" else {}))
    mentors = list(MENTORS)[: 1 if method.num_mentors == 1 else M]
    with pytest.raises(ValueError, match="target"):
        method(STUDENT, mentors, None)


def test_a_method_takes_signals_with_units():
    student, mentors = logits(2, B, 4, C).requires_grad_(), logits(3, M, B, 4, C)
    target, weight = torch.zeros(B, 4, dtype=torch.long), torch.rand(B, 4)
    signals = make_signals(student, mentors, target, unit_weight=weight)
    ours = create_method("classroom", task_weight=1.0)(signals)
    core = classroom_loss(student, mentors, target, unit_weight=weight, task_weight=1.0)
    assert torch.equal(ours.loss, core.loss)
    alone = create_method("none")(signals)
    assert alone.mentor_loss.shape == (0, B)


def test_the_tasks_own_loss_takes_the_place_of_the_cross_entropy():
    signals = make_signals(STUDENT, MENTORS, TARGET, task_loss=lambda z, t: z[0].square().mean(-1))
    lesson = create_method("aver", weight=0.0)(signals)
    torch.testing.assert_close(lesson.loss, STUDENT.square().mean())


def test_choices_are_made_once(monkeypatch):
    loss = ClassroomLoss(prior=torch.ones(M))
    monkeypatch.setattr(loss_module, "classroom_choices", None)  # calling it again would fail
    for _ in range(2):
        loss(STUDENT, MENTORS, TARGET)


def test_names_of_before_are_taken_for_one_release():
    heard = torch.ones(M, 2, dtype=torch.bool)
    blocks = logits(4, B, 2, C), logits(5, M, B, 2, C), torch.zeros(B, 2, dtype=torch.long)
    with pytest.warns(DeprecationWarning, match="heard is now called mentor_mask"):
        old = classroom_loss(*blocks, heard=heard)
    assert torch.equal(old.loss, classroom_loss(*blocks, mentor_mask=heard).loss)
    choices = ClassroomLoss().choices()[1]
    with pytest.warns(DeprecationWarning, match="compose_lesson"):
        composed = compose_lesson(choices, *blocks)
    assert torch.equal(composed.loss, combine(make_signals(*blocks), choices).loss)
    with pytest.warns(DeprecationWarning, match="listens is now called num_mentors"):

        class Old(Method):
            listens = "one"

    assert Old.num_mentors == 1


def test_kd_without_labels_is_the_kl_divergence():
    lesson = create_method("kd", weight=1.0, temperature=2.0)(STUDENT, [MENTORS[0]], None)
    expected = 4 * F.kl_div(
        F.log_softmax(STUDENT / 2, -1), F.softmax(MENTORS[0] / 2, -1), reduction="batchmean"
    )
    torch.testing.assert_close(lesson.loss, expected)
