"""A bank holds what was saved, for its own views and mentors, whatever else writes or fails."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import threading

import pytest
import torch

from classroomkd.errors import ClassroomError
from classroomkd.mentors.bank import Bank, Shard, bytes_per_sample, encode, mentor_key, view_key
from classroomkd.mentors.bank.keys import differences
from classroomkd.models import build_model

KEY = {"weights": "3f2a"}
VIEWS = [{"name": "crop", "padding": 4}, {"name": "flip"}]


def views_key(**changes):
    usual = {
        "data_fingerprint": "3f2a" * 16, "data_name": "digits", "classes": ("cat", "cow", "dog"),
        "views": VIEWS, "seed": 0, "repeat": None, "top": None,
    }  # fmt: skip
    return view_key(**(usual | changes))


def make(index, value=0.0, classes=4):
    index = torch.as_tensor(index, dtype=torch.int64)
    logits = torch.arange(float(classes)).repeat(len(index), 1) + value
    return Shard(index, encode(logits, torch.zeros_like(index)))


def values(shard):
    """The ``value`` that each sample of `make` was made with."""
    return (shard.stored["peak"] - 3).tolist()


def loaded(store, view):
    shard = store.load(view)
    assert shard is not None
    return shard


def python(code, *arguments):
    """Start another process that runs ``code`` with these tests' helpers."""
    prelude = "import sys, os, torch; from tests.mentors.test_bank import *\n"
    return subprocess.Popen(
        [sys.executable, "-c", prelude + code, *map(str, arguments)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def await_ready(process):
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"


def finish(process, code=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    return out


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "bank"


@pytest.fixture
def bank(path):
    return Bank(path, views_key())


@pytest.fixture
def store(bank):
    return bank.mentor("vgg8", KEY)


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_save_and_load(path, store):
    assert store.views() == []
    assert store.load(7) is None
    store.save(123456, make([5]))
    store.save(7, make([1, 4], value=1.0))
    store.save(7, make([0, 4], value=2.0))
    again = Bank(path, views_key()).mentor("vgg8", KEY)
    assert again.views() == [7, 123456]
    assert loaded(again, 7).index.tolist() == [0, 1, 4]
    assert values(loaded(again, 7)) == [2.0, 1.0, 2.0]
    assert files(path) == ["bank.json", "mentor.json", "v00007.safetensors", "v123456.safetensors"]


def test_other_encodings_do_not_mix(store):
    store.save(0, make([1]))
    with pytest.raises(ValueError, match="encoded differently"):
        store.save(0, make([2], classes=5))
    assert loaded(store, 0).index.tolist() == [1]


def test_a_bank_elsewhere(path, store, tmp_path):
    store.save(7, make([1]))
    shutil.copytree(path, tmp_path / "copy")
    shutil.rmtree(path)
    copy = Bank(tmp_path / "copy", views_key())
    assert loaded(copy.mentor("vgg8", KEY), 7).index.tolist() == [1]
    assert str(path.parent) not in "".join(
        p.read_text(errors="replace") for p in (tmp_path / "copy").rglob("*") if p.is_file()
    )


def test_other_views_are_refused(path, bank):
    Bank(path, views_key())
    other = views_key(data_fingerprint="91bc" * 16, seed=1, views=VIEWS[:1], top=10)
    with pytest.raises(ClassroomError) as caught:
        Bank(path, other)
    message = str(caught.value)
    for part in (
        "data.fingerprint: 3f2a3f2a3f2a3f2a..., here 91bc91bc91bc91bc...", "seed: 0, here 1",
        "views[1]: {'name': 'flip'}, here nothing", "top: None, here 10",
        "another folder", "classroomkd bank prune", str(path),
    ):  # fmt: skip
        assert part in message
    assert "classes" not in message
    assert "repeat" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"data_fingerprint": "0"},
        {"data_name": "x"},
        {"classes": ("cow", "cat", "dog")},
        {"views": [{"name": "crop", "padding": 2}, VIEWS[1]]},
        {"views": VIEWS[::-1]},
        {"seed": 3},
        {"repeat": 4},
        {"top": 2},
        {"mix": {"mixup": 0.8}},
    ],
)
def test_each_part_of_the_view_key_counts(path, bank, change):
    with pytest.raises(ClassroomError, match="does not fit"):
        Bank(path, views_key(**change))


def test_open_without_a_key(path, store, tmp_path):
    store.save(0, make([1]))
    assert Bank(path, None).key == {"format": 1, **views_key()}
    assert Bank(path, None).mentor("vgg8", None).key == KEY
    with pytest.raises(ClassroomError, match=r"mentor nobody .*mentor.json is missing"):
        Bank(path, None).mentor("nobody", None)
    with pytest.raises(ClassroomError, match=r"bank.json is missing"):
        Bank(tmp_path / "none", None)
    assert not (tmp_path / "none").exists()
    assert not (path / "nobody").exists()


def test_another_mentor_of_the_same_name_is_refused(bank, store):
    with pytest.raises(ClassroomError, match=r"mentor vgg8 .*weights: 3f2a, here 91bc.*prune"):
        bank.mentor("vgg8", {"weights": "91bc"})
    assert bank.mentor("vgg8", KEY).key == KEY


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "photo.png").write_text("x")
    with pytest.raises(ClassroomError, match=r"holds other files, such as photo.png"):
        Bank(tmp_path, views_key())
    with pytest.raises(ClassroomError, match="cannot be read as a folder"):
        Bank(tmp_path / "photo.png", views_key())
    assert files(tmp_path) == ["photo.png"]


def test_other_formats_and_damaged_keys(path, bank):
    text = (path / "bank.json").read_text()
    (path / "bank.json").write_text(text.replace('"format": 1', '"format": 2'))
    with pytest.raises(ClassroomError, match="format: 2, here 1"):
        Bank(path, views_key())
    with pytest.raises(ClassroomError, match="has format 2, this version reads 1"):
        Bank(path, None)
    for broken in (text[:-20], "[]"):
        (path / "bank.json").write_text(broken)
        for key in (None, views_key()):
            with pytest.raises(ClassroomError, match="cannot be read"):
                Bank(path, key)


@pytest.mark.parametrize(
    "name",
    [
        "wrn_16_2",
        "a/b",
        "..",
        ".",
        "bank.json",
        "../x",
        "bank.lock",
        "zwölf 12%",
        "a\\b:c*",
        "a%2Fb",
    ],
)
def test_any_name(path, bank, name):
    bank.mentor(name, KEY).save(0, make([1]))
    bank.mentor("plain", KEY).save(0, make([2]))
    assert bank.mentors() == sorted([name, "plain"])
    assert loaded(bank.mentor(name, KEY), 0).index.tolist() == [1]
    assert bank.mentor(name, KEY).folder.parent == path
    assert [p.name for p in path.parent.iterdir()] == ["bank"]
    assert bank.prune({"plain"}) == [name]
    assert loaded(Bank(path, views_key()).mentor("plain", KEY), 0).index.tolist() == [2]


def test_impossible_names(bank):
    for name in ("", "long" * 51):
        with pytest.raises(ClassroomError, match="needs a name of 1 to 200 letters"):
            bank.mentor(name, KEY)


def test_damaged_shards_count_as_missing(path):
    said = []
    store = Bank(path, views_key(), say=said.append).mentor("vgg8", KEY)
    for view in range(4):
        store.save(view, make([1, 2]))
    file = store.folder / "v00002.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    bank = Bank(path, views_key())
    (wrong,) = bank.check()
    assert "v00002.safetensors is damaged" in wrong
    assert store.load(2) is None
    assert len(said) == 1
    assert "checksum differs" in said[0]
    assert store.views() == [0, 1, 3]
    assert bank.check() == []
    store.save(2, make([9]))
    assert loaded(store, 2).index.tolist() == [9]
    assert len(said) == 1

    file.write_bytes(b"")
    store.save(2, make([3]))  # nothing of a damaged shard is merged
    assert loaded(store, 2).index.tolist() == [3]
    assert len(said) == 2


def test_a_damaged_shard_that_somebody_holds_is_left_to_them(path, store):
    store.save(0, make([1]))
    file = store.folder / "v00000.safetensors"
    file.write_bytes(b"")
    with store.claim(0) as mine:
        assert mine
        other = Bank(path, None, say=lambda _: None).mentor("vgg8", None)
        assert other.load(0) is None
        assert file.exists()
        store.save(0, make([2]))
    assert loaded(other, 0).index.tolist() == [2]


def test_info(bank, store):
    store.save(0, make([1, 2]))
    store.save(3, make([1, 2, 3]))
    bank.mentor("empty", KEY)
    empty, row = bank.info()
    assert (row.mentor, row.views, row.samples, row.damaged) == ("vgg8", 2, 5, 0)
    assert (empty.mentor, empty.views, empty.samples) == ("empty", 0, 0)
    on_disk = sum(p.stat().st_size for p in store.folder.iterdir())
    assert row.bytes == on_disk > 5 * bytes_per_sample(4)
    (store.folder / "v00003.safetensors").write_bytes(b"x")
    assert (bank.info()[1].samples, bank.info()[1].damaged) == (2, 1)
    assert bank.size() == sum(p.stat().st_size for p in bank.path.rglob("*") if p.is_file())


def test_prune(path, bank, store):
    store.save(0, make([1]))
    bank.mentor("gone", KEY).save(0, make([2]))
    (path / "notes").mkdir()
    (path / "notes" / "mine.txt").write_text("x")
    assert bank.prune({"vgg8", "unheard"}) == ["gone"]
    assert bank.mentors() == ["vgg8"]
    assert loaded(store, 0).index.tolist() == [1]
    assert not (path / "gone").exists()
    assert (path / "notes" / "mine.txt").exists()
    bank.mentor("gone", {"weights": "new"})  # the name is free again


def test_prune_spares_what_is_being_written(path, bank, store):
    store.save(0, make([1]))
    with store.claim(0), pytest.raises(ClassroomError, match="another process is writing"):
        Bank(path, None).prune(set())
    assert loaded(store, 0).index.tolist() == [1]


def test_a_pruned_shelf_does_not_mix_with_its_successor(bank, store):
    store.save(0, make([1]))
    bank.prune(set())
    store.save(0, make([2]))  # comes back, with its key
    assert bank.mentors() == ["vgg8"]
    bank.prune(set())
    bank.mentor("vgg8", {"weights": "new"})
    with pytest.raises(ClassroomError, match="weights: new, here 3f2a"):
        store.save(0, make([3]))
    assert bank.mentor("vgg8", {"weights": "new"}).load(0) is None


def test_claim(path, store):
    other = Bank(path, views_key()).mentor("vgg8", KEY)
    with store.claim(3) as mine:
        assert mine
        with other.claim(3) as theirs:
            assert not theirs
        with other.claim(4) as theirs:
            assert theirs
        store.save(3, make([1]))  # by whom it is held
        with other.claim(3) as theirs:
            assert not theirs
    with other.claim(3) as theirs:
        assert theirs
    seen = []

    def claim():
        with store.claim(3) as mine:
            seen.append(mine)

    with store.claim(3):
        thread = threading.Thread(target=claim)
        thread.start()
        thread.join()
    assert seen == [False]  # another thread, with the same object


def test_limit(path):
    shard = make(range(100))
    roomy = Bank(path, views_key()).mentor("vgg8", KEY)
    roomy.save(0, shard)
    size = Bank(path, None).size()
    each = (roomy.folder / "v00000.safetensors").stat().st_size

    tight = Bank(path, views_key(), limit_bytes=size + each).mentor("vgg8", KEY)
    tight.save(1, shard)  # to the last byte
    with pytest.raises(ClassroomError, match=r"more than its limit of .* kB.*limit.*top.*prune"):
        tight.save(2, make([1]))
    tight.save(1, make(range(100), value=1.0))  # replaces, and grows nothing
    assert set(values(loaded(tight, 1))) == {1.0}
    with pytest.raises(ClassroomError, match="limit"):
        tight.save(1, make(range(101)))
    assert len(loaded(tight, 1)) == 100
    assert tight.views() == [0, 1]
    assert Bank(path, None).size() == size + each
    assert Bank(path, None).check() == []


def test_full_disk(bank, store, monkeypatch):
    store.save(0, make([1]))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for view in (0, 1):
            with pytest.raises(ClassroomError, match="no room"):
                store.save(view, make([2]))
        with pytest.raises(ClassroomError, match="no room"):
            bank.mentor("other", KEY)
    assert store.views() == [0]
    assert loaded(store, 0).index.tolist() == [1]
    assert bank.mentors() == ["vgg8"]
    store.save(1, make([2]))
    assert store.views() == [0, 1]


def test_a_disk_that_is_really_full(path, store):
    store.save(0, make([1]))
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
store = Bank(sys.argv[1], None).mentor("vgg8", None)
for view in (0, 1):
    try:
        store.save(view, make(range(5_000)))
    except ClassroomError as error:
        print(error)
store.save(2, make([5]))
"""
    out = finish(python(code, path)).splitlines()
    assert len(out) == 2
    assert all(re.search("no room for .* kB .*stays usable", line) for line in out)
    assert store.views() == [0, 2]
    assert loaded(store, 0).index.tolist() == [1]
    assert not list(path.rglob("*.part"))


def test_a_killed_writer(path, store):
    store.save(0, make([1]))
    code = """
import signal
os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
Bank(sys.argv[1], None).mentor("vgg8", None).save(0, make([2]))
"""
    finish(python(code, path), code=-9)
    assert "v00000.safetensors.part" in files(path)
    assert store.views() == [0]
    assert loaded(store, 0).index.tolist() == [1]

    again = Bank(path, views_key()).mentor("vgg8", KEY)
    assert not list(path.rglob("*.part"))
    with again.claim(0) as free:
        assert free
    again.save(0, make([2]))
    assert loaded(again, 0).index.tolist() == [1, 2]
    assert Bank(path, None).check() == []


def test_a_file_that_is_being_written_is_left_alone(path, store):
    part = store.folder / "v00003.safetensors.part"
    with store.claim(3):
        part.write_bytes(b"half")
        Bank(path, None).mentor("vgg8", None)
        assert part.exists()
    Bank(path, None).mentor("vgg8", None)
    assert not part.exists()


def build(path, first):
    """Save, in many pieces, every other sample of three views."""
    store = Bank(path, views_key(), limit_bytes=10**7).mentor("vgg8", KEY)
    for number in range(10):
        for view in range(3):
            store.save(view, make([100 * number + first, 9_999], value=first))


def test_two_processes_build_one_bank(path):
    other = python("print('ready', flush=True); build(sys.argv[1], 1)", path)
    await_ready(other)
    build(path, 0)
    finish(other)
    bank = Bank(path, views_key())
    assert bank.check() == []
    store = bank.mentor("vgg8", KEY)
    assert store.views() == [0, 1, 2]
    wanted = sorted([100 * i + first for i in range(10) for first in (0, 1)]) + [9_999]
    for view in range(3):
        shard = loaded(store, view)
        assert shard.index.tolist() == wanted
        assert values(shard)[:-1] == [float(number % 100) for number in wanted[:-1]]
    assert files(path) == [
        "bank.json", "mentor.json", *(f"v0000{view}.safetensors" for view in range(3))
    ]  # fmt: skip


def test_threads_with_banks_of_their_own(path):
    failed = []

    def save(number):
        try:
            store = Bank(path, views_key(), limit_bytes=10**7).mentor("vgg8", KEY)
            for view in range(3):
                store.save(view, make([number], value=number))
                store.load(view)
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    store = Bank(path, views_key()).mentor("vgg8", KEY)
    for view in range(3):
        assert loaded(store, view).index.tolist() == list(range(8))
        assert values(loaded(store, view)) == list(map(float, range(8)))


def build_claimed(path):
    """Save the views that nobody else is on; returns which."""
    store = Bank(path, views_key()).mentor("vgg8", KEY)
    built = []
    for view in range(50):
        with store.claim(view) as mine:
            if mine and store.load(view) is None:
                built.append(view)
                store.save(view, make([view]))
    return built


def test_builders_share_the_work_by_claims(path):
    other = python("print('ready', flush=True); print(build_claimed(sys.argv[1]))", path)
    await_ready(other)
    built = build_claimed(path) + json.loads(finish(other))
    assert sorted(built) == list(range(50))  # none twice
    assert Bank(path, None).check() == []


def network(seed=0, name="resnet8"):
    torch.manual_seed(seed)
    return build_model(name, 10)


def test_mentor_key_follows_from_what_matters():
    key = mentor_key(network(), precision="bf16")
    assert key == mentor_key(network(), precision="bf16")
    assert key["architecture"] == "resnet8"
    other = network()
    other.normalize.std *= 1.01
    order = torch.tensor([1, 0, 2])
    changed = [
        mentor_key(network(seed=1), precision="bf16"),
        mentor_key(other, precision="bf16"),
        mentor_key(network(), precision="fp32"),
        mentor_key(network(), precision="bf16", class_map=order),
        mentor_key(network(), precision="bf16", class_map=order.flip(0)),
        mentor_key(network().half(), precision="bf16"),
    ]
    for number, one in enumerate(changed):
        assert all(differences(one, other) for other in [key, *changed[:number]])


def test_mentor_key_does_not_follow_from_what_does_not_matter():
    built = network()
    key = mentor_key(built, precision="bf16")
    assert key == mentor_key(built.to(memory_format=torch.channels_last), precision="bf16")
    assert key == mentor_key(built.eval().requires_grad_(False), precision="bf16")


def test_mentor_key_sees_names_shapes_and_types():
    def holding(**buffers):
        module = torch.nn.Module()
        for name, buffer in buffers.items():
            module.register_buffer(name, buffer)
        return mentor_key(module, precision="fp32")["weights"]

    zeros = torch.zeros(4)
    fingerprints = [
        holding(a=zeros), holding(b=zeros), holding(a=zeros.view(2, 2)), holding(a=zeros.int()),
        holding(a=zeros[:2], b=zeros[2:]), holding(a=zeros[0]), holding(a=zeros[:0]),
        holding(a=zeros.bool()), holding(a=zeros.bfloat16()),
    ]  # fmt: skip
    assert len(set(fingerprints)) == len(fingerprints)
