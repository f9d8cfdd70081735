"""A shard is read as it was written, or not at all."""

import errno
import os

import pytest
import torch
from safetensors.torch import save_file

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank import DamagedShardError, Shard, encode, merge
from classroomkd.mentors.bank.shards import count_samples, read_shard, write_shard


def make(index, seed=0, classes=4, top=None):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(len(index), classes, generator=generator)
    target = torch.zeros(len(index), dtype=torch.int64)
    return Shard(torch.tensor(index, dtype=torch.int64), encode(logits, target, top))


def assert_same(one, other):
    assert torch.equal(one.index, other.index)
    assert one.stored.keys() == other.stored.keys()
    for name, tensor in one.stored.items():
        assert tensor.dtype == other.stored[name].dtype
        assert torch.equal(tensor, other.stored[name]), name


@pytest.mark.parametrize("top", [None, 1])
@pytest.mark.parametrize("index", [[], [7], [0, 3, 10**12]])
def test_round_trip(tmp_path, index, top):
    shard = make(index, top=top)
    write_shard(tmp_path / "a.safetensors", shard)
    assert_same(read_shard(tmp_path / "a.safetensors"), shard)
    assert count_samples(tmp_path / "a.safetensors") == len(index)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_tensors_that_share_memory(tmp_path):
    both = torch.arange(8.0).view(4, 2)
    shard = Shard(torch.arange(4), {"odds": both[:, 0], "peak": both[:, 1]})
    write_shard(tmp_path / "a", shard)
    assert_same(read_shard(tmp_path / "a"), shard)


def test_reader_keeps_what_it_opened(tmp_path):
    first, second = make([1, 2], seed=1), make([1, 2], seed=2)
    write_shard(tmp_path / "a", first)
    opened = read_shard(tmp_path / "a")
    write_shard(tmp_path / "a", second)
    assert_same(opened, first)
    assert_same(read_shard(tmp_path / "a"), second)


@pytest.mark.parametrize("top", [None, 1])
def test_any_changed_byte_is_detected(tmp_path, top):
    path = tmp_path / "a"
    write_shard(path, make([1, 5, 9], top=top))
    whole = path.read_bytes()
    assert b"  " in whole[:600]  # padding of the header, too, is covered
    for place in range(len(whole)):
        for change in (0x01, 0x29):  # 0x29 makes a tab of a space
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            with pytest.raises(DamagedShardError, match="a is damaged"):
                read_shard(path)


def test_any_truncation_is_detected(tmp_path):
    path = tmp_path / "a"
    write_shard(path, make([1, 5, 9]))
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DamagedShardError):
            read_shard(path)
        with pytest.raises(DamagedShardError):
            count_samples(path)
    for longer in (whole + b"\0", whole + whole):
        path.write_bytes(longer)
        with pytest.raises(DamagedShardError):
            read_shard(path)
    path.write_bytes(whole)
    assert len(read_shard(path)) == 3


def test_foreign_files(tmp_path):
    path = tmp_path / "a"
    save_file({"index": torch.arange(3), "odds": torch.zeros(3)}, path)
    with pytest.raises(DamagedShardError, match="no checksum"):
        read_shard(path)
    save_file({"index": torch.arange(3)}, path, metadata={"crc32": "00000000"})
    with pytest.raises(DamagedShardError, match="checksum differs"):
        read_shard(path)
    for content in (b"PK\3\4" + bytes(500), os.urandom(5000), b"[]", b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(DamagedShardError):
            read_shard(path)


def test_missing_and_unreadable(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_shard(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ClassroomError, match="folder cannot be read") as caught:
        read_shard(tmp_path / "folder")
    assert not isinstance(caught.value, DamagedShardError)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("call", ["replace", "fsync"])
def test_full_disk(tmp_path, monkeypatch, call, number):
    shard = make([1, 2], seed=1)
    write_shard(tmp_path / "a", shard)

    def full(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(ClassroomError, match=r"no room .* free on this disk.*stays usable.*top"):
        write_shard(tmp_path / "a", make([1, 2], seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert_same(read_shard(tmp_path / "a"), shard)


def test_unwritable_folder(tmp_path):
    with pytest.raises(ClassroomError, match="cannot be written"):
        write_shard(tmp_path / "none" / "a", make([1]))


def test_merge():
    old, new = make([1, 4, 6, 9], seed=1), make([0, 4, 9, 12], seed=2)
    both = merge(old, new)
    assert both.index.tolist() == [0, 1, 4, 6, 9, 12]
    origin = [(new, 0), (old, 0), (new, 1), (old, 2), (new, 2), (new, 3)]
    for name, tensor in both.stored.items():
        wanted = torch.stack([shard.stored[name][row] for shard, row in origin])
        assert torch.equal(tensor, wanted), name
    assert_same(merge(old, old), old)
    assert_same(merge(make([]), new), new)
    with pytest.raises(ValueError, match="encoded differently"):
        merge(old, make([1], top=1))
    with pytest.raises(ValueError, match="encoded differently"):
        merge(old, make([1], classes=5))


def test_positions():
    shard = make([2, 4, 9])
    wanted = torch.tensor([9, 2, 3, 100, 0, 4])
    assert shard.positions(wanted).tolist() == [2, 0, -1, -1, -1, 1]
    assert make([]).positions(wanted).tolist() == [-1] * 6


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (torch.tensor([1, 1]), "increasing"),
        (torch.tensor([2, 1]), "increasing"),
        (torch.tensor([1.0, 2.0]), "int64"),
        (torch.tensor([[1, 2]]), "int64"),
        (torch.tensor([1, 2, 3]), "odds must have 3 rows"),
    ],
)
def test_wrong_shards(index, message):
    with pytest.raises(ValueError, match=message):
        Shard(index, {"odds": torch.zeros(2)})
