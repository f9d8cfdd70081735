"""Several processes train what one process trains; mentors are placed as the recipe says."""

import json
import os
import signal
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from classroomkd.config.training import Train
from classroomkd.data import ViewLoader, load_image_set
from classroomkd.engine.build import build_classroom
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext, join, must_start, start
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.task import Classification

pytestmark = pytest.mark.timeout(1200)  # processes take their time to start on a busy machine


def trained(recipe, folder, **options):
    """The run folder of a training, and what was said."""
    said = []
    train(recipe, folder, progress=False, say=said.append, **options)
    return RunFolder(folder), said


SLOWLY = {"optimizer": {"name": "sgd", "lr": 0.005}}
"""So that the order of sums, which differs, does not grow until a sample's gate turns over."""


def assert_same_run(one, other, tolerance=2e-3):
    """The same gates to the sample, and the same weights but for the order of sums."""
    for mine, yours in zip(*(run.read_csv("classroom.csv") for run in (one, other)), strict=True):
        assert mine["mentor"] == yours["mentor"]
        assert mine["active_share"] == pytest.approx(yours["active_share"], abs=1e-6)
        assert mine["weight"] == pytest.approx(yours["weight"], rel=1e-3, nan_ok=True)
    for mine, yours in zip(*(run.read_csv("metrics.csv") for run in (one, other)), strict=True):
        assert mine["loss"] == pytest.approx(yours["loss"], rel=1e-3)
    a, b = (load_file(run.last / "student.safetensors") for run in (one, other))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance, msg=name)


def assert_evaluated(run):
    """What several processes found about the chosen student, one finds, too."""
    said = run.read_json("summary.json")["best"]
    for name, value in evaluate_run(run.path)[1].items():
        assert said[f"test_{name}"] == pytest.approx(value, abs=1e-3, nan_ok=True), name


def test_two_processes_train_what_one_does(digits_recipe, tmp_path):
    one, _ = trained(digits_recipe(train=SLOWLY), tmp_path / "one")
    two, said = trained(digits_recipe(train={"devices": 2, **SLOWLY}), tmp_path / "two")
    assert_same_run(one, two)
    assert_evaluated(two)
    assert said[0] == "batches of 128 (64 in each of 2 processes), learning rate 0.005"
    assert [line.split("  ")[0] for line in said[1:]] == ["epoch 1/2", "epoch 2/2"]
    environment = two.read_json("environment.json")
    assert (environment["processes"], environment["batch_per_process"]) == (2, 64)
    assert environment["batch_size"] == 128
    assert "RANK" not in os.environ


def test_parts_of_batches_make_up_the_batches(digits_recipe):
    recipe = digits_recipe()
    images = load_image_set("digits", "train").subset(torch.arange(300))

    def loader(*part):
        place = Place(torch.device("cpu"), *part)
        return Classification(recipe, place).training_loader(images, views=2)

    whole, parts = loader(), [loader((rank, 4)) for rank in range(4)]
    assert len(whole) == len(parts[0]) == 2
    for batch, *pieces in zip(whole, *parts, strict=True):
        for field in ("images", "target", "index"):
            views = [getattr(piece, field).chunk(2) for piece in pieces]
            joined = torch.cat([view for place in (0, 1) for view in (v[place] for v in views)])
            assert torch.equal(joined, getattr(batch, field)), field
    assert torch.equal(parts[3].samples(), whole.samples())


def test_batches_that_cannot_be_divided_are_refused(digits_recipe, monkeypatch):
    with pytest.raises(RecipeError, match=r"batch_size 9 is the whole batch.*make it 8"):
        digits_recipe(train={"batch_size": 9, "devices": 2})
    with pytest.raises(RecipeError, match=r"cuda:1 is one"):
        digits_recipe(train={"device": "cuda:1", "devices": 2})
    images = load_image_set("digits", "test").subset(torch.arange(5))
    with pytest.raises(ClassroomError, match="the 5 training samples are one batch"):
        DistContext(0, 2).check_shares(len(images), digits_recipe().train.batch_size)
    with pytest.raises(ValueError, match="no 3 equal parts"):
        ViewLoader(images, 4, part=(0, 3))
    for name, value in {"RANK": 0, "WORLD_SIZE": 3, "MASTER_ADDR": "x", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    with pytest.raises(ClassroomError, match=r"3 processes cannot share it equally: make it 126"):
        join(digits_recipe().train).__enter__()
    with pytest.raises(ClassroomError, match=r"train\.devices is 2, but 3 process"):
        join(digits_recipe(train={"devices": 2}).train).__enter__()
    assert not must_start(digits_recipe(train={"devices": 2}).train)


def test_without_others_nothing_is_exchanged(digits_recipe):
    with join(digits_recipe().train) as team:
        assert team is SINGLE_PROCESS
    own = torch.rand(3, 2)
    assert team.gather(own) is own
    assert team.all_gather("a") == ["a"]


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"method": {"name": "fitnets"}}, "the method 'fitnets', which reads features"),
        ({"bank": {"path": "bank"}}, "a bank"),
        (
            {"method": {"name": "dml"}, "mentors": [{"model": "resnet8", "train": True}]},
            "train along",
        ),
    ],
)
def test_mentors_that_cannot_be_sharded_are_refused(digits_recipe, changes, what):
    with pytest.raises(RecipeError, match=f"mentor_placement: shard.*{what}"):
        digits_recipe(train={"mentor_placement": "shard"}, **changes)


@pytest.mark.parametrize("method", ["classroom", "fitnets"])
def test_offloaded_mentors_say_the_same_and_go_home(digits_recipe, method):
    changes = {"method": {"name": method}}
    stays = build_classroom(digits_recipe(**changes))
    visits = build_classroom(digits_recipe(train={"mentor_placement": "offload"}, **changes))
    assert all(mentor.offloaded for mentor in visits.mentors)
    home = [p.data_ptr() for m in visits.mentors for p in m.network.parameters()]
    batch = next(iter(stays.train))
    assert torch.equal(training_step(stays, batch).loss, training_step(visits, batch).loss)
    assert home == [p.data_ptr() for m in visits.mentors for p in m.network.parameters()]


# What follows runs in processes of its own.


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten())


def check_exchange(say):
    """Compare what two processes compute together with what one computes of everything."""
    with join(Train()) as team:
        net, twin = network(), network()
        x, w = torch.rand(8, 3, 4, 4), torch.rand(8, 20)
        with team.normalising():
            said = team.gather(net(x.chunk(2)[team.rank]))
        whole = twin(x)
        torch.testing.assert_close(said, whole)
        (said.cos() * w).mean().backward()
        (whole.cos() * w).mean().backward()
        for mine, all_of_it in zip(net.parameters(), twin.parameters(), strict=True):
            mean = sum(team.all_gather(mine.grad)) / 2  # as DistributedDataParallel has it
            torch.testing.assert_close(mean, all_of_it.grad, rtol=1e-4, atol=1e-6)
        for mine, all_of_it in zip(net.buffers(), twin.buffers(), strict=True):
            torch.testing.assert_close(mine, all_of_it)
        rows = torch.arange(8).view(2, 4).chunk(2, dim=1)[team.rank].flatten()
        assert team.gather(rows, views=2).tolist() == list(range(8))
        assert team.gather(rows > 2).dtype == torch.bool
        say(f"{team.rank} {team.broadcast(team.rank)} {team.all_gather(team.rank)}")


@pytest.mark.slow
@pytest.mark.processes
def test_what_is_exchanged_is_what_one_process_would_have():
    said = []
    start(2, check_exchange, (), said.append)
    assert sorted(said) == ["0 0 [0, 1]", "1 0 [0, 1]"]


def end(how, say):
    """One of two processes ends while the other waits for it."""
    with join(Train()) as team:
        if team.first:
            team.barrier()
        elif how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "mistaken":
            raise ClassroomError("the file is damaged: mend it")
        elif how == "left":
            os._exit(7)
        raise ZeroDivisionError("a fault of the program")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ("killed", ClassroomError, r"process 2 of 2 was ended by SIGKILL.*--resume"),
        ("left", ClassroomError, r"process 2 of 2 was ended with exit code 7.*__main__"),
        pytest.param(
            *("mistaken", ClassroomError, r"^the file is damaged: mend it$"),
            marks=pytest.mark.processes,
        ),
        ("faulty", RuntimeError, r"ZeroDivisionError: a fault of the program"),
    ],
)
def test_when_one_ends_all_end_and_the_cause_is_told(how, error, message):
    with pytest.raises(error, match=message):
        start(2, end, (how,), print)


PEERS = [{"model": "resnet8", "train": True}, {"model": "resnet8", "train": True, "name": "b"}]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"method": {"name": "classroom", "group": "batch"}},
        {"method": {"name": "classroom", "compat": "official"}},
        {"method": {"name": "rkd"}},
        pytest.param({"method": {"name": "crd"}}, marks=pytest.mark.processes),
        {"method": {"name": "fitnets"}},
        {"method": {"name": "dml"}, "mentors": PEERS},
        {"data": {"mix": {"mixup": 0.8}, "copies": 2}},
    ],
    ids=["batch", "official", "rkd", "crd", "fitnets", "dml", "mix"],
)
def test_what_relates_samples_is_the_same_in_two_processes(digits_recipe, tmp_path, changes):
    train_ = {"epochs": 1, **SLOWLY}
    one, _ = trained(digits_recipe(train=train_, **changes), tmp_path / "one")
    two, _ = trained(digits_recipe(train={**train_, "devices": 2}, **changes), tmp_path / "two")
    assert_same_run(one, two)


@pytest.mark.slow
def test_statistics_of_a_part_are_the_users_choice(digits_recipe, tmp_path):
    one, _ = trained(digits_recipe(), tmp_path / "one")
    recipe = digits_recipe(train={"devices": 2, "sync_batchnorm": False})
    two, _ = trained(recipe, tmp_path / "two")
    with pytest.raises(AssertionError):
        assert_same_run(one, two)


@pytest.mark.slow
@pytest.mark.processes
def test_sharded_mentors_say_what_replicated_ones_say(digits_recipe, tmp_path):
    third = digits_recipe().mentors[0].model_dump(exclude_none=True) | {"name": "third"}
    mentors = [m.model_dump(exclude_none=True) for m in digits_recipe().mentors] + [third]
    one, _ = trained(digits_recipe(mentors=mentors, train=SLOWLY), tmp_path / "one")
    placing = {"devices": 2, "mentor_placement": "shard", **SLOWLY}
    placed = digits_recipe(mentors=mentors, train=placing)
    two, _ = trained(placed, tmp_path / "two")
    assert_same_run(one, two)
    assert [row["mentor"] for row in two.read_csv("classroom.csv")][:3] == [
        "resnet8", "resnet14", "third",
    ]  # fmt: skip


@pytest.mark.slow
def test_a_lone_mentor_is_sharded_too(digits_recipe, tmp_path):
    options = {"epochs": 1, "mentor_placement": "shard", **SLOWLY}
    one, _ = trained(digits_recipe(method={"name": "kd"}, train=options), tmp_path / "one")
    recipe = digits_recipe(method={"name": "kd"}, train={"devices": 2, **options})
    two, _ = trained(recipe, tmp_path / "two")
    assert_same_run(one, two)


@pytest.mark.slow
def test_two_processes_fill_and_read_a_bank(digits_recipe, tmp_path):
    def recipe(**train_):
        return digits_recipe(bank={"path": str(tmp_path / "bank")}, train=train_ | SLOWLY)

    live, _ = trained(digits_recipe(train=SLOWLY), tmp_path / "live")
    filled, _ = trained(recipe(devices=2), tmp_path / "filled")
    shards = sorted(path.name for path in (tmp_path / "bank" / "resnet14").glob("v*.safetensors"))
    assert shards == ["v00000.safetensors", "v00001.safetensors"]
    before = [
        path.stat().st_mtime_ns for path in sorted((tmp_path / "bank").rglob("v*.safetensors"))
    ]
    read, _ = trained(recipe(devices=2), tmp_path / "read")
    after = [
        path.stat().st_mtime_ns for path in sorted((tmp_path / "bank").rglob("v*.safetensors"))
    ]
    assert before == after
    assert_same_run(live, filled)
    assert_same_run(live, read, tolerance=5e-2)  # what is stored is rounded


@pytest.mark.slow
@pytest.mark.processes
def test_an_interrupted_run_of_two_ends_as_if_it_had_not_been(digits_recipe, tmp_path):
    recipe = digits_recipe(train={"epochs": 3, "devices": 2})
    whole, _ = trained(recipe, tmp_path / "whole")

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    resumed, said = trained(recipe, tmp_path / "cut", resume=True)
    assert said[-1].startswith("epoch 3/3")
    for name in ("metrics.csv", "classroom.csv"):
        assert (resumed.path / name).read_text() == (whole.path / name).read_text()
    one, other = (load_file(run.path / "student.safetensors") for run in (whole, resumed))
    assert all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.slow
@pytest.mark.processes
def test_torchrun_goes_on_with_what_one_process_began(digits_recipe, tmp_path):
    recipe = digits_recipe(train=SLOWLY)
    whole, _ = trained(recipe, tmp_path / "whole")

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, say=cut)
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "classroomkd", "train", str(tmp_path / "recipe.yaml"),
        "--out", str(tmp_path / "run"), "--resume",
    ]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("epoch 2/2") == 1
    assert ended.stdout.count("report:") == 1
    assert_same_run(whole, RunFolder(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["last"]["epoch"] == 1
