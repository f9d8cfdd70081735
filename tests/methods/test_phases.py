"""AB, FSP and FT learn in two phases, in the run's epochs or with the first one before them."""

import pytest
import torch
from torch import nn

from classroomkd.methods import Outputs, create_method, list_methods, method_class
from classroomkd.methods.phases import TwoPhaseMethod, first_epochs
from tests.methods.scenes import TARGET, C, term
from tests.methods.test_activations import lesson_of, one_epoch, says, teach_in_epoch

SMALL = (5, 4, 4), (6, 4, 4), (7, 2, 2)
LARGE = (8, 8, 8), (9, 4, 4), (3, 3, 3)
IN_TURN = ["ab", "fsp"]  # the teacher's term alone, then the cross-entropy alone
BEFORE = {"init_epochs": 3}


def test_shares_of_epochs_are_rounded_up():
    found = [first_epochs(share, epochs) for share, epochs in [
        (0.125, 240), (0.125, 241), (0.125, 1), (0.125, 8), (0.07, 100), (0.29, 100), (0.99, 2),
    ]]  # fmt: skip
    assert found == [30, 31, 1, 1, 7, 29, 2]


def test_defaults_are_those_of_the_benchmark():
    """30 of 240 epochs; the weights of its run script, and none for the flow."""
    named = [n for n in list_methods() if issubclass(method_class(n), TwoPhaseMethod)]
    assert named == ["ab", "fsp", "ft"]
    methods = {name: create_method(name) for name in named}
    assert all(m.init_share * 240 == 30 and m.extra_epochs == 0 for m in methods.values())
    assert methods["fsp"].weight == 1
    assert not methods["fsp"].joint
    assert methods["ab"].weight == pytest.approx(3e-3)
    assert methods["ft"].factor_weight == 200


def student_and_mentor():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    student.logits.requires_grad_()
    for value in student.features.values():
        value.requires_grad_()
    return student, mentor


def reached(method, student, lesson):
    """Whether logits, features and the method's parts have gradients; what nothing teaches, none.

    A gradient of 0 would let weight decay and momentum move them.
    """
    tensors = [student.logits, *student.features.values(), *method.parameters()]
    for tensor in tensors:
        tensor.grad = None
    lesson.loss.backward()
    logits, *features = [student.logits, *student.features.values()]
    features = [f for f in features if f.grad is not None]
    parts = [p for p in method.parameters() if p.grad is not None]
    return logits.grad is not None, bool(features), bool(parts)


@pytest.mark.parametrize(("options", "before"), [({}, 0), (BEFORE, 3)], ids=["share", "before"])
@pytest.mark.parametrize("name", IN_TURN)
def test_the_student_is_prepared_then_left_alone(name, options, before):
    student, mentor = student_and_mentor()
    method, both = lesson_of(name, student, mentor, **options)
    assert method.extra_epochs == before
    prepared, task = both.mentor_loss.mean(), both.task_loss.mean()
    assert prepared > 0
    torch.testing.assert_close(both.loss, prepared + task)
    for epoch in range(-before, 16):
        lesson = teach_in_epoch(method, student, mentor, epoch, 16)
        first = epoch < (0 if before else 2)
        torch.testing.assert_close(lesson.loss, prepared if first else task)
        assert lesson.mentor_loss.any() == first
        assert lesson.task_loss.any() == (not first)
        assert lesson.mentor_loss.dtype == torch.float64
        assert reached(method, student, lesson) == ((False, True, True) if first else (True, False, False))  # fmt: skip
    if not before:
        assert teach_in_epoch(method, student, mentor, 0, 1).mentor_loss.any()


def test_the_paraphraser_may_come_before_the_run():
    student, mentor = student_and_mentor()
    method, both = lesson_of("ft", student, mentor, **BEFORE)
    shared, _ = lesson_of("ft", student, mentor)
    shared.load_state_dict(method.state_dict())
    with_labels = teach_in_epoch(shared, student, mentor, 0, 8)
    taught = teach_in_epoch(shared, student, mentor, 1, 8)
    for epoch in range(-3, 8):
        lesson = teach_in_epoch(method, student, mentor, epoch, 8)
        if epoch < 0:
            torch.testing.assert_close(lesson.loss, term(with_labels))
            assert not lesson.task_loss.any()
            assert reached(method, student, lesson) == (False, False, True)
        else:
            assert torch.equal(lesson.loss, taught.loss)
            assert reached(method, student, lesson) == (True, True, True)
    torch.testing.assert_close(term(both), term(with_labels) + term(taught))


def test_the_flow_may_be_learnt_throughout():
    student, mentor = student_and_mentor()
    method, lesson = lesson_of("fsp", student, mentor, joint=True, weight=7)
    in_turn, _ = lesson_of("fsp", student, mentor, weight=7)
    flow = teach_in_epoch(in_turn, student, mentor, 0, 8).loss
    for epoch in range(8):
        assert torch.equal(teach_in_epoch(method, student, mentor, epoch, 8).loss, lesson.loss)
    torch.testing.assert_close(term(lesson), flow)
    with pytest.raises(ValueError, match="no first phase with joint: leave out init_epochs"):
        create_method("fsp", joint=True, init_epochs=3)


@pytest.mark.parametrize("name", IN_TURN)
def test_in_a_classroom_the_term_ends_too(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    classroom = create_method("classroom", task_weight=1.0, also=name)
    alone = create_method("classroom", task_weight=1.0)
    classroom.setup(student, [mentor])
    classroom.double()
    sure = Outputs(100 * nn.functional.one_hot(TARGET, C).double(), mentor.features)
    first, later = (teach_in_epoch(classroom, student, sure, epoch, 16) for epoch in (0, 2))
    usual = alone(student, [sure], TARGET)
    assert (first.mentor_loss > later.mentor_loss).all()
    torch.testing.assert_close(later.loss, usual.loss)


@pytest.mark.parametrize("name", ["ab", "fsp", "ft"])
def test_a_classroom_has_no_epochs_before_it(name):
    with pytest.raises(ValueError, match=f"{name} in a classroom has no epochs of its own"):
        create_method("classroom", also={"name": name, "init_epochs": 3})


def test_a_run_on_digits(digits_recipe, tmp_path):
    one_epoch({"name": "fsp"}, digits_recipe, tmp_path, epochs=2)
