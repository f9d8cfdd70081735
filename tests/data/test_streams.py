import io
import itertools
import pickle
from dataclasses import replace
from types import SimpleNamespace

import datasets
import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from classroomkd.data import Mixing, ViewLoader, load_image_set, remote, resized_crop, streams
from classroomkd.data.spool import Spool
from classroomkd.engine.bank import build_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.errors import ClassroomError
from classroomkd.models import StudentFile, build_model, save_student

GROUP = 10  # rows of a row group


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CLASSROOMKD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(remote, "_PAUSE", 0)
    streams.open_stream.cache_clear()
    datasets.disable_progress_bars()


def noise(row, side=24):
    file = io.BytesIO()
    pixels = np.random.default_rng(row).integers(0, 256, (side, side + row % 5, 3), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write(file, rows=range(60), *, side=24, image="image", label="label", edit=None):
    """Noise that the row's number makes; classes ``even`` and ``odd``."""
    columns = {
        image: [{"bytes": noise(row, side), "path": None} for row in rows],
        label: [row % 2 for row in rows],
    }
    if edit:
        edit(columns)
    table = datasets.Dataset.from_dict(columns)
    table = table.cast_column(label, datasets.ClassLabel(names=["even", "odd"]))
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table.data.table, file, row_group_size=GROUP)
    return file


@pytest.fixture
def folder(tmp_path):
    """90 rows for training, in two files, and 20 for the test."""
    root = tmp_path / "things"
    write(root / "train-00000-of-00002.parquet", range(60))
    write(root / "train-00001-of-00002.parquet", range(60, 90))
    write(root / "test.parquet", range(100, 120))
    return root


def load(split="train", **options):
    return load_image_set(
        "table", split, **({"workers": 0, "size": 16, "streaming": True} | options)
    )


def batches(photos, size=32, epoch=1, **options):
    loader = ViewLoader(photos, size, augment=[resized_crop()], shuffle=True, **options)
    loader.set_epoch(epoch)
    images, target, index = (torch.cat(parts) for parts in zip(*loader, strict=True))
    return images, target, index


def by_number(photos, **options):
    """Views in the order of the samples' numbers."""
    images, target, index = batches(photos, **options)
    order = index.argsort()
    return images[order], target[order], index[order]


def shape(photos, rows, groups, size):
    """The same set, as if it had other row groups: of so many rows and bytes each."""
    table = np.array([(0, group, rows, size, size) for group in range(groups)], np.int64)
    nothing = np.zeros(rows * groups, np.int64)
    store = replace(photos.store, groups=table, sizes=nothing, times=nothing)
    return replace(
        photos,
        store=store,
        places=np.arange(len(store)),
        target=torch.zeros(len(store), dtype=torch.int64),
        index=torch.arange(len(store)),
    )


@pytest.fixture
def fetched(monkeypatch):
    """The row groups that are fetched, in order."""
    calls = []
    fetch = streams.StreamStore._fetch

    def spy(store, file, group):
        calls.append((file, group))
        return fetch(store, file, group)

    monkeypatch.setattr(streams.StreamStore, "_fetch", spy)
    return calls


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_same_as_the_stored_table(folder, split):
    streamed, stored = load(split, path=folder), load(split, path=folder, streaming=False)
    assert streamed.classes == stored.classes
    assert streamed.target.tolist() == stored.target.tolist()
    assert streamed.index.tolist() == stored.index.tolist()
    assert torch.equal(streamed.images, stored.images)
    for one, other in zip(by_number(streamed), by_number(stored), strict=True):
        assert torch.equal(one, other)


def test_a_share_for_the_test_and_a_part_for_development(tmp_path):
    path = write(tmp_path / "things.parquet")
    for split in ("train", "test"):
        streamed, stored = (load(split, path=path, test=0.3, streaming=s) for s in (True, False))
        assert streamed.index.tolist() == stored.index.tolist()
        assert torch.equal(streamed.images, stored.images)
    part = streamed.subset(torch.tensor([11, 3, 7]))
    assert torch.equal(part.images, streamed.images[[11, 3, 7]])
    assert sorted(batches(part)[2].tolist()) == sorted(streamed.index[[11, 3, 7]].tolist())


def test_the_start_reads_no_images(tmp_path, monkeypatch):
    path = write(tmp_path / "things.parquet", range(100), side=60)
    read = 0

    class Counted(io.FileIO):
        def read(self, size=-1):
            nonlocal read
            data = super().read(size)
            read += len(data)
            return data

    monkeypatch.setattr(LocalFileSystem, "open", lambda self, path, mode, **_: Counted(path))
    photos = load(path=path, test=10)
    footer = 2**16  # what Arrow reads of a file's end at once
    assert 0 < read < footer + 10_000 < path.stat().st_size / 10
    photos.subset(torch.arange(1)).images  # noqa: B018
    assert read > footer + 10_000


def test_the_start_reads_labels_of_known_content_once(tmp_path, monkeypatch):
    path = write(tmp_path / "things.parquet")
    columns = []
    read = pq.ParquetFile.read
    monkeypatch.setattr(
        pq.ParquetFile, "read", lambda *args, **k: columns.append(args[1]) or read(*args, **k)
    )
    source = remote.ParquetSource(LocalFileSystem(), str(path), content="4f2a")
    for _ in range(2):
        streams.open_stream.cache_clear()
        table = streams.open_stream((source,))
        assert table.labels("label") == [row % 2 for row in range(60)]
    assert columns == [["label"]]


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of two row groups."""
    monkeypatch.setattr(streams, "WINDOW_ROWS", 2 * GROUP)
    monkeypatch.setattr(streams, "WINDOW_GROUPS", 2)


MIXED = {"mixing": Mixing(mixup=0.8, cutmix=1.0)}


def test_mixed_samples_depend_neither_on_batches_nor_on_workers(folder, small_windows):
    photos = load(path=folder)
    whole = by_number(photos, size=90, **MIXED)
    assert not torch.equal(whole[0], by_number(photos, size=90)[0])
    for other in (load(path=folder, workers=2), photos):
        images, target, index = by_number(other, size=7, **MIXED)
        assert torch.equal(images, whole[0])
        assert torch.equal(target, whole[1])
        assert torch.equal(index, whole[2])
    parts = [batches(photos, size=18, part=(place, 2), **MIXED) for place in (0, 1)]
    images, _, index = (torch.cat(pair) for pair in zip(*parts, strict=True))
    assert torch.equal(images[index.argsort()], whole[0])
    twice = batches(photos, size=90, copies=2, **MIXED)[2].bincount()
    assert twice.unique().tolist() == [0, 2]


def test_mixed_samples_come_a_window_at_a_time(folder, small_windows, fetched, tmp_path):
    photos = load(path=folder)
    latest = Spool(tmp_path / "spool", limit=5 * int(photos.store.groups[:, 3].max()))
    photos = replace(photos, store=replace(photos.store, spool=latest))
    for shuffle in (True, False):
        loader = ViewLoader(photos, 5, shuffle=shuffle, seed=1, repeat=4, **MIXED)
        for epoch in (1, 5):
            fetched.clear()
            loader.set_epoch(epoch)
            list(loader)
            assert len(fetched) == len(set(fetched))
            assert len(fetched) >= 4  # of nine, the latest of the epoch before are here still


def test_views_that_repeat_are_mixed_alike_in_another_order(folder, small_windows):
    photos = load(path=folder)
    options = {"size": 90, "repeat": 3, "view_seed": 5, **MIXED}
    one, again = (batches(photos, epoch=epoch, **options) for epoch in (1, 4))
    other_seed = batches(photos, epoch=4, seed=9, **options)
    windows = photos.windows(5, 1)
    for later in (again, other_seed):
        assert not torch.equal(one[2], later[2])
        assert not torch.equal(windows[one[2]], windows[later[2]])
        for a, b in zip(one, later, strict=True):
            assert torch.equal(a[one[2].argsort()], b[later[2].argsort()])
    plain = ViewLoader(photos, 90, **MIXED, view_seed=5, repeat=3)
    plain.set_epoch(4)
    (batch,) = plain
    assert torch.equal(windows[batch.index], windows.sort().values)


def test_a_bank_serves_mixed_samples(digits_recipe, folder, tmp_path, small_windows):
    data = {"name": "table", "path": str(folder), "streaming": True, "mix": {"mixup": 0.8}}
    data |= {"dev": 0, "size": 8, "workers": 0, "repeat": 2}
    bank = {"path": str(tmp_path / "bank")}
    info = StudentFile("resnet8", ("even", "odd"), dataset="things", epoch=0, top1=50.0)
    (tmp_path / "mentor").mkdir()
    save_student(build_model("resnet8", 2), info, tmp_path / "mentor")
    mentor = {"run": str(tmp_path / "mentor"), "role": "teacher"}
    options = {"mentors": [mentor], "train": {"epochs": 4, "batch_size": 32}}
    recipe = digits_recipe(data=data, bank=bank, **options)
    build_bank(recipe, say=lambda _: None)
    stored, live = (build_classroom(r) for r in (recipe, digits_recipe(data=data, **options)))
    for epoch in (0, 3):
        for classroom in (stored, live):
            classroom.begin_epoch(epoch)
        with torch.no_grad():
            one, other = (c.training_step(next(iter(c.train))) for c in (stored, live))
        torch.testing.assert_close(one.mentor_score, other.mentor_score, rtol=1e-3, atol=1e-5)
    assert len(stored.mentor_outputs.banked) == 1


def test_each_row_group_is_fetched_once(folder, fetched):
    photos = load(path=folder)
    batches(photos)
    assert len(fetched) == len(set(fetched)) == 9
    batches(photos, epoch=2)
    batches(load(path=folder), epoch=3)
    assert len(fetched) == 9
    images = photos.images
    write(folder / "train-00001-of-00002.parquet", range(30, 60))
    changed = load(path=folder).images
    assert len(fetched) == 12
    assert torch.equal(changed[:60], images[:60])
    assert torch.equal(changed[60:], images[30:60])


def test_the_order_is_a_pure_permutation(folder):
    photos = shape(load(path=folder), rows=100, groups=300, size=2**20)
    orders = [photos.order(seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert order.dtype == torch.int64
        assert order.sort().values.tolist() == list(range(30_000))
    assert torch.equal(photos.order(0, 1), orders[1])
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(orders, 2))
    loaders = [ViewLoader(photos, size, seed=0, shuffle=True) for size in (1, 7, 512)]
    assert all(torch.equal(loader.samples(), orders[0]) for loader in loaders)


def test_the_order_stays_within_windows(folder):
    photos = shape(load(path=folder), rows=100, groups=300, size=2**20)
    groups = photos.order(0, 3).numpy() // 100
    parts = [set(groups[start : start + 1000]) for start in range(0, 30_000, 1000)]
    assert max(map(len, parts)) == 100  # those of one window of 10,000 rows
    windows = [set(groups[start : start + 10_000]) for start in range(0, 30_000, 10_000)]
    assert [len(window) for window in windows] == [100] * 3
    assert max(windows[0]) - min(windows[0]) > 200  # from all over the set
    assert np.corrcoef(groups[:10_000], np.arange(10_000))[0, 1] < 0.05


@pytest.mark.parametrize(
    ("rows", "size", "wanted"),
    [
        (100, 2**20, 100),  # 10,000 rows
        (5_000, 2**20, 8),  # not fewer row groups than this
        (100, 200 * 2**20, 5),  # not more than 1 GiB
        (100, 2**30, 1),
    ],
)
def test_how_large_a_window_is(folder, rows, size, wanted):
    store = shape(load(path=folder), rows, 120, size).store
    windows = store._windows(np.arange(120), 0, 0)
    counts = np.bincount(windows)
    assert set(counts[:-1]) == {wanted}
    assert counts.sum() == 120


def test_the_order_of_a_part_uses_the_row_groups_of_the_part(folder):
    photos = shape(load(path=folder), rows=5_000, groups=40, size=2**20)
    few = photos.subset(torch.arange(40) * 5_000 // 2)  # from 20 row groups, 2 of each
    order = few.order(0, 0)
    assert order.sort().values.tolist() == list(range(40))
    groups = few.places[order.numpy()] // 5_000
    assert [len(set(groups[s : s + 16])) for s in (0, 16)] == [8, 8]


def test_empty_row_groups(tmp_path, folder):
    table = pq.read_table(folder / "test.parquet")
    with pq.ParquetWriter(tmp_path / "train.parquet", table.schema) as writer:
        for part in (table[:0], table[:7], table[:0], table[7:20], table[:0]):
            writer.write_table(part)
    streamed, stored = (
        load(path=file, test=1, streaming=file.parent == tmp_path)
        for file in (tmp_path / "train.parquet", folder / "test.parquet")
    )
    assert len(streamed.store.groups) == 5
    assert streamed.index.tolist() == stored.index.tolist()
    assert torch.equal(streamed.images, stored.images)
    assert sorted(batches(streamed)[2].tolist()) == streamed.index.tolist()


def test_what_is_kept_is_bounded(folder, tmp_path, fetched):
    photos = load(path=folder)
    bytes_of_a_group = int(photos.store.groups[:, 3].max())
    spool = Spool(tmp_path / "spool", limit=4 * bytes_of_a_group)
    small = replace(photos, store=replace(photos.store, spool=spool))
    most = 0
    for row in [5, 15, 25, 35, 45, 55, 65, 75, 85, 5, 15, 25, 26, 27]:
        assert torch.equal(
            small.subset(torch.tensor([row])).images, photos.subset(torch.tensor([row])).images
        )
        most = max(most, sum(file.stat().st_size for file in spool.folder.glob("*.arrow")))
    assert 2 * bytes_of_a_group < most <= spool.limit
    assert len(list(spool.folder.iterdir())) <= 8  # no more files than tables and their locks
    assert len(fetched) == 9 + 9 + 3


def test_what_is_kept_and_damaged_is_fetched_again(tmp_path):
    spool = Spool(tmp_path)
    table = pa.table({"n": [1, 2]})
    spool.read("a", lambda: table)
    (file,) = tmp_path.glob("*.arrow")
    file.write_bytes(b"")
    assert spool.read("a", lambda: table).equals(table)
    assert spool.read("a", lambda: pytest.fail("is there")).equals(table)


def test_nowhere_to_keep_row_groups(folder, tmp_path):
    (tmp_path / "file").touch()
    photos = load(path=folder)
    store = replace(photos.store, spool=Spool(tmp_path / "file" / "spool"))
    with pytest.raises(ClassroomError, match=r"cannot be kept here.*\$CLASSROOMKD_CACHE"):
        replace(photos, store=store).images  # noqa: B018


def test_two_workers_give_what_none_gives(folder, fetched):
    alone, helped = (batches(load(path=folder, workers=workers)) for workers in (0, 2))
    assert all(torch.equal(one, other) for one, other in zip(alone, helped, strict=True))


def test_a_set_travels(folder):
    photos = load(path=folder)
    again = pickle.loads(pickle.dumps(photos))
    assert torch.equal(again.images, photos.images)
    assert again.fingerprint == photos.fingerprint
    assert torch.equal(again.order(0, 0), photos.order(0, 0))


def test_the_fingerprint_follows_what_is_known(folder, tmp_path):
    photos = load(path=folder)
    moved = folder.rename(tmp_path / "moved")
    assert load(path=moved).fingerprint == photos.fingerprint
    assert photos.subset(torch.arange(9)).fingerprint != photos.fingerprint
    write(moved / "train-00001-of-00002.parquet", range(60, 90), side=25)
    assert load(path=moved).fingerprint != photos.fingerprint


def test_bad_rows_are_named_or_skipped(tmp_path):
    def spoil(columns):
        columns["image"][0] = {"bytes": b"no image", "path": None}
        columns["image"][11] = None

    path = write(tmp_path / "train.parquet", range(40), edit=spoil)
    with pytest.raises(ClassroomError, match=r"\(train\), row \d+: cannot be used as an image"):
        load(path=path, test=2).images  # noqa: B018
    streamed, stored = (load(path=path, test=2, bad_images="skip", streaming=s) for s in (1, 0))
    assert streamed.notes == stored.notes
    assert torch.equal(streamed.images, stored.images)


def test_images_as_mere_bytes_and_beside_the_table(tmp_path):
    for row in range(6):
        (tmp_path / f"{row}.png").write_bytes(noise(row))
    columns = {
        "bare": pa.array([noise(row) for row in range(6)], pa.large_binary()),
        "beside": pa.array([f"{row}.png" for row in range(6)]),
        "label": list("eoeoeo"),
    }
    for split in ("train", "test"):
        pq.write_table(pa.table(columns), tmp_path / f"{split}.parquet", row_group_size=4)
    bare, beside = (load(path=tmp_path, image=name) for name in ("bare", "beside"))
    assert torch.equal(bare.images, beside.images)
    with pytest.raises(ClassroomError, match=r"'label' is string; needed|row 0: cannot be used"):
        load(path=tmp_path, image="label").images  # noqa: B018


def test_columns_that_are_missing_or_wrong(folder):
    with pytest.raises(ClassroomError, match=r"no column 'foto'.*mend data\.image"):
        load(path=folder, image="foto")
    write(folder / "train-00001-of-00002.parquet", range(60, 90), label="kind")
    with pytest.raises(ClassroomError, match=r"00001-of-00002\.parquet: no column 'label', which"):
        load(path=folder)
    path = write(folder / "other" / "numbers.parquet")
    with pytest.raises(ClassroomError, match="column 'label' is int64; needed: image files"):
        load(path=path, image="label")


def test_row_groups_that_are_too_large(folder, monkeypatch):
    monkeypatch.setattr(streams, "WINDOW_BYTES", 1000)
    with pytest.raises(ClassroomError, match=r"too large.*leave out data\.streaming"):
        load(path=folder)


def test_what_is_saved_to_disk_is_not_streamed(tmp_path):
    datasets.Dataset.from_dict({"label": [0]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ClassroomError, match=r"leave out data\.streaming"):
        load(path=tmp_path / "saved")


@pytest.fixture
def tries(monkeypatch):
    """Makes files of which so many tries to open them fail; counts the tries."""
    made = []
    usual = LocalFileSystem.open

    def fail(error, times):
        def open(system, path, *args, **options):
            made.append(path)
            if len(made) <= times:
                raise error
            return usual(system, path, *args, **options)

        monkeypatch.setattr(LocalFileSystem, "open", open)
        return made

    return fail


def test_three_tries(folder, tries):
    photos = load(path=folder)
    made = tries(ConnectionError("reset"), times=2)
    assert torch.equal(photos.images, load(path=folder, streaming=False).images)
    made.clear()
    streams.open_stream.cache_clear()
    made = tries(ConnectionError("reset"), times=99)
    with pytest.raises(ClassroomError, match=r"it cannot be read \(reset\).*network"):
        load(path=folder / "test.parquet")
    assert len(made) == 3


@pytest.mark.parametrize("workers", [0, 1])
def test_a_row_group_that_cannot_be_read(folder, workers):
    photos = load(path=folder, workers=workers)
    file = folder / "train-00001-of-00002.parquet"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(
        ClassroomError, match=r"00001-of-00002\.parquet: row group \d cannot be read"
    ):
        batches(photos)
    file.unlink()
    with pytest.raises(ClassroomError, match="start again"):
        batches(photos)


def test_damaged_files(folder):
    (folder / "test.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(ClassroomError, match=r"test\.parquet: it cannot be read.*write it again"):
        load(path=folder)


def answer(kind, status):
    response = SimpleNamespace(status_code=status, headers={}, request=None)
    return kind(f"{status} from the hub", response=response)


class Hub(MemoryFileSystem):
    """Stands in for the hub's file system."""

    store = {}
    pseudo_dirs = [""]

    def info(self, path, **options):
        return super().info(path, **options) | {"blob_id": path[-20:]}


@pytest.fixture
def hub(folder, monkeypatch):
    """Puts files into a repository; its own are known to `datasets`."""
    Hub.store.clear()
    own = {}

    class Builder:
        config = SimpleNamespace(data_files=own)
        info = SimpleNamespace(features=None)

    class Api:
        def dataset_info(self, name, revision):
            assert revision == "refs/convert/parquet"
            if not any("@c0ffee" in file for file in Hub.store):
                raise answer(huggingface_hub.errors.RevisionNotFoundError, 404)
            return SimpleNamespace(sha="c0ffee")

    def put(place, name, revision="beef", split=None):
        path = f"datasets/somebody/things@{revision}/{place}"
        Hub().pipe(path, (folder / name).read_bytes())
        if split:
            own.setdefault(split, []).append(path)

    monkeypatch.setattr(huggingface_hub, "HfFileSystem", Hub)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda name, subset: Builder)
    return put


def put_both(put, *where, **options):
    for number in range(2):
        put(where[0].format(number), f"train-0000{number}-of-00002.parquet", **options)


def test_own_files_on_the_hub(hub, folder):
    put_both(hub, "data/train-{}.parquet", split="train")
    hub("data/test.parquet", "test.parquet", split="test")
    for split in ("train", "test"):
        streamed, local = load(split, hub="somebody/things"), load(split, path=folder)
        assert torch.equal(streamed.images, local.images)
        assert streamed.target.tolist() == local.target.tolist()
    assert streamed.name == "somebody/things"


def test_class_names_on_the_card(hub, folder, monkeypatch):
    for file in folder.iterdir():
        bare = pq.read_table(file).replace_schema_metadata(None)
        pq.write_table(bare, file, row_group_size=GROUP)
    assert load(path=folder).classes == ("0", "1")
    put_both(hub, "data/train-{}.parquet", split="train")
    hub("data/test.parquet", "test.parquet", split="test")
    names = datasets.Features(label=datasets.ClassLabel(names=["even", "odd"]))
    builder = datasets.load_dataset_builder("somebody/things", None)
    monkeypatch.setattr(builder.info, "features", names)
    assert load(hub="somebody/things").classes == ("even", "odd")


def test_converted_files_on_the_hub(hub, folder):
    hub("photos.zip", "test.parquet", split="train")
    for configuration in ("default", "small"):
        put_both(hub, configuration + "/train/000{}.parquet", revision="c0ffee")
    hub("default/test/0000.parquet", "test.parquet", revision="c0ffee")
    hub("small/test/0000.parquet", "train-00000-of-00002.parquet", revision="c0ffee")
    assert torch.equal(load(hub="somebody/things").images, load(path=folder).images)
    assert len(load("test", hub="somebody/things")) == 20
    assert len(load("test", hub="somebody/things", subset="small")) == 60
    with pytest.raises(ClassroomError, match=r"choose one of default, small with data\.subset"):
        load(hub="somebody/things", subset="large")


def test_a_set_with_a_script(hub, folder, monkeypatch):
    def load_dataset_builder(name, subset):
        raise RuntimeError("Dataset scripts are no longer supported")

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    put_both(hub, "default/train/000{}.parquet", revision="c0ffee")
    assert load(hub="somebody/things", test=1).target.shape == (89,)


def test_no_files_in_parquet_on_the_hub(hub):
    hub("photos.zip", "test.parquet", split="train")
    with pytest.raises(ClassroomError, match=r"things: has no Parquet files.*leave out"):
        load(hub="somebody/things")
    hub("default/partial-train/0000.parquet", "test.parquet", revision="c0ffee")
    with pytest.raises(ClassroomError, match=r"only a part of it.*partial-train"):
        load(hub="somebody/things")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no network"), r"cannot be streamed.*no network.*check the network"),
        (answer(huggingface_hub.errors.GatedRepoError, 403), "Access is restricted.*hf auth login"),
        (answer(huggingface_hub.errors.RepositoryNotFoundError, 401), "no such data set"),
        (FileNotFoundError("things"), "is not there, or no longer: check the name"),
    ],
)
def test_a_hub_that_refuses(monkeypatch, error, message):
    def refuse(*args, **options):
        raise error

    def load_dataset_builder(name, subset):
        if hasattr(error, "response"):
            raise datasets.exceptions.DatasetNotFoundError("things") from error
        raise error

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", refuse)
    with pytest.raises(ClassroomError, match=f"somebody/things: .*{message}"):
        load(hub="somebody/things")


def test_a_file_that_is_refused_is_asked_for_once(hub, monkeypatch):
    put_both(hub, "data/train-{}.parquet", split="train")
    asked = []

    def refuse(system, path, *args, **options):
        asked.append(path)
        raise answer(huggingface_hub.errors.GatedRepoError, 403)

    monkeypatch.setattr(Hub, "open", refuse)
    with pytest.raises(ClassroomError, match=r"train-\d\.parquet: it cannot be read.*auth login"):
        load(hub="somebody/things")
    assert len(asked) == len(set(asked)) <= 2


@pytest.mark.parametrize("mixed", [{}, {"mix": {"cutmix": 1.0}, "copies": 2}])
def test_a_training(digits_recipe, folder, tmp_path, mixed):
    def trained(name, say=lambda _: None, **options):
        data = {"name": "table", "path": str(folder), "streaming": True, **mixed}
        recipe = digits_recipe(
            data=data | {"dev": 20, "size": 16, "workers": 0},
            mentors=[],
            method={"name": "none"},
            train={"epochs": 2, "batch_size": 32},
        )
        return train(recipe, tmp_path / name, progress=False, say=say, **options)

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    whole = trained("whole")
    assert whole["test_samples"] == 20
    with pytest.raises(KeyboardInterrupt):
        trained("cut", cut)
    assert trained("cut", resume=True) == whole
    one, other = (
        (tmp_path / name / "student.safetensors").read_bytes() for name in ("cut", "whole")
    )
    assert one == other


def test_a_recipe(digits_recipe, folder):
    data = {"name": "table", "path": str(folder), "dev": 2}
    recipe = digits_recipe(data=data | {"streaming": True}, mentors=[], method={"name": "none"})
    assert recipe.data.reading == {"streaming": True, "seed": 0}
    recipe = digits_recipe(data=data | {"streaming": False}, mentors=[], method={"name": "none"})
    assert recipe.data.reading == {"seed": 0}
