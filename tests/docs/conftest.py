"""A working folder for each document: small sets of data, and the mentors of the demonstration."""

import shutil

import pytest
from filelock import FileLock

from classroomkd.config import load_recipe
from classroomkd.data import sources, views
from classroomkd.demo import MENTORS
from classroomkd.engine.run import train
from classroomkd.methods import registry as methods
from classroomkd.models import registry as models
from tests.data.stand_ins import ENCODED, LABELS, write_parquet


@pytest.fixture(scope="module")
def place(tmp_path_factory, demo_mentors):
    """The current folder of a document, in which the demonstration has trained its mentors.

    What a document registers is forgotten at its end.
    """
    folder = tmp_path_factory.mktemp("document")
    shutil.copytree(demo_mentors, folder / "runs" / "demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("CLASSROOMKD_DATA", str(folder / "data"))
        for module, name in (
            (methods, "_METHODS"), (models, "_builders"), (models, "_canonical"),
            (views, "_FACTORIES"), (sources, "_READERS"),
        ):  # fmt: skip
            patch.setattr(module, name, dict(getattr(module, name)))
        yield folder


@pytest.fixture(scope="session")
def demo_mentors(tmp_path_factory, worker_id):
    """The mentors of the demonstration after two epochs, trained by one of the processes of tests."""
    shared = tmp_path_factory.getbasetemp()
    shared = shared if worker_id == "master" else shared.parent
    folder = shared / "demo"
    with FileLock(shared / "demo.lock"):
        for name, model in MENTORS.items():
            if not (folder / name / "summary.json").exists():
                overrides = [f"name={name}", f"student.model={model}", "train.epochs=2"]
                recipe = load_recipe("digits-mentor", overrides)
                train(recipe, folder / name, progress=False, say=lambda _: None)
    return folder


@pytest.fixture(scope="module")
def cifar100(place):
    """300 images of noise to train on, and 100 to test on, for CIFAR-100."""
    folder = place / "data" / "cifar100"
    folder.mkdir(parents=True)
    labels = LABELS.tolist()
    write_parquet(folder / "train.parquet", encoded=3 * ENCODED, labels=3 * labels)
    write_parquet(folder / "test.parquet")
    return folder
