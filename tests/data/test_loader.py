import itertools
import time

import pytest
import torch

from classroomkd.data import Batch, ViewLoader, crop, development_split, flip, load_image_set

AUGMENT = [crop(2), flip()]


def by_index(loader):
    """Every sample's view and target, keyed by its index."""
    return {
        int(index): (image, int(target))
        for batch in loader
        for image, target, index in zip(*batch, strict=True)
    }


def assert_same_views(a, b):
    assert a.keys() == b.keys()
    for index in a:
        assert torch.equal(a[index][0], b[index][0])
        assert a[index][1] == b[index][1]


def test_batches(toy):
    loader = ViewLoader(toy, 20)
    batches = list(loader)
    assert len(loader) == len(batches) == 6
    assert all(isinstance(batch, Batch) for batch in batches)
    assert [len(batch.target) for batch in batches] == [20] * 5 + [1]
    images, target, index = map(torch.cat, zip(*batches, strict=True))
    assert images.dtype == torch.float32
    assert torch.equal(images, toy.images.float() / 255)
    assert torch.equal(target, toy.target)
    assert torch.equal(index, torch.arange(101))


def test_drop_last(toy):
    loader = ViewLoader(toy, 20, drop_last=True)
    assert [len(batch.target) for batch in loader] == [20] * 5
    assert len(loader) == 5
    assert len(ViewLoader(toy, 101, drop_last=True)) == 1
    assert list(ViewLoader(toy, 102, drop_last=True)) == []


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("augment", [[], AUGMENT])
def test_memory_format(toy, channels_last, augment):
    batch = next(iter(ViewLoader(toy, 8, augment=augment, channels_last=channels_last)))
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    other = torch.contiguous_format if channels_last else torch.channels_last
    assert batch.images.is_contiguous(memory_format=wanted)
    assert not batch.images.is_contiguous(memory_format=other)


def test_memory_format_does_not_change_the_pixels(toy):
    a, b = (by_index(ViewLoader(toy, 8, augment=AUGMENT, channels_last=x)) for x in (True, False))
    assert_same_views(a, b)


def test_views_depend_neither_on_batch_size_nor_on_order(toy):
    expected = by_index(ViewLoader(toy, 128, seed=5, augment=AUGMENT))
    assert_same_views(by_index(ViewLoader(toy, 7, seed=5, augment=AUGMENT)), expected)
    assert_same_views(by_index(ViewLoader(toy, 7, seed=5, augment=AUGMENT, shuffle=True)), expected)


def test_order_does_not_depend_on_batch_size(toy):
    orders = [
        torch.cat([batch.index for batch in ViewLoader(toy, size, shuffle=True)])
        for size in (7, 128)
    ]
    assert torch.equal(*orders)
    assert not torch.equal(orders[0], torch.arange(101))


def test_a_subset_shows_the_same_views(toy):
    train, _ = development_split(toy.target, 20, seed=0)
    whole = by_index(ViewLoader(toy, 16, augment=AUGMENT))
    part = by_index(ViewLoader(toy.subset(train), 16, augment=AUGMENT, shuffle=True))
    assert_same_views(part, {index: whole[index] for index in train.tolist()})


def test_what_ran_before_does_not_matter(toy):
    fresh = ViewLoader(toy, 16, augment=AUGMENT, shuffle=True)
    fresh.set_epoch(3)
    used = ViewLoader(toy, 16, augment=AUGMENT, shuffle=True)
    list(used)
    used.set_epoch(3)
    list(itertools.islice(used, 2))
    torch.manual_seed(123)
    for a, b in zip(used, fresh, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_epochs_differ_in_order_and_views(toy):
    loader = ViewLoader(toy, 101, augment=AUGMENT, shuffle=True)
    first = next(iter(loader))
    loader.set_epoch(1)
    second = next(iter(loader))
    assert (first.index == second.index).sum() < 10
    views_a, views_b = first.images[first.index.argsort()], second.images[second.index.argsort()]
    assert (views_a == views_b).flatten(1).all(1).sum() < 20


def test_an_epoch_that_runs_is_not_changed(toy):
    loader = ViewLoader(toy, 16, augment=AUGMENT, shuffle=True)
    expected = torch.cat([batch.images for batch in loader])
    images = []
    for batch in loader:
        images.append(batch.images)
        loader.set_epoch(9)
    assert torch.equal(torch.cat(images), expected)


def test_batches_do_not_share_memory_with_the_set(toy):
    before = toy.images.clone()
    for batch in ViewLoader(toy, 16):
        batch.images.zero_()
        batch.target.zero_()
    assert torch.equal(toy.images, before)
    assert toy.target.any()


def halves(batch):
    """The two views of a batch."""
    count = len(batch.target) // 2
    return (Batch(*(t[:count] for t in batch)), Batch(*(t[count:] for t in batch)))


def test_two_views_of_each_sample(toy):
    loader = ViewLoader(toy, 20, augment=AUGMENT, second=[flip()], shuffle=True)
    assert len(loader) == 6
    batches = list(loader)
    assert [len(batch.target) for batch in batches] == [40] * 5 + [2]
    assert [len(batch.images) for batch in batches] == [40] * 5 + [2]
    firsts, seconds = zip(*map(halves, batches), strict=True)
    for first, second in zip(firsts, seconds, strict=True):
        assert torch.equal(first.index, second.index)
        assert torch.equal(first.target, second.target)
    alone = ViewLoader(toy, 20, augment=AUGMENT, shuffle=True)
    assert_same_views(by_index(firsts), by_index(alone))
    plain = {int(i): image.float() / 255 for i, image in zip(toy.index, toy.images, strict=True)}
    for index, (image, _) in by_index(seconds).items():
        whole, mirrored = plain[index], plain[index].flip(-1)
        assert torch.equal(image, whole) or torch.equal(image, mirrored)


def test_the_second_view_is_drawn_anew(toy):
    """The same functions, but other numbers; no functions: the plain image."""
    loader = ViewLoader(toy, 101, augment=AUGMENT, second=AUGMENT)
    first, second = halves(next(iter(loader)))
    assert (first.images == second.images).flatten(1).all(1).sum() < 20
    _, second = halves(next(iter(ViewLoader(toy, 101, augment=AUGMENT, second=[]))))
    assert torch.equal(second.images, toy.images.float() / 255)


def test_second_views_depend_on_the_sample_alone(toy):
    def seconds(**options):
        loader = ViewLoader(toy, augment=AUGMENT, second=AUGMENT, **options)
        loader.set_epoch(3)
        return by_index([halves(batch)[1] for batch in loader])

    assert_same_views(seconds(batch_size=7, shuffle=True), seconds(batch_size=101))


@pytest.mark.parametrize("channels_last", [True, False])
def test_two_views_keep_the_memory_format_and_leave_out_by_samples(toy, channels_last):
    loader = ViewLoader(toy, 20, second=AUGMENT, drop_last=True, channels_last=channels_last)
    assert [len(batch.target) for batch in loader] == [40] * 5
    wanted = torch.channels_last if channels_last else torch.contiguous_format
    assert all(batch.images.is_contiguous(memory_format=wanted) for batch in loader)


def test_wrong_batch_size(toy):
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        ViewLoader(toy, 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_shows_the_same_views_and_never_waits(toy):
    expected = by_index(ViewLoader(toy, 16, augment=AUGMENT, shuffle=True))
    loader = ViewLoader(toy, 16, augment=AUGMENT, shuffle=True, device="cuda")
    iterator = iter(loader)
    batches = [next(iterator)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches += iterator
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cpu = [Batch(*(tensor.cpu() for tensor in batch)) for batch in batches]
    assert_same_views(by_index(cpu), expected)


def test_trains_on_digits():
    """The whole room at work: a linear student reads most digits after a few epochs."""
    train, test = load_image_set("digits", "train"), load_image_set("digits", "test")
    torch.manual_seed(0)
    student = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 10))
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    loader = ViewLoader(train, 64, shuffle=True)
    for epoch in range(5):
        loader.set_epoch(epoch)
        for batch in loader:
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(student(batch.images), batch.target)
            loss.backward()
            optimizer.step()
    right = sum(int((student(b.images).argmax(1) == b.target).sum()) for b in ViewLoader(test, 128))
    assert right / len(test) > 0.9


@pytest.mark.slow
def test_throughput_on_cifar100(cifar100):
    """The product's goal on 2 cores; measured: several times as many."""
    loader = ViewLoader(cifar100, 128, augment=[crop(4), flip()], shuffle=True)
    list(itertools.islice(loader, 20))
    start = time.perf_counter()
    count = sum(len(batch.target) for batch in loader)
    rate = count / (time.perf_counter() - start)
    print(f"{rate:,.0f} images/s")
    assert rate >= 20_000
