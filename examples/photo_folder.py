"""Make a small folder of photographs: classes of CIFAR-100 at 32 pixels, and persons cut from COCO.

Usage: python examples/photo_folder.py OUT --coco COCO [--classes 20]

CIFAR-100 is found as `classroomkd train` finds it. COCO is a folder in the usual layout: crops of
annotated persons, of any size, become the class `person` (train2017 to train/, val2017 to val/).
"""

import argparse
from pathlib import Path

from PIL import Image

from classroomkd.data import load_image_set
from classroomkd.tasks.pose.data import load_persons

SIDE = 32  # pixels that a person must have at least


def write_cifar(out: Path, classes: int) -> None:
    """The first classes of CIFAR-100 as PNG files."""
    for split, part in (("train", "train"), ("test", "val")):
        images = load_image_set("cifar100", split)
        for row in (images.target < classes).nonzero()[:, 0].tolist():
            folder = out / part / images.classes[int(images.target[row])]
            folder.mkdir(parents=True, exist_ok=True)
            pixels = images.images[row].permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(folder / f"{row:05d}.png")


def write_persons(out: Path, coco: Path) -> None:
    """Persons of COCO, cut out by their boxes, as JPEG files."""
    for split, part in (("train", "train"), ("test", "val")):
        persons = load_persons("coco", split, coco, bad="skip")
        folder = out / part / "person"
        folder.mkdir(parents=True, exist_ok=True)
        for row in range(len(persons)):
            left, top, width, height = persons.box[row].round().int().tolist()
            if min(width, height) >= SIDE:
                file = persons.root / persons.files[int(persons.image[row])]
                with Image.open(file) as photo:
                    box = (left, top, left + width, top + height)
                    crop = photo.convert("RGB").crop(box)
                crop.save(folder / f"{persons.annotation_id[row]}.jpg", quality=92)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--classes", type=int, default=20)
    options = parser.parse_args()
    write_cifar(options.out, options.classes)
    write_persons(options.out, options.coco)
    for part in ("train", "val"):
        files = sum(path.is_file() for path in (options.out / part).rglob("*"))
        print(f"{options.out / part}: {files} images")


if __name__ == "__main__":
    main()
