"""Several processes train on poses what one process trains; mentors are placed as recipes say."""

import pytest
import torch
from safetensors.torch import load_file

from classroomkd.engine.build import build_classroom
from classroomkd.engine.devices import DistContext, join, start
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError
from classroomkd.tasks.base import Place
from classroomkd.tasks.pose.data import PoseLoader, PoseViews
from classroomkd.tasks.pose.task import Pose
from tests.engine.test_devices import assert_evaluated, assert_same_run, trained
from tests.tasks.pose.engine.conftest import pose_recipe

pytestmark = pytest.mark.timeout(1200)  # processes take their time to start on a busy machine

CPU = torch.device("cpu")
SLOWLY = {"optimizer": {"name": "sgd", "lr": 1e-3}}
"""So that the order of sums, which differs, does not grow until a person's gate turns over."""


def both(mentor_runs):
    """Mentors of both heads, one of them of another size than the student's."""
    return [{"run": str(mentor_runs / name)} for name in ("heatmap", "simcc")]


@pytest.mark.parametrize("memory_limit", [0, 1e9])
@pytest.mark.parametrize("count", [2, 5])
def test_parts_of_batches_make_up_the_batches(persons, memory_limit, count):
    people, _ = Pose(pose_recipe(persons), Place(CPU)).training_sets()
    options = {
        "size": (32, 24), "seed": 3, "augment": PoseViews(), "shuffle": True,
        "memory_limit": memory_limit,
    }  # fmt: skip
    people = people.subset(torch.arange(30))
    whole = PoseLoader(people, 20, **options)
    parts = [PoseLoader(people, 20, part=(place, count), **options) for place in range(count)]
    for loader in (whole, *parts):
        loader.set_epoch(1)
    batches = list(zip(whole, *parts, strict=True))
    assert [len(batch.index) for batch, *_ in batches] == [20, 10]
    for batch, *pieces in batches:
        for name, expected in batch._asdict().items():
            joined = torch.cat([getattr(piece, name) for piece in pieces])
            assert torch.equal(joined, expected), name
    assert torch.equal(parts[-1].samples(), whole.samples())
    assert len(parts[-1]) == len(whole)


def test_batches_that_cannot_be_divided_are_refused(persons):
    recipe = pose_recipe(persons)
    pose = Pose(recipe, Place(CPU))
    people, _ = pose.training_sets()
    few = people.subset(torch.arange(5))
    with pytest.raises(ClassroomError, match="the 5 training persons are one batch, which 2"):
        DistContext(1, 2).check_shares(len(few), recipe.train.batch_size, pose.samples)
    alone = pose.training_loader(few)
    assert [len(batch.index) for batch in alone] == [5]
    with pytest.raises(ValueError, match="batches of 16 have no 3 equal parts"):
        PoseLoader(people.subset(torch.arange(32)), 16, size=(32, 32), part=(0, 3))
    with pytest.raises(ValueError, match="batches of 1 have no 2 equal parts"):
        PoseLoader(few, 4, size=(32, 32), part=(0, 2))


def test_offloaded_mentors_say_the_same_and_go_home(persons, mentor_runs, tmp_path):
    sections = {"mentors": both(mentor_runs), "method": {"name": "classroom"}}
    stays, visits = (
        build_classroom(
            pose_recipe(persons, train={"mentor_placement": placement}, **sections), lambda _: None
        )
        for placement in ("replicate", "offload")
    )
    assert [m.offloaded for m in (*stays.mentors, *visits.mentors)] == [False] * 2 + [True] * 2
    home = [p.data_ptr() for m in visits.mentors for p in m.network.parameters()]
    batch = next(iter(stays.train))
    assert torch.equal(training_step(stays, batch).loss, training_step(visits, batch).loss)
    assert visits.dev is not None
    visits.task.illustrate(visits, visits.student, tmp_path)
    assert (tmp_path / "pictures.safetensors").is_file()
    assert home == [p.data_ptr() for m in visits.mentors for p in m.network.parameters()]


# What follows runs in processes of its own.


def check_lesson(recipe, say):
    """Compare the lesson, and the gradients, of two processes with those of one."""
    alone = build_classroom(recipe, lambda _: None)
    whole = next(iter(alone.train))
    with join(recipe.train) as team:
        classroom = build_classroom(recipe, lambda _: None, team)
        batch = next(iter(classroom.train))
        assert len(batch.images) == len(whole.images) // 2
        lesson, expected = training_step(classroom, batch), training_step(alone, whole)
        assert torch.equal(lesson.active, expected.active)
        for name, value in vars(expected).items():
            ours = getattr(lesson, name)
            torch.testing.assert_close(ours, value, rtol=1e-3, atol=2e-4, msg=name)
        lesson.loss.backward()
        expected.loss.backward()
        ours = [
            torch.stack(team.all_gather(p.grad)).mean(0) for p in classroom.student.parameters()
        ]
        theirs = [parameter.grad for parameter in alone.student.parameters()]
        least = 1e-3 * torch.nn.utils.get_total_norm(theirs)
        for mine, own in zip(ours, theirs, strict=True):  # rounding turns some activations on
            assert (mine - own).norm() < 1e-2 * (own.norm() + least)
        for mine, own in zip(classroom.student.buffers(), alone.student.buffers(), strict=True):
            torch.testing.assert_close(mine, own)
        say(f"{team.rank} {lesson.active.float().mean():.2f}")


CHANGES = [
    {},
    {"method": {"group": "joint"}, "loss": {"unlabelled": "teach"}},
    {"method": {"group": "batch"}, "loss": {"task": "mse"}},
    {"student": {"model": "pose/tiny/simcc"}},
    {"train": {"mentor_placement": "offload"}},
]
NAMES = ["sample", "joint", "batch", "simcc", "offload"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", CHANGES, ids=NAMES)
def test_a_lesson_of_two_processes_is_that_of_one(persons, mentor_runs, changes):
    method = {"name": "classroom", "task_weight": 1} | changes.get("method", {})
    sections = changes | {"method": method}
    recipe = pose_recipe(persons, mentors=both(mentor_runs), **sections)
    said = []
    start(2, check_lesson, (recipe,), said.append)
    assert len(said) == 2
    assert len({line.split()[1] for line in said}) == 1


@pytest.mark.slow
@pytest.mark.parametrize("score", [pytest.param("likelihood", marks=pytest.mark.processes), "oks"])
def test_two_processes_train_what_one_does(persons, mentor_runs, tmp_path, score):
    def recipe(**options):
        return pose_recipe(
            persons,
            mentors=both(mentor_runs),
            method={"name": "classroom"},
            loss={"score": score},
            train=options | SLOWLY,
        )

    one, _ = trained(recipe(), tmp_path / "one")
    two, said = trained(recipe(devices=2), tmp_path / "two")
    assert_same_run(one, two)
    assert_evaluated(two)
    assert "batches of 16 (8 in each of 2 processes), learning rate 0.001" in said
    for row in zip(one.read_csv("metrics.csv"), two.read_csv("metrics.csv"), strict=True):
        assert row[0]["dev_OKS"] == pytest.approx(row[1]["dev_OKS"], abs=0.1)
    assert (two.path / "pictures.safetensors").is_file()
    assert two.read_json("summary.json")["test_samples"] == 16


@pytest.mark.slow
def test_an_interrupted_run_of_two_ends_as_if_it_had_not_been(persons, mentor_runs, tmp_path):
    recipe = pose_recipe(
        persons,
        mentors=both(mentor_runs),
        method={"name": "classroom"},
        train={"epochs": 3, "devices": 2},
    )
    whole, _ = trained(recipe, tmp_path / "whole")

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    assert not (tmp_path / "cut" / "summary.json").exists()
    resumed, said = trained(recipe, tmp_path / "cut", resume=True)
    assert said[-1].startswith("epoch 3/3")
    for name in ("metrics.csv", "classroom.csv"):
        assert (resumed.path / name).read_text() == (whole.path / name).read_text()
    one, other = (load_file(run.path / "student.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[key], other[key]) for key in one)
