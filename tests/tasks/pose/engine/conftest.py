"""Drawn persons in the layout of LSPET, and runs on them: no download, and quickly learnt."""

import json

import numpy as np
import pytest
from PIL import Image

from classroomkd.config import parse_recipe
from classroomkd.engine.run import train
from classroomkd.tasks.pose.data import joint_set

SIZE = 48


def draw_set(folder, persons):
    """Each joint a square of its own colour, somewhere in a dark image."""
    joints = joint_set("lsp")
    random = np.random.default_rng(0)
    colors = random.integers(80, 256, (len(joints), 3), dtype=np.uint8)
    for split, count in persons.items():
        (folder / "images" / split).mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, count + 1):
            pixels = np.full((SIZE, SIZE, 3), 20, dtype=np.uint8)
            points = random.integers(6, SIZE - 6, (len(joints), 2))
            for (x, y), color in zip(points, colors, strict=True):
                pixels[y - 2 : y + 3, x - 2 : x + 3] = color
            seen = random.random(len(joints)) < 0.9
            keypoints = np.concatenate([points * seen[:, None], 2 * seen[:, None]], 1)
            name = f"{number:04d}.png"
            Image.fromarray(pixels).save(folder / "images" / split / name)
            images.append({"id": number, "file_name": name, "width": SIZE, "height": SIZE})
            annotations.append({
                "id": number, "image_id": number, "category_id": 1, "iscrowd": 0,
                "keypoints": keypoints.flatten().tolist(), "num_keypoints": int(seen.sum()),
                "bbox": [4, 4, SIZE - 8, SIZE - 8], "area": (SIZE - 8.0) ** 2,
            })  # fmt: skip
        category = {"id": 1, "name": "person", "keypoints": list(joints.names), "skeleton": []}
        said = {"images": images, "annotations": annotations, "categories": [category]}
        place = folder / "annotations" / f"person_keypoints_{split}.json"
        place.parent.mkdir(exist_ok=True)
        place.write_text(json.dumps(said))
    return folder


@pytest.fixture(scope="session")
def persons(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("persons"), {"train": 48, "val": 16})


def pose_recipe(persons, **sections):
    """A recipe on the drawn persons; sections are merged into it."""
    raw = {
        "name": "pose",
        "task": "pose",
        "data": {"name": "lspet", "path": str(persons), "dev": 8, "workers": 0},
        "student": {"model": "pose/tiny/heatmap", "input": [32, 32]},
        "method": {"name": "none"},
        "train": {"epochs": 2, "batch_size": 16, "precision": "fp32"},
    }
    for name, section in sections.items():
        merge = isinstance(section, dict) and isinstance(raw.get(name), dict)
        raw[name] = {**raw[name], **section} if merge else section
    return parse_recipe(raw)


@pytest.fixture(scope="session")
def mentor_runs(persons, tmp_path_factory):
    """Runs of two mentors: a heatmap one of the student's kind, and a SimCC one of another size."""
    folder = tmp_path_factory.mktemp("runs")
    for name, student in {
        "heatmap": {"model": "pose/tiny/heatmap", "input": [32, 32]},
        "simcc": {"model": "pose/tiny/simcc", "input": [48, 32]},
    }.items():
        recipe = pose_recipe(persons, name=name, student=student)
        train(recipe, folder / name, progress=False, say=lambda _: None)
    return folder
