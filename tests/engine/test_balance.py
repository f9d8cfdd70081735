"""Whether mentors and task are heard beside each other: the measure, and the word at the start."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd.config.published import fill_published
from classroomkd.config.schema import MethodRecipe
from classroomkd.core import Lesson
from classroomkd.engine.balance import imbalance, usual_options
from classroomkd.engine.gradients import measure_strength
from classroomkd.engine.run import train
from classroomkd.methods import Outputs, create_method


def drawn(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_strength_of_kd_by_hand():
    """CE has the gradient ``(p - y) / B`` for the logits, KD ``w tau (p_tau - q_tau) / B``."""
    weights, x, mentor = drawn(0, 5, 3).requires_grad_(), drawn(1, 4, 3), drawn(2, 4, 5)
    target = torch.tensor([0, 4, 2, 2])
    logits = x @ weights.T
    method = create_method("kd", temperature=3.0, weight=0.7, task_weight=0.2)
    found = measure_strength(
        Outputs(logits), lambda: method(Outputs(logits), [mentor], target), target, [weights]
    )
    z = logits.detach()
    label = (z.softmax(1) - F.one_hot(target, 5)) / 4
    taught = 0.7 * 3 * ((z / 3).softmax(1) - (mentor / 3).softmax(1)) / 4
    assert found.logits == pytest.approx((taught.norm() / label.norm()).item(), rel=1e-6)
    ratio = (taught.T @ x).norm() / (label.T @ x).norm()
    assert found.parameters == pytest.approx(ratio.item(), rel=1e-6)


def test_a_loss_on_features_reaches_the_parameters_alone():
    weights, x = drawn(0, 6, 3).requires_grad_(), drawn(1, 4, 3)
    student = Outputs(x @ weights.T, {"pooled": x @ weights.T})
    mentor = Outputs(drawn(2, 4, 6), {"pooled": drawn(3, 4, 6)})
    method, target = create_method("pkt"), torch.tensor([0, 1, 2, 3])
    found = measure_strength(student, lambda: method(student, [mentor], target), target, [weights])
    assert found.logits == 0 < found.parameters


@pytest.mark.parametrize(
    ("method", "times", "text", "cure"),
    [
        ({"name": "kd", "weight": 9}, 21.0, "drown the task", "lower method.weight"),
        ({"name": "kd", "weight": 9}, 19.0, None, None),
        ({"name": "at"}, 130.0, None, None),  # as published
        ({"name": "at"}, 201.0, "drown the task", "lower method.weight"),
        ({"name": "classroom", "divergence": "dist"}, 58.0, "drown", "lower method.weight"),
        ({"name": "classroom", "also": "at"}, 58.0, "drown", "method.also={name: at, weight: ...}"),
        ({"name": "kd"}, 0.01, "hardly count", "raise method.weight"),
        ({"name": "kd"}, 0.03, None, None),
        ({"name": "fpd"}, 0.01, "hardly count", "use other mentors"),
    ],
)
def test_words(method, times, text, cure):
    found = imbalance(MethodRecipe(**method), times, usual=len(method) == 1)
    assert (found is None) == (text is None)
    if found:
        assert text in found[0]
        assert cure in found[1]


def test_options_as_published_are_usual(digits_recipe):
    def usual(**options):
        return usual_options(fill_published(digits_recipe(method=options)))

    assert usual(name="kd")
    assert usual(name="kd", weight=0.9)
    assert not usual(name="kd", weight=0.8)
    assert not usual(name="classroom", also="at")


def drowned(lines):
    return [line for line in lines if "drown" in line or "hardly count" in line]


def train_once(recipe, folder, **options):
    lines = []
    train(recipe, folder, progress=False, say=lines.append, **options)
    return lines


@pytest.fixture
def heard(digits_recipe, tmp_path):
    """A recipe with a mentor that has learnt, and so is ahead of a student that begins."""
    mentor = tmp_path / "learnt"
    train_once(digits_recipe(mentors=[], method={"name": "none"}), mentor)
    mentors = [{"run": str(mentor), "role": "teacher"}]
    return lambda method: digits_recipe(mentors=mentors, method=method, train={"epochs": 1})


def test_a_run_says_once_that_its_mentors_drown_the_task(heard, tmp_path):
    recipe = heard({"name": "classroom", "also": {"name": "at", "weight": 1e5}})
    [line] = drowned(train_once(recipe, tmp_path / "run"))
    assert "times the task's): lower the weight of the second method" in line
    assert not drowned(train_once(recipe, tmp_path / "run", resume=True))
    assert not drowned(train_once(heard({"name": "kd"}), tmp_path / "kd"))
    [line] = drowned(train_once(heard({"name": "kd", "weight": 1e-4}), tmp_path / "weak"))
    assert "raise method.weight" in line


def test_looking_changes_nothing(heard, tmp_path, monkeypatch):
    from classroomkd.engine import run
    from classroomkd.models import load_student

    class Blind(run.FirstLesson):
        def look(self, lesson: Lesson) -> None:
            self._sources = None

    recipe = heard({"name": "fitnets"})
    train_once(recipe, tmp_path / "seen")
    monkeypatch.setattr(run, "FirstLesson", Blind)
    train_once(recipe, tmp_path / "unseen")
    one, other = (load_student(tmp_path / name)[0].state_dict() for name in ("seen", "unseen"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_ramp_is_not_taken_for_weakness(heard, tmp_path):
    """DKD's weight begins with a twentieth."""
    method = {"name": "dkd", "alpha": 0.1, "beta": 0.1, "warmup_epochs": 400}
    assert not drowned(train_once(heard(method), tmp_path / "dkd"))
