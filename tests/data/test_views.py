import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classroomkd.data import (
    Draws,
    create_view,
    crop,
    flip,
    list_views,
    make_view,
    register_view,
)
from classroomkd.data import views as views_module


def images_of(count, height=9, width=7, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=random)


def slow_view(image, index, seed, epoch, padding):
    """Crop and flip one image, pixel by pixel."""
    draws = Draws(seed, epoch, torch.tensor([index]))
    top, left = (shift - padding for shift in draws.integers("crop", 0, 2 * padding + 1, 2)[0])
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            from_y, from_x = y + top, x + left
            if 0 <= from_y < height and 0 <= from_x < width:
                out[:, y, x] = image[:, from_y, from_x]
    return out.flip(-1) if draws.uniform("flip")[0, 0] < 0.5 else out


@pytest.mark.parametrize("padding", [0, 1, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_equals_a_slow_reference(padding, memory_format):
    images, index = images_of(20), torch.arange(100, 120)
    view = make_view(
        images.contiguous(memory_format=memory_format),
        index,
        seed=3,
        epoch=5,
        augment=[crop(padding), flip()],
    )
    for row in range(20):
        expected = slow_view(images[row], 100 + row, 3, 5, padding)
        assert torch.equal(view[row], expected.float() / 255)


def test_crop_reaches_every_shift_equally_often():
    """A bright pixel in the middle shows where the window was cut."""
    images = torch.zeros(9000, 3, 5, 5, dtype=torch.uint8)
    images[:, :, 2, 2] = 255
    moved = crop(1)(images, Draws(0, 0, torch.arange(9000)))[:, 0]
    counts = (moved == 255).sum(0)[1:4, 1:4].double()
    assert counts.sum() == 9000
    assert ((counts - 1000) ** 2 / 1000).sum() < 8 + 5 * 16**0.5


def test_padding_is_black():
    white = torch.full((500, 3, 8, 8), 255, dtype=torch.uint8)
    view = crop(2)(white, Draws(0, 0, torch.arange(500)))
    assert set(view.unique().tolist()) == {0, 255}
    assert (view == 0).sum((1, 2, 3)).max() == 3 * (64 - 36)


def test_half_of_the_images_flip():
    images = images_of(20_000, 1, 2)
    view = flip()(images, Draws(0, 0, torch.arange(20_000)))
    same, mirrored = (view == images).all((1, 2, 3)), (view == images.flip(-1)).all((1, 2, 3))
    assert (same | mirrored).all()
    assert (~same).double().mean().item() == pytest.approx(0.5, abs=5 * 0.5 / 20_000**0.5)


@given(rows=st.lists(st.integers(0, 49), min_size=1, max_size=20))
def test_pure_whatever_the_batch(rows):
    images, settings = images_of(50), {"seed": 1, "epoch": 2, "augment": [crop(3), flip()]}
    whole = make_view(images, torch.arange(50), **settings)
    assert torch.equal(make_view(images[rows], torch.tensor(rows), **settings), whole[rows])


def test_epochs_and_seeds_change_the_view():
    images = images_of(200)
    augment = [crop(4), flip()]
    a, b, c = (
        make_view(images, torch.arange(200), seed=seed, epoch=epoch, augment=augment)
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    )
    for x, y in [(a, b), (a, c), (b, c)]:
        assert (x == y).all(3).all(2).all(1).sum() < 20


def test_plain_image_and_input_untouched():
    images = images_of(4)
    before = images.clone()
    view = make_view(images, torch.arange(4), seed=0, epoch=0)
    assert view.dtype == torch.float32
    assert torch.equal(view, images.float() / 255)
    view.zero_()
    make_view(images, torch.arange(4), seed=0, epoch=0, augment=[crop(2), flip()]).zero_()
    assert torch.equal(images, before)


def test_float_images_go_the_same_way():
    images, draws = images_of(10), Draws(0, 0, torch.arange(10))
    for view in (crop(2), flip()):
        assert torch.equal(view(images.float(), draws), view(images, draws).float())


def test_views_can_be_sent_to_another_process():
    images, draws = images_of(5), Draws(0, 0, torch.arange(5))
    for view in (crop(2), flip()):
        assert torch.equal(pickle.loads(pickle.dumps(view))(images, draws), view(images, draws))


def test_a_registered_view(monkeypatch):
    monkeypatch.setattr(views_module, "_FACTORIES", dict(views_module._FACTORIES))

    @register_view("fade")
    def fade(strength=0.5):
        def view(images, draws):
            share = 1 - strength * draws.uniform("fade")
            return (images * share[:, :, None, None]).to(images.dtype)

        return view

    assert list_views() == [
        "crop",
        "cutout",
        "erase",
        "fade",
        "flip",
        "jitter",
        "randaugment",
        "resized_crop",
    ]
    images = images_of(30)
    faded = make_view(
        images, torch.arange(30), seed=0, epoch=0, augment=[create_view("fade", strength=1.0)]
    )
    assert (faded <= images.float() / 255).all()
    assert (faded.mean((1, 2, 3)) < 0.25).any()
    with pytest.raises(ValueError, match="'fade' is already registered"):
        register_view("fade")(fade)


def test_mistakes():
    with pytest.raises(ValueError, match=r"unknown view 'crpo': did you mean 'crop'\?"):
        create_view("crpo")
    with pytest.raises(TypeError, match="pading"):
        create_view("crop", pading=4)
    with pytest.raises(
        ValueError, match="padding must be a whole number of pixels, 0 or more, not -1"
    ):
        crop(-1)
