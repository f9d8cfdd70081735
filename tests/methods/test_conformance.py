"""Every registered method keeps to every requirement of `conformance`."""

import pytest
from torch import nn

from classroomkd.methods import SingleMethod, list_methods, register_method, registry
from tests.methods import conformance
from tests.methods.conformance import EXEMPT, REQUIREMENTS


@pytest.mark.parametrize("name", list_methods())
@pytest.mark.parametrize("check", REQUIREMENTS)
def test_conformance(check, name):
    if reason := EXEMPT.get(check, {}).get(name):
        pytest.skip(reason)
    REQUIREMENTS[check](name)


def test_exemptions_name_what_exists():
    assert EXEMPT.keys() <= REQUIREMENTS.keys()
    assert {name for exempt in EXEMPT.values() for name in exempt} <= set(list_methods())


class Imitation(SingleMethod):
    """A feature method as they will come: an adapter of its own, and the pooled features."""

    title = "Imitation"
    kind = "feature"
    needs_features = True

    def __init__(self, *, weight: float = 0.5) -> None:
        super().__init__()
        self.weight = weight
        self.adapter = nn.LazyLinear(64)

    def term(self, student, mentor, target, index=None):
        here = self.adapter(student.features["pooled"].float())
        there = mentor.features["pooled"].detach().float()
        return self.weight * (here - there).square().mean(1)


@pytest.fixture
def scratch(monkeypatch):
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize("check", [c for c in REQUIREMENTS if c != "double_precision_is_kept"])
def test_the_suite_serves_feature_methods(check):
    register_method("imitation")(Imitation)
    REQUIREMENTS[check]("imitation")


@pytest.mark.usefixtures("scratch")
@pytest.mark.parametrize(
    ("fault", "check"),
    [
        ("leaks", "gradients_reach_the_student_and_the_method_alone"),
        ("attached", "statistics_are_detached_and_shaped"),
        ("unequal", "values_of_samples_average_to_the_loss"),
        ("random", "equal_seeds_give_equal_lessons"),
        ("infinite", "finite_on_extreme_logits"),
        ("half", "half_precision_gives_float32_statistics"),
    ],
)
def test_the_suite_finds_faults(fault, check):
    """Each requirement fails for a method that breaks it."""

    @register_method("faulty")
    class Faulty(Imitation):
        """Wrong in one way."""

        calls = 0

        def lesson(self, signals):
            good = super().lesson(signals)
            Faulty.calls += 1
            student, mentor = signals.outputs
            logits = mentor.logits
            return conformance.Lesson(**{**vars(good), **{
                "leaks": {"loss": good.loss + logits.sum()},
                "attached": {"gap": student.logits.sum(1)[None]},
                "unequal": {"loss": good.loss + 1},
                "random": {"loss": good.loss + Faulty.calls},
                "infinite": {"gap": logits.exp().sum(1)[None].detach()},
                "half": {"gap": logits.sum(1)[None].detach()},
            }[fault]})  # fmt: skip

    with pytest.raises(AssertionError):
        REQUIREMENTS[check]("faulty")
