"""ImageNet-1k and its kin (subsets of it, Tiny ImageNet) in the folders that users have.

Training images lie in a folder for each synset. The validation images do too; or they lie in one
folder, and a file that came with them says what is on each.
"""

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from classroomkd.data.files import class_names, list_flat, own_classes
from classroomkd.data.folder import from_listing, read_classes
from classroomkd.data.labelled import LabelledImages, PhotoOptions, photo_dataset
from classroomkd.data.photos import PhotoSet
from classroomkd.data.synsets import SYNSET, read_words, synset_names
from classroomkd.errors import ClassroomError

TRAIN_FOLDERS = ("train", "ILSVRC2012_img_train")
VAL_FOLDERS = ("val", "ILSVRC2012_img_val", "valid", "validation")
_BELOW = ("", "CLS-LOC", "Data/CLS-LOC", "ILSVRC/Data/CLS-LOC", "ILSVRC2012")


def read_imagenet(split: str, path: Path, **options: Any) -> PhotoSet:
    """Read ``train/<synset>/*`` and, for the test, ``val/<synset>/*`` or ``val/*``.

    What is on the images of a flat ``val`` is read from ``LOC_val_solution.csv`` (Kaggle),
    ``ILSVRC2012_validation_ground_truth.txt`` with ``meta.mat`` or ``map_clsloc.txt`` (the
    official development kit), or ``val_annotations.txt`` (Tiny ImageNet). Without ``val``, a share
    of each class is for the test.

    Classes are in the order of their synsets, which is the usual one. Each is called by its synset
    and its words, so that pretrained mentors' classes are found by either.

    Args:
        split: ``train`` or ``test``.
        path: the folder, or one above it such as that which holds ``ILSVRC``.
        options: those of `PhotoOptions`.

    Raises:
        ClassroomError: if the folders are not there, or labels are missing.
    """
    root, train = _find_train(path)
    synsets = own_classes(train, path)
    readers = {"train": partial(read_classes, train, path)}
    if val := next((root / name for name in VAL_FOLDERS if (root / name).is_dir()), None):
        flat = not any(SYNSET.fullmatch(name) for name in class_names(val))
        readers["test"] = partial(_flat if flat else read_classes, val, path, synsets)
    photos = photo_dataset("imagenet", split, readers, PhotoOptions(**options))
    return replace(photos, classes=synset_names(synsets, _given_words(path, root)))


def _find_train(path: Path) -> tuple[Path, Path]:
    """The folder of ``train`` and ``val``, and its ``train``."""
    places = [path / below / name for below in _BELOW for name in TRAIN_FOLDERS]
    for train in places:
        if any(SYNSET.fullmatch(name) for name in class_names(train)):
            return train.parent, train
    if packed := next((train for train in places if any(train.glob("n*.tar"))), None):
        raise ClassroomError(
            f"{packed}: has the synsets' tar files: unpack each into a folder of its name"
        )
    raise ClassroomError(
        f"{path}: no folder train in it (nor in {', '.join(_BELOW[1:])}) that has folders of "
        "synsets, such as n01440764. Folders of classes with other names are read by data.name: "
        "folder"
    )


def _around(path: Path, root: Path) -> Iterator[Path]:
    """Where what came with the images may lie: beside them, above, and in development kits."""
    folders = [path, root]
    while folders[-1].name in ("CLS-LOC", "Data", "ILSVRC"):
        folders.append(folders[-1].parent)
    for folder in dict.fromkeys(folders):
        yield folder
        yield from sorted(folder.glob("*devkit*/data"))


def _find(name: str, path: Path, root: Path) -> Path | None:
    return next((found for at in _around(path, root) for found in sorted(at.glob(name))), None)


def _given_words(path: Path, root: Path) -> dict[str, str]:
    """Words of synsets from a file that came with the images; they matter where timm has none."""
    for name in ("LOC_synset_mapping.txt", "synset_words.txt", "words.txt"):
        if file := _find(name, path, root):
            return read_words(_lines(file))
    return {}


def _flat(val: Path, path: Path, synsets: Sequence[str]) -> LabelledImages:
    """The images of a folder without folders of synsets."""
    source, labels = _labels(val, path)
    images = from_listing(list_flat(val, path, labels, source), val)
    return images.numbered_as(synsets, "remove their images, or add their folders to train")


def _labels(val: Path, path: Path) -> tuple[Path, dict[str, str]]:
    """The file that says what is on the images, and their synsets by their names."""
    find = partial(_find, path=path, root=val.parent)
    if file := find("LOC_val_solution.csv"):
        rows = list(csv.reader(_lines(file)))[1:]
        return file, {row[0]: row[1].split()[0] for row in rows if len(row) > 1 and row[1].strip()}
    if (file := val / "val_annotations.txt").is_file():
        rows = [line.split("\t") for line in _lines(file)]
        return file, {Path(row[0]).stem: row[1] for row in rows if len(row) > 1}
    if file := find("ILSVRC*validation_ground_truth.txt"):
        return file, _truth(file, _synset_order(find, file))
    raise ClassroomError(
        f"{val}: has neither folders of synsets nor, beside it, a file that says what is on its "
        "images: put LOC_val_solution.csv (Kaggle), or the folder ILSVRC2012_devkit_t12 of the "
        f"official development kit, into {path}"
    )


def _truth(file: Path, order: dict[str, str]) -> dict[str, str]:
    """Synsets by the names of the images, whose numbers are those of the lines."""
    return {
        f"ILSVRC2012_val_{place:08d}": order.get(line.strip(), line.strip())
        for place, line in enumerate(_lines(file), start=1)
    }


def _synset_order(find: Callable[[str], Path | None], truth: Path) -> dict[str, str]:
    """Synsets by ILSVRC's own numbers, which are in another order than the usual one."""
    if file := find("map_clsloc.txt"):
        rows = [line.split() for line in _lines(file)]
        return {row[1]: row[0] for row in rows if len(row) > 1}
    if file := find("meta.mat"):
        from scipy.io import loadmat

        try:
            synsets = loadmat(str(file), squeeze_me=True)["synsets"]
            pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
            return {str(int(number)): str(synset) for number, synset in pairs}
        except Exception as error:  # a damaged file can raise nearly anything
            raise ClassroomError(f"{file}: cannot be read ({error}): fetch it again") from error
    raise ClassroomError(
        f"{truth}: counts classes as ILSVRC does, and neither meta.mat nor map_clsloc.txt, which "
        "say what the numbers mean, lies beside it: take both files from the development kit"
    )


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ClassroomError(f"{file}: cannot be read as text ({error})") from error
