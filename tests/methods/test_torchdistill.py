"""KD, DIST and LSKD against torchdistill: values and gradients. (Features: `test_features`.)"""

import pytest
import torch

from classroomkd.methods import create_method
from tests.methods.scenes import torchdistill_losses

B, C = 7, 10
CASES = {
    "kd": ("KDLoss", {"temperature": 4.0, "alpha": 0.1, "beta": 0.9}),
    "lskd": ("LogitStdKDLoss", {"temperature": 2.0, "alpha": 0.1, "beta": 9.0}),
    "dist": ("DISTLoss", {"tau": 4.0, "beta": 1.0, "gamma": 1.0}),
}


@pytest.mark.parametrize("scale", [0.1, 3.0])
@pytest.mark.parametrize("name", CASES)
def test_logit_methods(name, scale):
    torch.manual_seed(0)
    student = (scale * torch.randn(B, C, dtype=torch.float64)).requires_grad_()
    mentor = scale * torch.randn(B, C, dtype=torch.float64)
    target = torch.randint(C, (B,))
    loss = create_method(name)(student, [mentor], target).loss

    title, options = CASES[name]
    oracle = getattr(torchdistill_losses(), title)(".", "output", ".", "output", **options)
    expected = oracle(*({".": {"output": logits}} for logits in (student, mentor)), target)
    if name == "dist":  # it has neither the cross-entropy nor the weight
        expected = torch.nn.functional.cross_entropy(student, target) + 2 * expected
    torch.testing.assert_close(loss, expected)
    (one,), (other,) = (torch.autograd.grad(value, student) for value in (loss, expected))
    torch.testing.assert_close(one, other)
