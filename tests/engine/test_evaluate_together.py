"""Several processes evaluate a network together: their results are those of one, to the sample."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from classroomkd.config.training import Train
from classroomkd.data import Batch, ViewLoader, load_image_set
from classroomkd.engine.devices import join, start
from classroomkd.engine.evaluate_run import evaluate_together
from classroomkd.errors import ClassroomError
from classroomkd.models import build_model
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.metrics import evaluate
from classroomkd.tasks.classification.task import Classification
from classroomkd.tasks.pose.data import PoseLoader
from classroomkd.tasks.pose.metrics import evaluate_pose, predictions
from classroomkd.tasks.pose.task import Pose
from tests.tasks.pose.engine.conftest import mentor_runs, persons, pose_recipe  # noqa: F401
from tests.threads import in_threads

CPU = torch.device("cpu")
SHARED = [2, 3, 8]  # of six batches: three each, two each, and two processes that have none


class Shown(nn.Module):
    """Says as logits what it is shown."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, images):
        return images[:, 0, 0] * self.weight


def in_batches(logits, target, size):
    tensors = logits[:, None, None], target, torch.arange(len(target))
    return [Batch(*batch) for batch in zip(*(t.split(size) for t in tensors), strict=True)]


@pytest.mark.parametrize("count", SHARED)
def test_accuracies_likelihood_and_calibration_are_those_of_one(count):
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(103, 10, generator=generator)
    target = torch.randint(10, (103,), generator=generator)
    target[:60] = logits[:60].argmax(1)  # the first batches are right
    batches = in_batches(logits, target, 20)
    whole = evaluate(Shown(), batches, 10)

    own = logits.double().log_softmax(1)
    order = own.argsort(1, descending=True)
    assert whole["top1"] == pytest.approx(100 * (order[:, 0] == target).double().mean().item())
    five = (order[:, :5] == target[:, None]).any(1).double()
    assert whole["top5"] == pytest.approx(100 * five.mean().item())
    assert whole["nll"] == pytest.approx(-own.gather(1, target[:, None]).mean().item(), abs=1e-6)
    sure, right = logits.softmax(1).amax(1).double(), (order[:, 0] == target).double()
    bins = (sure * 15).long().clamp(max=14)
    gaps = [(sure - right)[bins == b].sum().abs() / len(target) for b in range(15)]
    assert whole["ece"] == pytest.approx(100 * sum(gaps).item(), abs=1e-9)

    shares = in_threads(count, lambda rank, g: evaluate(Shown(), batches[rank::count], 10, g))
    for share in shares:
        assert (share["top1"], share["top5"]) == (whole["top1"], whole["top5"])
        assert share == pytest.approx(whole, abs=1e-9)


@pytest.mark.parametrize("count", SHARED)
def test_every_sample_is_shown_once_by_one_of_them(count, persons):  # noqa: F811
    images = load_image_set("digits", "test").subset(torch.arange(103))
    people = Pose(pose_recipe(persons), Place(CPU)).test_set()
    for whole in (ViewLoader(images, 20), PoseLoader(people, 3, size=(32, 32))):
        shown = list(whole)
        shares = [list(whole.every(rank, count)) for rank in range(count)]
        for place, batch in enumerate(shown):
            mine = shares[place % count][place // count]
            assert all(torch.equal(a, b) for a, b in zip(mine, batch, strict=True))
        assert sum(map(len, shares)) == len(shown) == len(whole)
        assert len(list(whole)) == len(shown)  # it is left as it was


@pytest.fixture
def pose(persons, mentor_runs):  # noqa: F811
    """A task of poses, a network that finds a few joints, and who is judged: 40 persons."""
    task = Pose(pose_recipe(persons), Place(CPU))
    people, _ = task.training_sets()
    return task, task.load(mentor_runs / "heatmap").network, people


@pytest.mark.parametrize("count", [2, 9])
def test_persons_are_those_of_one(count, pose):
    _, network, people = pose
    loader = PoseLoader(people, 6, size=(32, 32))  # seven batches, the last of four
    chosen = {"metrics": ["ap", "pck"]}
    found, (whole, _) = (
        predictions(network, loader),
        evaluate_pose(network, loader, people, **chosen),
    )
    assert whole["OKS"] > 0

    def one(rank, all_gather):
        share = loader.every(rank, count)
        said = predictions(network, share, all_gather=all_gather).ordered(people)
        return said, evaluate_pose(network, share, people, **chosen, all_gather=all_gather)[0]

    # One after the other: they share a network, whose mode each restores.
    network.eval()
    for said, scores in in_threads(count, one):
        assert all(torch.equal(a, b) for a, b in zip(said, found.ordered(people), strict=True))
        assert scores == pytest.approx(whole, abs=0, nan_ok=True)


# What follows runs in processes of its own.


def check_together(task, network, loaders, say):
    """Compare the results of two processes with those of one, and who has seen what."""
    network = deepcopy(network)  # what is sent to processes they share
    whole = [task.evaluate(network, loader) for loader in loaders]
    with join(Train()) as team:
        if not team.first:  # as where each has the statistics of its part
            for buffer in network.buffers():
                buffer.add_(1)
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        results = [evaluate_together(task, network, loader, team) for loader in loaders]
        assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())
        seen = [sum(len(b.index) for b in loader.every(team.rank, 2)) for loader in loaders]
        say((results, whole, seen))


def assert_together(task, network, loaders, samples):
    """Results are those of one process; ``samples`` are how many each process has seen."""
    said = []
    start(2, check_together, (task, network, loaders), said.append)
    for results, whole, _ in said:
        for ours, one in zip(results, whole, strict=True):
            assert ours == pytest.approx(one, rel=1e-12, abs=1e-12, nan_ok=True)
            assert all(ours[name] == one[name] for name in one.keys() - {"nll", "ece"})
    assert sorted(seen for *_, seen in said) == samples


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_two_processes_classify_as_one(digits_recipe):
    task = Classification(digits_recipe(), Place(CPU))
    images = task.test_set().subset(torch.arange(333))
    torch.manual_seed(0)
    # Six batches, the last of 13; and one, of which nothing is left for the second process.
    loaders = [ViewLoader(images, size) for size in (64, 512)]
    assert_together(task, build_model("resnet8", 10), loaders, [[141, 0], [192, 333]])


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(1200)
def test_two_processes_find_joints_as_one(pose):
    task, network, people = pose
    loader = PoseLoader(people, 6, size=(32, 32))
    assert_together(task, network, [loader], [[18], [22]])


class Broken:
    """Its second batch cannot be had."""

    def __init__(self, loader):
        self.dataset, self.loader, self.rank = loader.dataset, loader, None

    def every(self, rank, size):
        share = Broken(self.loader.every(rank, size))
        share.rank = rank
        return share

    def __iter__(self):
        yield from self.loader
        if self.rank == 1:
            raise ClassroomError("image 7 is damaged")


def evaluate_broken(task, network, loader, say):
    """Evaluate a set of which the second process cannot read its part."""
    with join(Train()) as team:
        evaluate_together(task, network, Broken(loader), team)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_when_one_cannot_evaluate_the_others_do_not_wait(digits_recipe):
    task = Classification(digits_recipe(), Place(CPU))
    loader = ViewLoader(task.test_set(), 64)
    with pytest.raises(ClassroomError, match="^image 7 is damaged$"):
        start(2, evaluate_broken, (task, build_model("resnet8", 10), loader), print)
