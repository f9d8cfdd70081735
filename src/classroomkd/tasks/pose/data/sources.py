"""Where persons come from: folders of COCO, MPII and LSPET in the layouts that they come in."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classroomkd.errors import ClassroomError, unknown_name
from classroomkd.tasks.pose.data.coco import read_coco
from classroomkd.tasks.pose.data.gather import Bad
from classroomkd.tasks.pose.data.joints import joint_set
from classroomkd.tasks.pose.data.mpii import read_mpii_json, read_mpii_mat
from classroomkd.tasks.pose.data.persons import PersonSet

SPLITS = ("train", "test")
_OFFICIAL = tuple(
    f"{place}mpii_human_pose_v1_u12_1.mat" for place in ("", "annot/", "mpii_human_pose_v1_u12_2/")
)


def load_persons(
    name: str, split: str, path: Path | str | None = None, **options: Any
) -> PersonSet:
    """Load persons with their joints.

    Args:
        name: ``coco`` (any set in COCO's format and layout), ``mpii`` or ``lspet``.
        split: ``train`` or ``test`` (COCO's val2017, MPII's validation split).
        path: The set's folder. None: ``$CLASSROOMKD_DATA/<name>``, else
            ``~/.cache/classroomkd/<name>``.
        options: ``annotations`` (a file) and ``images`` (a folder), relative to ``path``, where
            they lie elsewhere than usual; ``bad`` and ``minimum_labelled`` of `read_coco`;
            of ``coco`` also ``boxes`` (a file of detected boxes), ``category`` and ``joints`` (the
            name of a joint set); of ``mpii`` also ``heads`` (a file of head boxes).

    Raises:
        ValueError: If ``name``, ``split`` or an option is unknown.
        ClassroomError: If the data cannot be found or read; the message says what to do.
    """
    if name not in _READERS:
        raise ValueError(unknown_name("set of persons", name, _READERS))
    if split not in SPLITS:
        raise ValueError(unknown_name("split", split, SPLITS))
    reader, known = _READERS[name]
    for option in options:
        if option not in known:
            raise ValueError(unknown_name(f"option of {name}", option, known))
    return reader(_folder(name, path), split, **options)


def list_persons() -> list[str]:
    """Names that `load_persons` knows, sorted."""
    return sorted(_READERS)


def _coco(
    folder: Path,
    split: str,
    *,
    annotations: Path | str | None = None,
    images: Path | str | None = None,
    boxes: Path | str | None = None,
    category: str | None = None,
    joints: str | None = None,
    minimum_labelled: int = 1,
    bad: Bad = "error",
    name: str = "coco",
) -> PersonSet:
    part = "train" if split == "train" else "val"
    stems = (f"person_keypoints_{part}2017", f"person_keypoints_{part}", f"{part}2017", part)
    files = [f"{place}{stem}.json" for place in ("annotations/", "") for stem in stems]
    folders = [f"{part}2017", f"images/{part}2017", f"images/{part}", part]
    return read_coco(
        _find(name, folder, annotations, files, "annotations"),
        _find(name, folder, images, folders, "images"),
        category=category,
        joints=None if joints is None else joint_set(joints),
        detections=None if boxes is None else folder / Path(boxes).expanduser(),
        minimum_labelled=minimum_labelled,
        bad=bad,
        name=name,
    )


def _lspet(folder: Path, split: str, **options: Any) -> PersonSet:
    return _coco(folder, split, joints="lsp", name="lspet", **options)


def _mpii(
    folder: Path,
    split: str,
    *,
    annotations: Path | str | None = None,
    images: Path | str | None = None,
    heads: Path | str | None = None,
    minimum_labelled: int = 1,
    bad: Bad = "error",
) -> PersonSet:
    """The JSON of pose code bases; the official file only where there is none of either split.

    The validation split of the JSON is part of the official file's training images.
    """
    train, test = _mpii_files("train"), _mpii_files("valid", "val", "test")
    usual = train if split == "train" else test
    if split == "train" and not any((folder / file).is_file() for file in (*train, *test)):
        usual = [*train, *_OFFICIAL]
    source = _find("mpii", folder, annotations, usual, "annotations", _mpii_hint(split))
    place = _mpii_images(folder) if images is None else folder / Path(images).expanduser()
    if source.suffix == ".mat":
        if heads is not None:
            raise ClassroomError("mpii: heads is for JSON annotations; the .mat file has its own")
        return read_mpii_mat(source, place, minimum_labelled=minimum_labelled, bad=bad)
    if heads is not None:
        boxes = folder / Path(heads).expanduser()
    else:
        beside = ("gt_valid.mat", "mpii_gt_val.mat") if split == "test" else ()
        boxes = next((f for f in map(source.with_name, beside) if f.is_file()), None)
    return read_mpii_json(source, place, heads=boxes, minimum_labelled=minimum_labelled, bad=bad)


def _mpii_images(folder: Path) -> Path:
    """Where MPII's images lie: in a folder of their own, or beside the annotations."""
    usual = (folder / place for place in ("images", "mpii_human_pose_v1/images"))
    return next((place for place in usual if place.is_dir()), folder)


def _mpii_files(*parts: str) -> list[str]:
    return [
        f"{place}{stem}.json"
        for part in parts
        for place in ("annot/", "annotations/", "")
        for stem in (part, f"mpii_{part}", f"{part}_mpii")
    ]


def _mpii_hint(split: str) -> str:
    if split == "train":
        return ""
    return (
        ". The official .mat has no joints of test images: validate on the valid.json of pose code "
        "bases, or on a development split of the training images"
    )


_SHARED = ("annotations", "images", "minimum_labelled", "bad")
_READERS: dict[str, tuple[Callable[..., PersonSet], tuple[str, ...]]] = {
    "coco": (_coco, (*_SHARED, "boxes", "category", "joints")),
    "mpii": (_mpii, (*_SHARED, "heads")),
    "lspet": (_lspet, _SHARED),
}


def _folder(name: str, path: Path | str | None) -> Path:
    """The set's folder, which must exist."""
    if path is not None:
        places = [Path(path).expanduser()]
    else:
        root = os.environ.get("CLASSROOMKD_DATA")
        places = [Path(root) / name] if root else []
        places.append(Path.home() / ".cache" / "classroomkd" / name)
    for place in places:
        if place.is_dir():
            return place
    listed = " and ".join(map(str, places))
    raise ClassroomError(f"{name}: no such folder ({listed}): set path to the folder of the set")


def _find(
    name: str,
    folder: Path,
    given: Path | str | None,
    usual: list[str],
    what: str,
    hint: str = "",
) -> Path:
    """The given file or folder, or the first of the usual ones that exists."""
    if given is not None:
        return folder / Path(given).expanduser()
    for place in usual:
        if (folder / place).exists():
            return folder / place
    raise ClassroomError(
        f"{name}: {folder}: no {what} found. Looked for {', '.join(usual)}; set {what} where they "
        f"lie elsewhere{hint}"
    )
