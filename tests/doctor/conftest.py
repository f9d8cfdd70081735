"""A network that knows the digits, for all tests of the doctor."""

import pytest
import torch

from classroomkd.config import parse_recipe
from classroomkd.engine.run import train
from classroomkd.models import load_student


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """The run folder of a resnet8 that gets most digits right."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    recipe = parse_recipe(
        {
            "name": "trained", "data": {"name": "digits", "dev": 0.2},
            "student": {"model": "resnet8"}, "method": {"name": "none"},
            "train": {
                "epochs": 6, "batch_size": 64, "precision": "fp32", "device": "cpu", "tune": False,
                "optimizer": {"lr": 0.1},
            },
        }
    )  # fmt: skip
    summary = train(recipe, folder, progress=False, say=lambda _: None)
    assert summary["best"]["dev_top1"] > 85
    return folder


@pytest.fixture
def checkpoint(trained, tmp_path):
    """A function from a change of the trained network to an entry of a recipe with its weights.

    The file says nothing of pixels; the entry's mean and std are those of the digits.
    """

    def save(name="changed", change=lambda network: None):
        network, _ = load_student(trained)
        with torch.no_grad():
            change(network)
        weights = {k: v for k, v in network.state_dict().items() if not k.startswith("normalize")}
        torch.save(weights, tmp_path / f"{name}.pth")
        return {
            "checkpoint": str(tmp_path / f"{name}.pth"), "model": "resnet8", "name": name,
            "mean": (0.306,) * 3, "std": (0.3762,) * 3,
        }  # fmt: skip

    return save
