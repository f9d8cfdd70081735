"""An index of tar files: which samples are in them, and where their images lie."""

import json
import os
import re
import tarfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from classroomkd.data.cache import cache_file, read_cache, write_cache
from classroomkd.data.files import EXTENSIONS, named
from classroomkd.data.labels import Label
from classroomkd.errors import ClassroomError

_VERSION = 2  # of what the cache keeps
_NUMBER = re.compile(r"-?\d+")
_MOST = 1 << 24  # bytes of a label's file; one that claims more is none
_BLOCK = 512


class Member(NamedTuple):
    """Where a member's content lies in its tar file, in bytes."""

    start: int
    size: int


@dataclass
class Index:
    """The samples of some tar files: of each its image's place, and its label.

    Attributes:
        shard: which tar file the image is in.
        starts: where in it the image begins, in bytes.
        sizes: of the images, in bytes.
        members: names of the images in the tar files.
        labels: whole numbers, or texts.
        problems: what is left out, by reason.
    """

    shard: list[int] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    members: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    problems: dict[str, list[str]] = field(default_factory=dict)

    def add(self, shard: int, samples: list[list[Any]], problems: dict[str, list[str]]) -> None:
        """Add a tar file's samples and problems, as `_read_shard` gives them."""
        for start, size, member, label in samples:
            self.shard.append(shard)
            self.starts.append(start)
            self.sizes.append(size)
            self.members.append(member)
            self.labels.append(label)
        for why, names in problems.items():
            self.problems.setdefault(why, []).extend(names)


def index_shards(files: Sequence[Path], image: str | None, label: str) -> Index:
    """The samples of tar files, from the user's cache where it knows them.

    A tar file is read again once its size or time has changed.

    Args:
        files: the tar files.
        image: extension of the images, or None for the only one that is an image's.
        label: extension of the labels, or ``json.<field>``.

    Raises:
        ClassroomError: if a file cannot be read, or it is not clear which member is the image or
            the label.
    """
    index = Index()
    for number, file in enumerate(tqdm(files, "reading shards", leave=False, disable=None)):
        status = file.stat()
        key = (_VERSION, file.resolve(), status.st_size, status.st_mtime_ns, image, label)
        cache = cache_file("shard", *key)
        known: Any = read_cache(cache)
        if known is None:
            known = _read_shard(file, image, label)
            write_cache(cache, known)
        samples, problems = known
        index.add(number, samples, problems)
    index.labels = _as_numbers(index.labels)
    return index


def _as_numbers(labels: list[Label]) -> list[Label]:
    """Labels, as numbers if all are whole numbers; else all as texts."""
    texts = [str(label) for label in labels]
    return [int(text) for text in texts] if all(map(_NUMBER.fullmatch, texts)) else list(texts)


def _read_shard(
    file: Path, image: str | None, label: str
) -> tuple[list[list[Any]], dict[str, list[str]]]:
    """Of each sample of a tar file: the image's start, size and name, and the label; and problems.

    Raises:
        ClassroomError: as `index_shards`.
    """
    try:
        with file.open("rb") as stream:
            members, problems = _members(stream, file)
            return _samples(stream, file, members, image, label, problems), problems
    except OSError as error:
        raise ClassroomError(f"{file}: cannot be read ({error.strerror or error})") from error


def _samples(
    stream: BinaryIO,
    file: Path,
    members: dict[str, dict[str, Member]],
    image: str | None,
    label: str,
    problems: dict[str, list[str]],
) -> list[list[Any]]:
    extension, *fields = label.split(".")
    if members and not any(extension in kinds for kinds in members.values()):
        raise ClassroomError(
            f"{file}: no member is a label '.{extension}'. {_hint(stream, members)}"
        )
    samples = []
    for key, kinds in members.items():
        where = f"{file.name}/{key}"
        found = _image(kinds, image, file, key)
        if found is None or extension not in kinds:
            missing = "labels without an image" if found is None else "images without a label"
            problems.setdefault(missing, []).append(where)
            continue
        try:
            value = _label(stream, kinds[extension], extension == "json", fields)
        except ValueError as error:
            reason = "images whose label cannot be read"
            problems.setdefault(reason, []).append(f"{where} ({error})")
            continue
        samples.append([kinds[found].start, kinds[found].size, f"{key}.{found}", value])
    return samples


def _image(kinds: dict[str, Member], image: str | None, file: Path, key: str) -> str | None:
    """Which member of a sample is its image."""
    if image is not None:
        return image.lower() if image.lower() in kinds else None
    likely = [kind for kind in kinds if f".{kind}" in EXTENSIONS]
    if len(likely) > 1:
        raise ClassroomError(
            f"{file}: sample {key} has several images: choose one with data.image: "
            f"{' or '.join(likely)}"
        )
    return likely[0] if likely else None


def _label(stream: BinaryIO, member: Member, is_json: bool, fields: Sequence[str]) -> Label:
    """A label as it is written, or what JSON says, or a field of it.

    Raises:
        ValueError: if there is none.
    """
    content = _text(stream, member)
    if not (is_json or fields):
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


def _text(stream: BinaryIO, member: Member) -> str:
    if member.size > _MOST:
        raise ValueError(f"{member.size} bytes are too many for a label")
    stream.seek(member.start)
    return stream.read(member.size).decode("utf-8").strip()


def _hint(stream: BinaryIO, members: dict[str, dict[str, Member]]) -> str:
    """What could be the label, from the first sample."""
    key, kinds = next(iter(members.items()))
    others = [kind for kind in kinds if f".{kind}" not in EXTENSIONS]
    if "json" in kinds:
        others.remove("json")
        with suppress(ValueError, AttributeError):
            others += [f"json.{name}" for name in json.loads(_text(stream, kinds["json"]))]
    return f"Say with data.label which is: sample {key} has {named(others, 20) or 'an image only'}"


def _members(
    stream: BinaryIO, file: Path
) -> tuple[dict[str, dict[str, Member]], dict[str, list[str]]]:
    """Members by sample and extension, and what is left out, by reason."""
    members: dict[str, dict[str, Member]] = {}
    problems: dict[str, list[str]] = {}
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
                    problems.setdefault(why, []).append(f"{file.name}/{entry.name}")
                elif extension.lower() in kinds:
                    why = "members that are there twice"
                    problems.setdefault(why, []).append(f"{file.name}/{entry.name}")
                elif entry.offset_data + entry.size <= length:
                    kinds[extension.lower()] = Member(entry.offset_data, entry.size)
            end = archive.offset
        stream.seek(end)
        if stream.read(_BLOCK) != bytes(_BLOCK):
            damage = f"no end mark, but something else after {end} bytes"
    except (tarfile.TarError, EOFError, ValueError) as error:
        damage = str(error) or type(error).__name__
    if damage:
        why = "damaged tar files (or compressed ones, which must be unpacked)"
        problems[why] = [f"{file.name}: {damage}"]
    return {key: kinds for key, kinds in members.items() if kinds}, problems
