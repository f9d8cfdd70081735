import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

NAMES = ["nose", "left_eye", "right_eye"]
SIZES = {1: (60, 40), 2: (31, 47), 3: (50, 50)}  # width, height of each image


@pytest.fixture(scope="session")
def real():
    """A function from a name to the folder of that real data, or a skip."""

    def find(name):
        shared = Path(__file__).parents[3].parent / "shared" / "data"
        folder = Path(os.environ.get("CLASSROOMKD_DATA", shared)) / name
        if not folder.is_dir():
            pytest.skip(f"the real {name} is not at {folder} (set CLASSROOMKD_DATA)")
        return folder

    return find


def person(number, image=1, **changes):
    entry = {
        "id": number, "image_id": image, "category_id": 1, "iscrowd": 0, "area": 100.0,
        "bbox": [5.0, 6.0, 20.0, 30.0], "keypoints": [10, 11, 2, 12, 13, 1, 0, 0, 0],
    }  # fmt: skip
    entry.update(changes)
    return {key: value for key, value in entry.items() if value is not ...}


@pytest.fixture
def write_coco(tmp_path):
    """A function from annotations to a file of them; three images are there."""
    random = np.random.default_rng(0)
    images = tmp_path / "images"
    images.mkdir()
    for number, (width, height) in SIZES.items():
        pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images / f"{number}.png")

    def write(annotations, category=None, **parts):
        content = {
            "images": [
                {"id": number, "file_name": f"{number}.png", "width": width, "height": height}
                for number, (width, height) in SIZES.items()
            ],
            "annotations": annotations,
            "categories": [{"id": 1, "name": "face", "keypoints": NAMES} | (category or {})],
        }
        file = tmp_path / "persons.json"
        file.write_text(json.dumps(content | parts))
        return file, images

    return write
