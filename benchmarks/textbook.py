"""The loop that people write for several mentors: what the engine's speed is compared with.

Float32, contiguous images, one mentor after the other, and the loss read at each step. The
mathematics is that of `classroomkd.classroom_loss`; a test compares the two.

Shapes: ``B`` samples, ``C`` classes.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from classroomkd.data import Batch


def textbook_loss(
    student: Tensor, mentors: Sequence[Tensor], target: Tensor, temperature: float = 12.0
) -> Tensor:
    """The ClassroomKD loss with a Python loop over mentors.

    Args:
        student: logits ``[B, C]``.
        mentors: logits ``[B, C]`` of each mentor; without any, the cross-entropy is the loss.
        target: ``[B]`` int64.
        temperature: ``T`` of ``tau = 1 + T gap``.
    """
    task_loss = F.cross_entropy(student, target, reduction="none")
    if not mentors:
        return task_loss.mean()
    rows = torch.arange(len(target), device=target.device)
    student_score = F.softmax(student, dim=1)[rows, target].detach()
    scores = [F.softmax(mentor, dim=1)[rows, target] for mentor in mentors]
    total = student_score.clone()
    for score in scores:
        total = total + score
    loss = student_score * task_loss
    for mentor, score in zip(mentors, scores, strict=True):
        active = (score > student_score).float()
        weight = len(mentors) * score / total
        gap = torch.clamp(1 - student_score / score, min=0)
        tau = 1 + temperature * gap
        log_student = F.log_softmax(student / tau.unsqueeze(1), dim=1)
        soft_mentor = F.softmax(mentor / tau.unsqueeze(1), dim=1)
        divergence = F.kl_div(log_student, soft_mentor, reduction="none").sum(dim=1)
        loss = loss + active * weight * tau**2 * divergence
    return loss.mean()


def train_textbook(
    student: nn.Module,
    mentors: Sequence[nn.Module],
    batches: Iterable[Batch],
    on_loss: Callable[[float], None],
    *,
    lr: float = 0.05,
) -> None:
    """Train a student on batches, telling `on_loss` the loss of each before its update.

    Args:
        student: trained in place with SGD.
        mentors: put into eval mode; may be empty.
        batches: an epoch.
        on_loss: called at each step, after the forward pass.
        lr: learning rate.
    """
    optimizer = torch.optim.SGD(student.parameters(), lr=lr, momentum=0.9, weight_decay=5e-4)
    student.train()
    for mentor in mentors:
        mentor.eval()
    for images, target, _ in batches:
        mentor_logits = []
        with torch.no_grad():
            for mentor in mentors:
                mentor_logits.append(mentor(images))
        loss = textbook_loss(student(images), mentor_logits, target)
        on_loss(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
