"""What tests share: small classrooms on the handwritten digits, which come with scikit-learn."""

import pytest

from classroomkd.config import parse_recipe
from classroomkd.models import StudentFile, build_model, save_student
from classroomkd.tasks.classification.recipe import Recipe


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """What is measured of this machine is kept for the tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLASSROOMKD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def digits_recipe(tmp_path):
    """A function from changes to a quick recipe; its two mentors are untrained run folders."""
    import torch

    mentors = []
    for seed, model in enumerate(("resnet8", "resnet14")):
        folder = tmp_path / "mentors" / model
        folder.mkdir(parents=True)
        torch.manual_seed(100 + seed)
        classes = tuple("0123456789")
        info = StudentFile(model, classes, dataset="digits", epoch=0, top1=10.0)
        save_student(build_model(model, 10), info, folder)
        mentors.append({"run": str(folder), "role": "peer" if seed else "teacher"})

    def make(**changes) -> Recipe:
        train = {
            "epochs": 2, "batch_size": 128, "precision": "fp32", "device": "cpu",
            "optimizer": {"name": "sgd", "lr": 0.05},
        }  # fmt: skip
        raw = {
            "name": "quick",
            "data": {"name": "digits", "dev": 0.2, **changes.pop("data", {})},
            "student": {"model": "resnet8"},
            "mentors": mentors,
            "method": {"name": "classroom"},
            "train": train | changes.pop("train", {}),
        }
        return parse_recipe(raw | changes)

    return make


# By the seconds that they take: what starts processes, compiles, or has a thousand tests.
LONGEST = (
    "test_devices.py", "test_suite.py", "test_pairs.py", "test_conformance.py", "test_speed.py",
    "test_fold.py", "test_run.py", "test_bank.py", "test_sharding.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest files first: two workers then end at about the same time."""
    ranks = {name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))
