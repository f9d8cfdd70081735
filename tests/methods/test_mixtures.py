"""Mixtures in the product's own options, and the methods that are such: against float64."""

import pytest
import torch
import torch.nn.functional as F

from classroomkd import classroom_loss
from classroomkd.methods import Outputs, create_method, option_errors
from classroomkd.methods.classroom import accuracy_prior
from tests.methods.test_logits import TARGET, gradient, logits


def three(seed=1):
    return [logits(5, 7, seed=seed + m) for m in range(3)]


def rld_term(student, mentor, alpha, beta, tau):
    """RLD's two parts for every sample, written one at a time."""
    values = []
    for z, t, y in zip(student, mentor, TARGET, strict=True):
        b_t = t.softmax(0).max()
        b_s = z.softmax(0)[y]
        confidence = b_t * (b_t / b_s).log() + (1 - b_t) * ((1 - b_t) / (1 - b_s)).log()
        below = [k for k in range(len(t)) if t[k] < t[y]]
        p_t, p_s = F.softmax(t[below] / tau, 0), F.log_softmax(z[below] / tau, 0)
        order = (p_t * (p_t.log() - p_s)).sum() if below else torch.zeros(())
        values.append(alpha * confidence + beta * tau**2 * order)
    return torch.stack(values)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "beta": 2.0, "temperature": 2.0}])
def test_rld(options):
    student, mentor = logits(5, 7).requires_grad_(), logits(5, 7, seed=1)
    mentor[0, TARGET[0]] = mentor[0].min() - 1  # nothing lies below: only the confidence teaches
    lesson = create_method("rld", warmup_epochs=0, **options)(student, [mentor], TARGET)
    o = {"alpha": 1.0, "beta": 8.0, "temperature": 4.0} | options
    term = rld_term(student, mentor, o["alpha"], o["beta"], o["temperature"])
    expected = F.cross_entropy(student, TARGET) + term.mean()
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(gradient(lesson.loss, student), gradient(expected, student))


def test_a_mentor_that_errs_teaches_the_student_nothing_against_the_label_by_rld():
    student = torch.zeros(5, 7, dtype=torch.float64, requires_grad=True)
    wrong = torch.zeros(5, 7, dtype=torch.float64)
    wrong[:, 2] = 9.0  # sure of a class that is nobody's
    lesson = create_method("rld", warmup_epochs=0, task_weight=0.0)(student, [wrong], TARGET)
    slope = gradient(lesson.loss, student)
    assert (slope.gather(1, TARGET.unsqueeze(1)) < 0).all()  # the true class rises
    kd = create_method("kd", task_weight=0.0)(student, [wrong], TARGET)
    assert (gradient(kd.loss, student).gather(1, TARGET.unsqueeze(1)) > 0).all()


def test_rld_of_a_soft_target_takes_its_most_probable_class():
    student, mentor = logits(5, 7), logits(5, 7, seed=1)
    hard = create_method("rld", task_weight=0.0)(student, [mentor], TARGET)
    soft = F.one_hot(TARGET, 7).double() * 0.9 + 0.1 / 7
    torch.testing.assert_close(
        create_method("rld", task_weight=0.0)(student, [mentor], soft).mentor_loss, hard.mentor_loss
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 3.0, "weight": 0.4, "task_weight": 0.2}])
def test_meal(options):
    student, mentors = logits(5, 7).requires_grad_(), three()
    lesson = create_method("meal", **options)(student, mentors, TARGET)
    o = {"temperature": 1.0, "weight": 1.0, "task_weight": 0.0} | options
    tau = o["temperature"]
    mean = torch.stack([z.softmax(-1) for z in mentors]).mean(0).log()
    term = F.kl_div(
        F.log_softmax(student / tau, -1), F.softmax(mean / tau, -1), reduction="batchmean"
    )
    expected = o["task_weight"] * F.cross_entropy(student, TARGET) + o["weight"] * tau**2 * term
    torch.testing.assert_close(lesson.loss, expected)
    torch.testing.assert_close(gradient(lesson.loss, student), gradient(expected, student))


def test_weights_of_other_methods():
    student, mentors = logits(5, 7), three()
    equal = {"select": "all", "mentoring": "fixed", "temperature": 4.0, "task_weight": 1.0}
    for name, weighting in (("ca_mkd", "confidence"), ("ebkd", "entropy")):
        options = {"feature_weight": 0.0} if name == "ca_mkd" else {}
        theirs = create_method(name, **options)(student, mentors, TARGET)
        ours = create_method("classroom", weighting=weighting, **equal)(student, mentors, TARGET)
        torch.testing.assert_close(ours.loss, theirs.loss)
        torch.testing.assert_close(ours.weight, theirs.weight)
    aver = create_method("aver")(student, mentors, TARGET)
    ours = create_method("classroom", weighting="equal", normalize=True, **equal)
    torch.testing.assert_close(ours(student, mentors, TARGET).loss, aver.loss)


def test_without_temperature_in_the_weight_of_correlations():
    """At any temperature one active mentor of weight 1 teaches as DIST does at 2 * 4**2."""
    student, mentor = logits(5, 7), logits(5, 7, seed=1)
    for tau in (1.0, 4.0, 12.0):
        dist = create_method("dist", temperature=tau, weight=32.0 / tau**2)
        ours = create_method(
            "classroom", divergence="dist", select="all", weighting="equal", mentoring="fixed",
            temperature=tau, task_weight=1.0,
        )  # fmt: skip
        torch.testing.assert_close(
            ours(student, [mentor], TARGET).loss, dist(student, [mentor], TARGET).loss
        )


def test_ablations_are_those_of_the_authors_code():
    """Without a filter: the cross-entropy and every mentor's KL at temperature 1, unweighted."""
    student, mentors = logits(5, 7), three()
    lesson = create_method("classroom", ablation="no_filter")(student, mentors, TARGET)
    own = F.log_softmax(student, -1)
    terms = [F.kl_div(own, z.softmax(-1), reduction="batchmean") for z in mentors]
    torch.testing.assert_close(lesson.loss, F.cross_entropy(student, TARGET) + sum(terms))
    official = {"compat": "official", "ablation": "no_mentoring"}
    lesson = create_method("classroom", **official)(student, mentors, TARGET)
    assert (lesson.temperature == 1).all()
    for ablation, mentoring in (("no_mentoring", "none"), ("dtkd", "dtkd")):
        one = create_method("classroom", ablation=ablation)(student, mentors, TARGET)
        torch.testing.assert_close(
            one.loss, classroom_loss(student, mentors, TARGET, mentoring=mentoring).loss
        )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ablation": "no_filter", "mentoring": "fixed"}, "decides mentoring"),
        ({"ablation": "no_filter", "compat": "official"}, "leave compat out"),
        ({"ablation": "none"}, "no_filter"),
    ],
)
def test_ablations_that_contradict(options, said):
    with pytest.raises(ValueError, match=said):
        create_method("classroom", **options)


def test_prior_by_accuracy():
    prior = accuracy_prior(torch.tensor([50.0, 50.0, 40.0]))
    torch.testing.assert_close(prior.sum(), torch.tensor(3.0))
    torch.testing.assert_close(prior[0] / prior[2], torch.tensor(2.0).exp())
    student, mentors = logits(5, 7), three()
    method = create_method("classroom", prior="accuracy")
    assert method.needs_accuracy
    with pytest.raises(RuntimeError, match="set_accuracy"):
        method(student, mentors, TARGET)
    method.set_accuracy([50.0, 50.0, 40.0])
    plain = create_method("classroom")(student, mentors, TARGET)
    torch.testing.assert_close(
        method(student, mentors, TARGET).weight, plain.weight * prior.view(3, 1)
    )


@pytest.mark.parametrize("mix", ["terms", "logits"])
def test_a_second_method_takes_the_mixtures_weights(mix):
    student, mentors = Outputs(logits(5, 7)), [Outputs(z) for z in three()]
    options = {"divergence": "none", "mix": mix, "normalize": True, "task_weight": 0.0}
    method = create_method("classroom", also={"name": "kd", "weight": 1.0}, **options)
    method.setup(student, mentors)
    lesson = method(student, mentors, TARGET)
    assert lesson.loss > 0
    torch.testing.assert_close(lesson.loss, (lesson.mentor_loss.sum(0)).mean())


def test_options_are_validated():
    assert "weighting" in option_errors("classroom", {"weighting": "scores"})
    assert "mix" in option_errors("classroom", {"mix": "median"})


@pytest.mark.parametrize("name", ["ebkd", "ca_mkd", "aver", "meal", "dgkd"])
def test_who_says_nothing_finite_is_left_out_of_every_weight(name):
    options = {"ca_mkd": {"feature_weight": 0.0}, "dgkd": {"drop": 0}}.get(name, {})
    student, mentors = logits(5, 7).requires_grad_(), three()
    without = create_method(name, **options)(student, mentors[:2], TARGET)
    mentors[2] = torch.full_like(mentors[2], float("nan"))
    lesson = create_method(name, **options)(student, mentors, TARGET)
    assert not lesson.active[2].any()
    assert gradient(lesson.loss, student).isfinite().all()
    if name == "aver":  # a third of the weight is nobody's
        without = create_method(name, weight=2 / 3)(student, mentors[:2], TARGET)
    torch.testing.assert_close(lesson.loss, without.loss)
