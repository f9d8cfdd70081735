"""A working folder for each document: small sets of data, and the mentors of the demonstration."""

import pickle
import shutil

import numpy as np
import pytest
from filelock import FileLock

from classroomkd.config import load_recipe
from classroomkd.data import sources, views
from classroomkd.demo import MENTORS
from classroomkd.engine.run import train
from classroomkd.methods import registry as methods
from classroomkd.models import registry as models


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
    """300 images of noise to train on, and 100 to test on, in the layout of CIFAR-100."""
    layout = place / "data" / "cifar100" / "cifar-100-python"
    layout.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for split, count in (("train", 300), ("test", 100)):
        content = {
            "data": generator.integers(0, 255, (count, 3072), dtype=np.uint8),
            "fine_labels": [k % 100 for k in range(count)],
        }
        (layout / split).write_bytes(pickle.dumps(content, protocol=2))
    names = {"fine_label_names": [f"class {k}" for k in range(100)]}
    (layout / "meta").write_bytes(pickle.dumps(names, protocol=2))
    return layout
