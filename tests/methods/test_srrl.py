"""SRRL by its formula in float64: values, gradients, what is trained."""

import pytest
import torch

from classroomkd.methods import Outputs, create_method
from tests.methods.scenes import TARGET, random, term

B, C = 3, 4


def says(*shape, seed=0):
    torch.manual_seed(seed)
    last = torch.nn.Linear(shape[0], C).double()
    head = random(B, *shape, seed=seed).requires_grad_()
    features = {"head": head, "pooled": head.mean((2, 3))}
    return Outputs(random(B, C, seed=seed).requires_grad_(), features, last)


def set_up(student, mentor, **options):
    torch.manual_seed(0)
    method = create_method("srrl", **options)
    method.setup(student, [mentor])
    return method.double()


@pytest.mark.parametrize("options", [{}, {"weight": 2.0, "logit_weight": 5.0}])
def test_srrl_by_hand(options):
    student, mentor = says(5, 4, 4), says(8, 2, 3, seed=1)
    method = set_up(student, mentor, **options)
    lesson = method(student, [mentor], TARGET)
    (conv, norm), last = method.connector[0], mentor.classifier
    x = torch.einsum("od,bdhw->bohw", conv.weight[:, :, 0, 0], student.features["head"])
    x = x - x.mean((0, 2, 3), keepdim=True)
    x = x / (x.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()
    x = (norm.weight.view(-1, 1, 1) * x + norm.bias.view(-1, 1, 1)).clamp_min(0).mean((2, 3))
    there = mentor.features["head"].detach().mean((2, 3))
    z, z_t = (f @ last.weight.detach().T + last.bias.detach() for f in (x, there))
    of_logits = (z - z_t).square().sum() / (B * C)
    expected = (x - there).square().sum() / (B * 8) + options.get("logit_weight", 1) * of_logits
    expected = options.get("weight", 1) * expected
    torch.testing.assert_close(term(lesson), expected)
    wanted = [student.features["head"], conv.weight, norm.weight, norm.bias]
    for own, other in zip(
        torch.autograd.grad(term(lesson), wanted, retain_graph=True),
        torch.autograd.grad(expected, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, other)


def test_a_teacher_that_shows_its_map_alone():
    student, mentor = says(5, 4, 4), says(8, 2, 3, seed=1)
    bare = Outputs(mentor.logits, {"head": mentor.features["head"]}, mentor.classifier)
    method = set_up(student, mentor)
    losses = [method(student, [teacher], TARGET).loss for teacher in (mentor, bare)]
    torch.testing.assert_close(*losses)


def test_the_classifier_stays_the_teachers():
    student, mentor = says(5, 4, 4), says(8, 2, 3, seed=1)
    method = set_up(student, mentor)
    trained = [name for name, p in method.named_parameters() if p.requires_grad]
    assert trained == ["connector.0.0.weight", "connector.0.1.weight", "connector.0.1.bias"]
    assert torch.equal(method.classifier.weight, mentor.classifier.weight)
    assert method.classifier.weight is not mentor.classifier.weight


def test_what_a_network_does_not_show():
    student, mentor = says(5, 4, 4), says(8, 2, 3, seed=1)
    with pytest.raises(ValueError, match="srrl uses the classifier of a mentor"):
        create_method("srrl").setup(student, [Outputs(mentor.logits, mentor.features)])
    with pytest.raises(ValueError, match="the student does not show the map that it pools"):
        create_method("srrl").setup(Outputs(student.logits), [mentor])
    with pytest.raises(RuntimeError, match="srrl has no connector yet"):
        create_method("srrl")(student, [mentor], TARGET)
