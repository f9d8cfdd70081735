import pytest
import torch
from PIL import Image

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import (
    PoseLoader,
    PoseViews,
    apply_affine,
    development_persons,
    load_persons,
    read_coco,
)

from .conftest import person

SIZE = (24, 18)


@pytest.fixture
def persons(write_coco):
    """37 persons in three images, with boxes of very different sizes."""
    entries = []
    for number in range(37):
        x, y = 3 + 5 * (number % 5), 2 + 4 * (number % 7)
        box = [x - 1, y - 1, 6 + number % 4 * 18, 7 + number % 3 * 20]
        flat = [x, y, 2, x + 4, y + 3, 1 + number % 2, x, y + 5, number % 2]
        entries.append(person(number, image=1 + number % 3, bbox=box, keypoints=flat))
    return read_coco(*write_coco(entries))


def collect(loader):
    """Each person's parts of the batches, by number."""
    found = {}
    for batch in loader:
        for row, index in enumerate(batch.index.tolist()):
            found[index] = [part[row] for part in batch]
    return found


def same(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(a, b) for i in one for a, b in zip(one[i], other[i], strict=True))


def test_batches(persons):
    loader = PoseLoader(persons, 10, size=SIZE)
    batches = list(loader)
    assert [len(batch.index) for batch in batches] == [10, 10, 10, 7]
    assert len(loader) == 4
    batch = batches[0]
    assert batch.images.shape == (10, 3, *SIZE)
    assert batch.images.dtype == batch.visible.dtype == batch.inverse.dtype == torch.float32
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert 0.2 < batch.images.mean() < 0.8
    assert batch.images.max() <= 1
    assert torch.equal(torch.cat([batch.index for batch in batches]), persons.index)
    assert torch.equal(batch.visible, (persons.visible[:10] > 0).float())
    back = apply_affine(batch.inverse, batch.points)
    shown = batch.visible > 0
    assert (back - persons.points[:10])[shown].abs().max() < 1e-3
    assert bool((batch.points[~shown] == 0).all())
    scale = batch.inverse[:, 0, 0]
    torch.testing.assert_close(batch.area, persons.area[:10] / scale**2)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("memory_limit", [0, 1e9])
def test_views_depend_on_neither_batches_nor_workers_nor_memory(persons, workers, memory_limit):
    alone = PoseLoader(persons, 1, size=SIZE, augment=PoseViews(), seed=3)
    together = PoseLoader(
        persons, 20, size=SIZE, augment=PoseViews(), seed=3, shuffle=True, workers=workers,
        memory_limit=memory_limit,
    )  # fmt: skip
    epochs = []
    for epoch in (4, 5):
        alone.set_epoch(epoch)
        together.set_epoch(epoch)
        epochs.append(collect(alone))
        assert same(epochs[-1], collect(together))
    assert not same(*epochs)


def test_a_subset_shows_the_same_views(persons):
    rows = torch.tensor([30, 4, 11])
    part = persons.subset(rows)
    assert len(part.files) <= 3
    whole = collect(PoseLoader(persons, 8, size=SIZE, augment=PoseViews()))
    few = collect(PoseLoader(part, 8, size=SIZE, augment=PoseViews()))
    assert list(few) == [30, 4, 11]
    assert same(few, {index: whole[index] for index in few})


def test_a_mirrored_view_is_the_mirrored_plain_one(persons):
    still = {"scale": (1, 1), "rotation": 0, "shift": 0, "half_body": 0}
    plain = collect(PoseLoader(persons, 37, size=SIZE, augment=PoseViews(flip=0, **still)))
    flipped = collect(PoseLoader(persons, 37, size=SIZE, augment=PoseViews(flip=1, **still)))
    assert same(plain, collect(PoseLoader(persons, 5, size=SIZE)))
    swapped = list(persons.joints.mirrored)
    for index, (images, points, visible, *_) in plain.items():
        assert torch.equal(flipped[index][0].flip(-1), images)
        assert torch.equal(flipped[index][2][swapped], visible)
        back = flipped[index][1][swapped]
        there = torch.stack([SIZE[1] - 1 - back[:, 0], back[:, 1]], -1)
        shown = visible > 0
        torch.testing.assert_close(there[shown], points[shown], atol=1e-4, rtol=0)


def test_joints_outside_the_view_are_not_visible(persons):
    loader = PoseLoader(persons, 37, size=SIZE, augment=PoseViews(scale=(0.5, 0.9)))
    batch = next(iter(loader))
    end = torch.tensor([SIZE[1], SIZE[0]]) - 0.5
    inside = ((batch.points >= -0.5) & (batch.points <= end)).all(-1)
    assert not bool((batch.visible.bool() & ~inside).any())
    labelled = int((persons.visible > 0).sum())
    assert 0 < batch.visible.sum() < labelled


def test_order(persons):
    loader = PoseLoader(persons, 10, size=SIZE, shuffle=True, drop_last=True)
    orders = []
    for epoch in (0, 1):
        loader.set_epoch(epoch)
        orders.append(torch.cat([batch.index for batch in loader]))
        assert torch.equal(orders[-1], loader.samples())
    assert len(loader) == 3
    assert len(orders[0].unique()) == 30
    assert not torch.equal(*orders)


def test_repeated_views(persons):
    loader = PoseLoader(persons, 37, size=SIZE, augment=PoseViews(), repeat=2)
    seen = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        assert loader.view == epoch % 2
        seen.append(collect(loader))
    assert same(seen[0], seen[2])
    assert not same(seen[0], seen[1])


def test_view_seed(persons):
    own, other, both = (
        collect(PoseLoader(persons, 9, size=SIZE, augment=PoseViews(), **seeds))
        for seeds in ({"seed": 1}, {"seed": 2}, {"seed": 2, "view_seed": 1})
    )
    assert same(own, both)
    assert not same(own, other)


def test_fewer_persons_than_a_batch(persons):
    loader = PoseLoader(persons.subset(torch.tensor([1])), 4, size=SIZE, drop_last=True)
    assert list(loader) == []


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("memory_limit", [0, 1e9])
def test_bad_images_are_named(persons, workers, memory_limit):
    Image.new("RGB", (9, 9)).save(persons.root / "2.png")
    with pytest.raises(ClassroomError, match=r"2\.png: is 9 x 9 pixels"):
        list(PoseLoader(persons, 8, size=SIZE, workers=workers, memory_limit=memory_limit))


@pytest.mark.parametrize(
    ("option", "message"),
    [({"batch_size": 0}, "batch_size"), ({"size": (0, 4)}, "size"), ({"padding": 0}, "padding")],
)
def test_options(persons, option, message):
    with pytest.raises(ValueError, match=message):
        PoseLoader(persons, **({"batch_size": 4, "size": SIZE} | option))


@pytest.mark.parametrize("size", [1, 10, 0.5])
def test_development_split_keeps_images_together(persons, size):
    train, dev = development_persons(persons, size, seed=0)
    assert sorted([*train.index.tolist(), *dev.index.tolist()]) == persons.index.tolist()
    assert not set(train.image_id.tolist()) & set(dev.image_id.tolist())
    assert len(dev) >= (size if isinstance(size, int) else 18)
    again = development_persons(persons, size, seed=0)[1]
    assert again.fingerprint == dev.fingerprint


@pytest.mark.parametrize("size", [0, 37, 0.0, 1.0, 36])
def test_development_split_of_everything_or_nothing(persons, size):
    with pytest.raises(ClassroomError, match="cannot take a development split"):
        development_persons(persons, size, seed=0)


def test_fingerprint(persons):
    assert len(persons.fingerprint) == 64
    assert persons.subset(torch.arange(37)).fingerprint == persons.fingerprint
    assert persons.subset(torch.arange(36)).fingerprint != persons.fingerprint
    moved = persons.subset(torch.arange(37))
    moved.points[3, 0, 0] += 1
    assert moved.fingerprint != persons.fingerprint


def test_a_set_of_tensors_of_wrong_shape(persons):
    from dataclasses import replace

    with pytest.raises(ValueError, match=r"box must be torch.float32 \[37, 4\]"):
        replace(persons, box=persons.box[:3])
    with pytest.raises(ValueError, match="sizes must be int64"):
        replace(persons, sizes=persons.sizes[:1])


def test_real_persons(real):
    persons = load_persons("coco", "test", real("coco-mini"))
    rows = torch.arange(12)
    options = {"size": (64, 48), "augment": PoseViews(), "seed": 1}
    kept = collect(PoseLoader(persons.subset(rows), 5, **options))
    read = collect(PoseLoader(persons.subset(rows), 12, memory_limit=0, **options))
    assert same(kept, read)
    assert min(part[0].std() for part in kept.values()) > 0.02
