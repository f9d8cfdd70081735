"""Small sets of persons, and a network that knows the truth."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from classroomkd.tasks.pose.data import PersonSet, joint_set, load_persons
from classroomkd.tasks.pose.models.codec import (
    Codec,
    HeatmapCodec,
    SimCCCodec,
    heatmap_codec,
    simcc_codec,
)
from classroomkd.tasks.pose.models.grid import Grid
from classroomkd.tasks.pose.models.network import PoseNetwork

CODECS = {
    "heatmap": heatmap_codec,
    "simcc": simcc_codec,
    "udp": lambda size: HeatmapCodec(
        *(Grid.corner_to_corner(side, side // 4) for side in reversed(size))
    ),
    "rtmpose": lambda size: SimCCCodec(*(Grid(2 * side, 0.5, 0.0) for side in reversed(size))),
}


def real_persons(name, folder, rows=None):
    """The test persons of a real set (or some of them); skips where it is not there."""
    shared = Path(__file__).parents[3].parent / "shared" / "data"
    path = Path(os.environ.get("CLASSROOMKD_DATA", shared)) / folder
    if not path.is_dir():
        pytest.skip(f"the real {folder} is not at {path} (set CLASSROOMKD_DATA)")
    persons = load_persons(name, "test", path)
    return persons if rows is None else persons.subset(torch.arange(rows))


def make_persons(joints="lsp", count=6, seed=0, **changes):
    """Persons with random joints, all labelled; two share each image."""
    random = torch.Generator().manual_seed(seed)
    known = joint_set(joints)
    corner = 40 + 60 * torch.rand(count, 1, 2, generator=random)
    points = corner + 100 * torch.rand(count, len(known), 2, generator=random)
    low, high = points.amin(1), points.amax(1)
    number = torch.arange(count)
    fields = {
        "name": "made",
        "joints": known,
        "index": number + 50,
        "points": points,
        "visible": torch.full((count, len(known)), 2),
        "box": torch.cat([low, high - low], 1),
        "area": (high - low).prod(1),
        "head": torch.full((count,), torch.nan),
        "score": torch.ones(count),
        "image_id": 900 + number // 2,
        "annotation_id": number + 1,
        "image": number // 2,
        "root": Path(),
        "files": tuple(f"{n}.png" for n in range((count + 1) // 2)),
        "sizes": torch.tensor([[240, 240]] * ((count + 1) // 2)),
    }
    return PersonSet(**(fields | changes))


def write_images(persons, folder):
    """Give a made set images of noise."""
    random = torch.Generator().manual_seed(1)
    for file, (width, height) in zip(persons.files, persons.sizes.tolist(), strict=True):
        noise = torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=random)
        Image.fromarray(noise.numpy()).save(folder / file)
    return replace(persons, root=folder)


class Oracle(PoseNetwork):
    """Gives the encoded truth of the crops that it has been shown, also of their mirror images.

    It is off by ``shift`` pixels of the crop along both axes.
    """

    def __init__(self, batches, joints, codec: Codec, size, shift=0.0):
        super().__init__(joints.names, joints.pairs, size, codec)
        self.dropout = torch.nn.Dropout()
        self.answers = {}
        mirrored = list(joints.mirrored)
        for batch in batches:
            height, width = batch.images.shape[-2:]
            ratio = torch.tensor([size[1] / width, size[0] / height])
            points = (batch.points + shift + 0.5) * ratio - 0.5
            back = points[:, mirrored].clone()
            back[..., 0] = size[1] - 1 - back[..., 0]
            for image, straight, turned in zip(batch.images, points, back, strict=True):
                self.answers[_key(image)] = straight
                self.answers[_key(image.flip(-1))] = turned

    def forward(self, images):
        assert not self.training
        assert not self.dropout.training
        return self.codec.encode(torch.stack([self.answers[_key(image)] for image in images]))

    def predict(self, x):
        raise AssertionError("forward answers")


def _key(image):
    return image.contiguous().numpy().tobytes()
