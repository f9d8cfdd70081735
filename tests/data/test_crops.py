import math

import pytest
import torch

from classroomkd.data import Draws, ResizedCrop, create_view, make_view, resized_crop
from classroomkd.data.crops import central_boxes


def boxes(crop, width, height, count=2000):
    draws = Draws(seed=1, epoch=2, index=torch.arange(count))
    return crop.boxes(draws, torch.full((count,), width), torch.full((count,), height))


def test_boxes_lie_in_the_image_with_the_area_and_ratio_asked_for():
    left, top, wide, high = boxes(ResizedCrop(), 500, 375).unbind(1)
    assert (left >= 0).all()
    assert (top >= 0).all()
    assert (left + wide <= 500).all()
    assert (top + high <= 375).all()
    area, ratio = wide * high / (500 * 375), wide / high
    assert area.min() > 0.075
    assert area.max() > 0.9
    assert ratio.min() > 0.74
    assert ratio.max() < 1.35


def test_area_and_ratio_are_spread_as_in_torchvision():
    from torchvision.transforms import v2

    _, _, wide, high = boxes(ResizedCrop(), 500, 375).unbind(1)
    torch.manual_seed(0)
    image = torch.empty(3, 375, 500)
    drawn = [v2.RandomResizedCrop(8).make_params([image]) for _ in range(2000)]
    theirs = torch.tensor([(p["width"], p["height"]) for p in drawn]).double()
    for mine, other in ((wide, theirs[:, 0]), (high, theirs[:, 1])):
        assert abs(mine.mean() - other.mean()) < 5 * other.std() / math.sqrt(1000)
        assert abs(mine.std() / other.std() - 1) < 0.1


def test_where_nothing_fits_the_centre_is_taken():
    assert boxes(ResizedCrop(scale=(1, 1)), 1000, 10, count=1).tolist() == [[493, 0, 13, 10]]
    assert boxes(ResizedCrop(scale=(1, 1)), 10, 1000, count=1).tolist() == [[0, 493, 10, 13]]


def test_a_box_depends_on_its_sample_alone():
    crop, index = ResizedCrop(), torch.arange(50)
    sizes = torch.arange(100, 150), torch.arange(300, 250, -1)
    whole = crop.boxes(Draws(0, 1, index), *sizes)
    rows = torch.tensor([31, 7, 8])
    assert torch.equal(crop.boxes(Draws(0, 1, rows), *(s[rows] for s in sizes)), whole[rows])
    assert not torch.equal(crop.boxes(Draws(0, 2, index), *sizes), whole)


def test_the_whole_image_stays_as_it_is_in_memory():
    images = torch.randint(0, 256, (3, 3, 12, 16), dtype=torch.uint8)
    view = resized_crop(scale=(1, 1), ratio=(16 / 12, 16 / 12))
    shown = make_view(images, torch.arange(3), seed=0, epoch=0, augment=[view])
    assert torch.equal(shown, images.float() / 255)


def test_a_crop_in_memory_is_that_of_its_box():
    ramp = torch.arange(32.0).expand(4, 3, 32, 32) / 32
    draws = Draws(0, 0, torch.arange(4))
    crop = ResizedCrop(scale=(0.25, 0.25), ratio=(1, 1))
    left, _, wide, _ = crop.boxes(draws, *(torch.full((4,), 32),) * 2).unbind(1)
    middle = crop(ramp, draws).mean((1, 2, 3)).double() * 32
    torch.testing.assert_close(middle, left + wide / 2 - 0.5, atol=0.2, rtol=0)


def test_central_boxes():
    found = central_boxes(torch.tensor([500, 375]), torch.tensor([375, 500]), 0.8)
    assert found.tolist() == [[100, 37.5, 300, 300], [37.5, 100, 300, 300]]


@pytest.mark.parametrize("options", [{"scale": (0.5, 0.1)}, {"scale": (0, 1)}, {"ratio": 1}])
def test_options_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        create_view("resized_crop", **options)
