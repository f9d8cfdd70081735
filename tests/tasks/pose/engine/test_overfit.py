"""Students of both heads learn eight persons of COCO by heart."""

import pytest
import torch

from classroomkd.config import parse_recipe
from classroomkd.methods import create_method
from classroomkd.tasks.base import Place
from classroomkd.tasks.pose.data import PoseLoader
from classroomkd.tasks.pose.metrics import evaluate_pose
from classroomkd.tasks.pose.task import Pose
from tests.tasks.pose.data.conftest import real  # noqa: F401  (a fixture)

SIZE = (96, 96)


@pytest.mark.parametrize(
    ("model", "task"),
    [("pose/tiny/heatmap", "ce"), ("pose/tiny/heatmap", "mse"), ("pose/tiny/simcc", "ce")],
)
def test_eight_persons_are_learnt_by_heart(real, model, task):  # noqa: F811
    recipe = parse_recipe({
        "name": "overfit", "task": "pose",
        "data": {"name": "coco", "path": str(real("coco-mini")), "dev": 0},
        "student": {"model": model, "input": list(SIZE)},
        "method": {"name": "none"}, "loss": {"task": task},
    })  # fmt: skip
    pose = Pose(recipe, Place(torch.device("cpu")))
    persons, _ = pose.training_sets()
    eight = persons.subset(((persons.visible > 0).sum(1) >= 10).nonzero()[:8, 0])
    torch.manual_seed(0)
    student = pose.build_student(eight).train()
    assert list(pose.prepare(student, [], eight)) == []
    loader = PoseLoader(eight, 8, size=SIZE)
    batch, method, steps = next(iter(loader)), create_method("none"), 120
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        optimizer.zero_grad()
        signals = pose.signals(pose.student_outputs(student, batch.images), [], batch)
        method(signals).loss.backward()
        optimizer.step()
        schedule.step()
    assert evaluate_pose(student, loader, eight, flip=False)[0]["AP"] >= 95


def test_perfect_outputs_cost_nothing_beyond_the_targets_own_entropy():
    """Both tasks are least where outputs are gaussians of peak 1 on a ground of 0."""
    from classroomkd.tasks.pose.models import heatmap_codec
    from classroomkd.tasks.pose.signals import anchored_likelihood, squared_error

    codec = heatmap_codec((64, 48))
    points = torch.tensor([[[20.0, 30.0], [40.0, 10.0]]])
    encoded = codec.logits(codec.encode(points))
    target = tuple(block.softmax(-1) for block in encoded)
    entropy = -(target[0] * target[0].log()).sum(-1)
    outputs = (encoded[0].clone().requires_grad_(True),)
    for task, least in ((squared_error(encoded), 0), (anchored_likelihood(encoded), entropy)):
        loss = task(outputs, target)
        torch.testing.assert_close(loss, least + torch.zeros(1, 2))
        (gradient,) = torch.autograd.grad(loss.sum(), outputs)
        assert gradient.abs().max() < 1e-5
        lifted = task((encoded[0] + 1.0,), target)
        torch.testing.assert_close(lifted, loss.detach() + 0.5)
