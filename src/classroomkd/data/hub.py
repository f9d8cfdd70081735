"""Tables of Hugging Face's `datasets`, opened: from Parquet files, its own folders, or its hub."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from classroomkd.data.files import named
from classroomkd.data.remote import ParquetSource, cure, said
from classroomkd.data.splits import group_files, split_of
from classroomkd.data.streams import Stream, open_stream
from classroomkd.errors import ClassroomError

if TYPE_CHECKING:
    from datasets import Dataset
    from huggingface_hub import HfFileSystem

Anything = TypeVar("Anything")
_CONVERTED = "refs/convert/parquet"  # the hub's branch of what it has converted


def open_tables(
    path: Path | None, hub: str | None, subset: str | None, streaming: bool = False
) -> tuple[str, "Mapping[str, Dataset | Stream]"]:
    """What tables are called, and the tables for ``train``, ``test`` and ``dev``, if there.

    Args:
        path: Parquet files (a folder, a file or a pattern), or a folder that
            ``Dataset.save_to_disk`` has written.
        hub: name of a data set on the hub, where no path is given.
        subset: which configuration of the hub's set, or which folder of ``path``.
        streaming: whether to open Parquet files where they are.

    Raises:
        ClassroomError: if there are none, or none for training.
    """
    if path is None:
        if hub is None:
            raise ClassroomError("table: give path (Parquet files) or hub (a name on the hub)")
        if streaming:
            return hub, _streamed_from_hub(hub, subset)
        return hub, _by_split(_from_hub(hub, subset), hub)
    path = path / subset if subset else path
    if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")):
        if streaming:
            raise ClassroomError(
                f"{path}: was written by Dataset.save_to_disk and is read where it lies: leave out"
                " data.streaming, which is for Parquet files"
            )
        return str(path), _by_split(_from_disk(path), str(path))
    files, _ = group_files(path, ".parquet")
    for chosen in files.values():
        _check_one_subset(path, chosen)
    opened = _streamed_from_files if streaming else _from_parquet
    return str(path), {split: opened(chosen) for split, chosen in files.items()}


def _streamed_from_files(files: list[Path]) -> Stream:
    from fsspec.implementations.local import LocalFileSystem

    system = LocalFileSystem()
    return open_stream(
        tuple(
            ParquetSource(system, str(file.absolute()), changed=file.stat().st_mtime_ns)
            for file in files
        )
    )


def _streamed_from_hub(hub: str, subset: str | None) -> dict[str, Stream]:
    """What a set has in Parquet: its own files, or those that the hub has made of them."""
    from huggingface_hub import HfFileSystem

    try:
        system = HfFileSystem()
        found, declared = _own_parquet(hub, subset)
        found = found or _converted_parquet(system, hub, subset)
        chosen = {
            split: tuple(ParquetSource(system, name, _content(system.info(name))) for name in names)
            for split, names in _by_split(found, hub).items()
        }
    except ClassroomError:
        raise
    except Exception as error:  # the hub, the network and the cache each raise their own
        raise ClassroomError(
            f"{hub}: cannot be streamed from the Hugging Face hub ({said(error)}). {cure(error)};"
            " and check its configuration (data.subset)"
        ) from error
    return {
        split: replace(open_stream(sources), declared=declared) for split, sources in chosen.items()
    }


def _own_parquet(hub: str, subset: str | None) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """The Parquet files of each split of a repository, and the types of columns on its card.

    There are none if it has other files, or a script, which `datasets` does not run.
    """
    import datasets

    try:
        builder = datasets.load_dataset_builder(hub, subset)
    except (FileNotFoundError, RuntimeError):
        return {}, {}
    files = builder.config.data_files or {}
    names = {str(split): [str(name) for name in chosen] for split, chosen in files.items()}
    if all(name.endswith(".parquet") for chosen in names.values() for name in chosen):
        return names, dict(builder.info.features or {})
    return {}, {}


def _converted_parquet(
    system: "HfFileSystem", hub: str, subset: str | None
) -> dict[str, list[str]]:
    """The files of each split, which lie in folders ``<configuration>/<split>``."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        # A commit stays as it is while the branch may be made anew.
        commit = HfApi().dataset_info(hub, revision=_CONVERTED).sha
    except RevisionNotFoundError:
        raise _without_parquet(hub) from None
    root = f"datasets/{hub}@{commit}"
    found: dict[str, dict[str, list[str]]] = {}
    for name in sorted(system.find(root)):
        *_, configuration, split, file = name.split("/")
        if file.endswith(".parquet"):
            found.setdefault(configuration, {}).setdefault(split, []).append(name)
    if not found:
        raise _without_parquet(hub)
    wanted = subset or ("default" if "default" in found else next(iter(found)))
    if wanted not in found or (len(found) > 1 and wanted not in (subset, "default")):
        raise ClassroomError(f"{hub}: choose one of {named(list(found), 20)} with data.subset")
    if partial := [split for split in found[wanted] if split.startswith("partial-")]:
        raise ClassroomError(
            f"{hub}: the hub has converted only a part of it to Parquet ({named(partial)}): leave"
            " out data.streaming"
        )
    return found[wanted]


def _without_parquet(hub: str) -> ClassroomError:
    return ClassroomError(
        f"{hub}: has no Parquet files on the hub, neither its own nor converted ones"
        f" ({_CONVERTED}): leave out data.streaming"
    )


def _content(info: Mapping[str, Any]) -> str:
    """What a file's content is known by: git's hash, of a large file that of its own hash."""
    return str(info.get("blob_id") or "")


def _from_hub(hub: str, subset: str | None) -> "dict[str, Dataset]":
    import datasets

    try:
        found = datasets.load_dataset(hub, subset)
    except Exception as error:  # the hub, the network and the cache each raise their own
        raise ClassroomError(
            f"{hub}: cannot be loaded from the Hugging Face hub ({error}). Check the name, its"
            " configuration (data.subset), the network, and, where access is restricted,"
            f" `hf auth login`; or fetch it elsewhere (`hf download --repo-type dataset {hub}"
            " --local-dir FOLDER`) and set data.path to that folder"
        ) from error
    return {str(name): table for name, table in found.items()}


def _from_disk(path: Path) -> "dict[str, Dataset]":
    import datasets

    try:
        found = datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow, JSON and the file system each raise their own
        raise ClassroomError(
            f"{path}: cannot be read as a folder of Dataset.save_to_disk ({error})"
        ) from error
    if isinstance(found, datasets.Dataset):
        return {"train": found}
    return {str(name): table for name, table in found.items()}


def _from_parquet(files: list[Path]) -> "Dataset":
    import datasets

    names = [str(file) for file in files]
    try:
        return datasets.load_dataset("parquet", data_files=names, split="train")
    except Exception as error:  # as above; the cause says what is wrong with the file
        raise ClassroomError(
            f"{named(names)}: cannot be read as Parquet ({said(error.__cause__ or error)}). Fetch"
            " or write damaged files again; those of one split must have the same columns, of the"
            " same types"
        ) from error


def _by_split(tables: Mapping[str, Anything], origin: str) -> dict[str, Anything]:
    """The tables by what they are for; of two for the same, that of the shorter name."""
    if len(tables) == 1:
        return {"train": next(iter(tables.values()))}
    found = {}
    for name in sorted(tables, key=len, reverse=True):
        if split := split_of(name):
            found[split] = tables[name]
    if "train" not in found:
        raise ClassroomError(
            f"{origin}: has no split for training by its name, only {named(list(tables))}"
        )
    return found


def _check_one_subset(path: Path, files: list[Path]) -> None:
    """Files of one split in several folders are several configurations, as a rule."""
    folders = sorted({str(file.parent.relative_to(path)) for file in files if path.is_dir()})
    if len(folders) > 1:
        raise ClassroomError(
            f"{path}: files of the same split are in {named(folders)}: choose one with"
            " data.subset, or give data.path a pattern that means all"
        )
