"""WebDataset's shards: tar files in which images lie beside their labels.

Each tar file is read once for an index of what lies where, which the user's cache keeps; images are
then read where they lie, in any order. `datasets` would copy every shard into a file of its own
first, and stops at the first sample that is incomplete or damaged.
"""

import json
import os
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from classroomkd.data.cache import cache_file, read_cache, write_cache
from classroomkd.data.encoded import TarImages
from classroomkd.data.files import EXTENSIONS, named
from classroomkd.data.labelled import LabelledImages, PhotoOptions, photo_dataset
from classroomkd.data.labels import ClassNames, Label, class_list, number_labels, without_images
from classroomkd.data.photos import PhotoSet
from classroomkd.data.splits import group_files
from classroomkd.errors import ClassroomError

Members = dict[str, dict[str, tuple[int, int]]]  # start and size in bytes, by sample and extension
Problems = dict[str, list[str]]  # what is left out, by reason
_VERSION = 2  # of what the cache keeps
_NUMBER = re.compile(r"-?\d+")
_MOST = 1 << 24  # bytes of a label's file; one that claims more is none
_BLOCK = 512


def read_shards(
    split: str,
    path: Path,
    *,
    image: str | None = None,
    label: str = "cls",
    classes: ClassNames | None = None,
    **options: Any,
) -> PhotoSet:
    """Read photographs from tar files: ``key.jpg`` with ``key.cls``, or with ``key.json``.

    Splits go by the names of the files or of their folders, such as ``train-000.tar`` and
    ``val-000.tar``; without such names, a share is for the test. Validation shards are for
    development where there are test shards, and else for the test.

    Args:
        split: ``train`` or ``test``.
        path: a folder of tar files, or a pattern such as ``shards/{000..127}.tar``.
        image: which member of a sample is its image, by its extension; if left out, the only one
            that is an image.
        label: which member is its label, a number or a name; or ``json.<field>``, a field of the
            member ``json``, where that is more than a number or a name.
        classes: names of the classes, where labels are numbers; see `class_list`.
        options: those of `PhotoOptions`. ``bad_images: skip`` also leaves out samples without an
            image or a label, and what cannot be read of a damaged tar file.

    Raises:
        ClassroomError: if a tar file is damaged, or samples are incomplete.
    """
    chosen = PhotoOptions(**options)
    names = class_list(classes)
    groups, others = group_files(path, ".tar")
    notes = (f"{path}: of no split: {named([str(file) for file in others])}",) if others else ()

    def read(role: str, more: tuple[str, ...] = ()) -> LabelledImages:
        origin = f"{path} ({role})"
        return _read(groups[role], origin, image, label, names, chosen.bad_images == "skip", more)

    train = read("train", notes)
    readers = {"train": lambda: train}
    for role in groups.keys() - {"train"}:
        readers[role] = lambda role=role: read(role).numbered_as(train.classes, "mend the labels")
    name = path.name if path.is_dir() else path.parent.name
    return photo_dataset(name, split, readers, chosen)


def _read(
    tars: Sequence[Path],
    origin: str,
    image: str | None,
    label: str,
    classes: tuple[str, ...] | None,
    skip: bool,
    notes: tuple[str, ...],
) -> LabelledImages:
    """The images of some tar files; a ClassroomError if any is damaged or incomplete."""
    samples: list[Sequence[Any]] = []
    problems: Problems = {}
    for number, tar in enumerate(tqdm(tars, "reading shards", leave=False, disable=None)):
        found, wrong = _indexed(tar, image, label)
        samples += [(number, *sample) for sample in found]
        for why, names in wrong.items():
            problems.setdefault(why, []).extend(names)
    told = [f"{len(names)} {why}: {named(names)}" for why, names in problems.items()]
    if told and not (skip and samples):
        skipping = ", or leave them out with data.bad_images: skip"
        raise ClassroomError(
            f"{origin}: {'; '.join(told)}. Mend them{': there are no others' if skip else skipping}"
        )
    number, starts, sizes, members, labels = zip(*samples, strict=True) if samples else [()] * 5
    if all(_NUMBER.fullmatch(str(label)) for label in labels):
        labels = [int(label) for label in labels]
    else:
        labels = [str(label) for label in labels]
    target, known = number_labels(labels, classes, origin)
    tar = np.array(number, np.int64)
    encoded = TarImages(
        origin,
        np.array(sizes, np.int64),
        np.array([file.stat().st_mtime_ns for file in tars])[tar],
        tuple(map(str, tars)),
        tar,
        np.array(starts, np.int64),
        np.array([os.fsencode(member) for member in members]),
    )
    left_out = (f"{origin}: left out {line}" for line in told)
    return LabelledImages(
        encoded, target, known, (*left_out, *without_images(target, known, origin), *notes)
    )


def _indexed(tar: Path, image: str | None, label: str) -> tuple[list[list[Any]], Problems]:
    """Of each sample of a tar file the image's start, size and name, and its label; and problems.

    The user's cache keeps them until the file's size or time changes.
    """
    try:
        status = tar.stat()
        key = (_VERSION, tar.resolve(), status.st_size, status.st_mtime_ns, image, label)
        cache = cache_file("shard", *key)
        known = read_cache(cache)
        if known is None:
            with tar.open("rb") as stream:
                members, problems = _members(stream, tar)
                known = _samples(stream, tar, members, image, label, problems), problems
            write_cache(cache, known)
    except OSError as error:
        raise ClassroomError(f"{tar}: cannot be read ({error.strerror or error})") from error
    return known[0], known[1]


def _members(stream: BinaryIO, tar: Path) -> tuple[Members, Problems]:
    """What lies where, up to the first damage, and what is left out."""
    members: Members = {}
    problems: Problems = {}
    length = os.fstat(stream.fileno()).st_size
    damage = ""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for entry in archive:
                folder, name = os.path.split(entry.name)
                if entry.isdir() or name.startswith("."):
                    continue
                stem, _, extension = name.partition(".")
                kinds = members.setdefault(os.path.join(folder, stem), {})
                if not entry.isreg() or entry.issparse():
                    why = "members that are no plain files"
                    problems.setdefault(why, []).append(f"{tar.name}/{entry.name}")
                elif extension.lower() in kinds:
                    why = "members that are there twice"
                    problems.setdefault(why, []).append(f"{tar.name}/{entry.name}")
                elif entry.offset_data + entry.size <= length:
                    kinds[extension.lower()] = entry.offset_data, entry.size
            end = archive.offset
        stream.seek(end)
        if stream.read(_BLOCK) != bytes(_BLOCK):  # tarfile takes noise for the end
            damage = f"no end mark, but something else after {end} bytes"
    except (tarfile.TarError, EOFError, ValueError) as error:
        damage = str(error) or type(error).__name__
    if damage:
        why = "damaged tar files (or compressed ones, which must be unpacked)"
        problems[why] = [f"{tar.name}: {damage}"]
    return {key: kinds for key, kinds in members.items() if kinds}, problems


def _samples(
    stream: BinaryIO,
    tar: Path,
    members: Members,
    image: str | None,
    label: str,
    problems: Problems,
) -> list[list[Any]]:
    """Of each complete sample the image's start, size and name, and its label."""
    extension, *fields = label.split(".")
    if members and not any(extension in kinds for kinds in members.values()):
        raise ClassroomError(
            f"{tar}: no member is a label '.{extension}'. {_hint(stream, members)}"
        )
    samples = []
    for key, kinds in members.items():
        images = [kind for kind in kinds if f".{kind}" in EXTENSIONS]
        if image is not None:
            images = [image.lower()] if image.lower() in kinds else []
        if len(images) > 1:
            raise ClassroomError(
                f"{tar}: sample {key} has several images: choose one with data.image: "
                f"{' or '.join(images)}"
            )
        if not images or extension not in kinds:
            missing = "images without a label" if images else "labels without an image"
            problems.setdefault(missing, []).append(f"{tar.name}/{key}")
            continue
        try:
            value = _label(stream, *kinds[extension], extension == "json", fields)
        except ValueError as error:
            reason = "images whose label cannot be read"
            problems.setdefault(reason, []).append(f"{tar.name}/{key} ({error})")
            continue
        samples.append([*kinds[images[0]], f"{key}.{images[0]}", value])
    return samples


def _label(stream: BinaryIO, start: int, size: int, is_json: bool, fields: Sequence[str]) -> Label:
    """A label as it is written, or what JSON says, or a field of it; a ValueError without one."""
    content = _text(stream, start, size)
    if not is_json:
        if not content:
            raise ValueError("it is empty")
        return content
    value = json.loads(content)
    for name in fields:
        if not isinstance(value, dict) or name not in value:
            raise ValueError(f"no field '{name}'")
        value = value[name]
    if not isinstance(value, int | str):
        raise ValueError(f"{value!r} is neither a whole number nor a text")
    return value if isinstance(value, str) else int(value)


def _text(stream: BinaryIO, start: int, size: int) -> str:
    if size > _MOST:
        raise ValueError(f"{size} bytes are too many for a label")
    stream.seek(start)
    return stream.read(size).decode("utf-8").strip()


def _hint(stream: BinaryIO, members: Members) -> str:
    """What could be the label, from the first sample."""
    key, kinds = next(iter(members.items()))
    others = [kind for kind in kinds if f".{kind}" not in EXTENSIONS]
    if "json" in kinds:
        others.remove("json")
        with suppress(ValueError, AttributeError):
            others += [f"json.{name}" for name in json.loads(_text(stream, *kinds["json"]))]
    return f"Say with data.label which is: sample {key} has {named(others, 20) or 'an image only'}"
