"""What the loss allocates where classes are many."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from classroomkd.core import classroom_loss

M, B, C = 3, 2, 50_000


class Sizes(TorchDispatchMode):
    """The sizes of all tensors that are made, and of those that are alive at once."""

    def __init__(self):
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(made):
            if isinstance(leaf, torch.Tensor):
                self.largest = max(self.largest, leaf.untyped_storage().nbytes())
        return made


def test_no_tensor_exceeds_twice_the_mentors_logits():
    torch.manual_seed(0)
    student = torch.randn(B, C, requires_grad=True)
    mentors = [torch.randn(B, C) for _ in range(M)]
    target = torch.randint(C, (B,))
    with Sizes() as sizes:
        classroom_loss(student, mentors, target).loss.backward()
    assert 0 < sizes.largest <= 2 * M * B * C * 4


def test_nothing_is_read_back_from_the_device():
    """On the meta device there is nothing to read: whoever tries, fails."""
    with torch.device("meta"):
        student = torch.empty(8, 10, requires_grad=True)
        mentors = [torch.empty(8, 10) for _ in range(3)]
        target = torch.empty(8, dtype=torch.int64)
        lesson = classroom_loss(student, mentors, target)
        lesson.loss.backward()
    assert student.grad.shape == (8, 10)
