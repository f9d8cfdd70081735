import os
from pathlib import Path

import pytest
import torch

from classroomkd.data import ImageSet, load_image_set


@pytest.fixture(scope="session")
def cifar100_folder():
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    folder = Path(os.environ.get("CLASSROOMKD_DATA", shared)) / "cifar100"
    if not folder.is_dir():
        pytest.skip(f"the real CIFAR-100 is not at {folder} (set CLASSROOMKD_DATA)")
    return folder


@pytest.fixture(scope="session")
def cifar100(cifar100_folder):
    return load_image_set("cifar100", "train", path=cifar100_folder)


@pytest.fixture
def toy():
    """101 random images of 4 classes."""
    random = torch.Generator().manual_seed(0)
    return ImageSet(
        images=torch.randint(0, 256, (101, 3, 12, 10), dtype=torch.uint8, generator=random),
        target=torch.randint(0, 4, (101,), generator=random),
        classes=("a", "b", "c", "d"),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        name="toy",
    )
