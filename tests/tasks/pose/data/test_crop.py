import numpy as np
import pytest
import torch
from PIL import Image

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.data import apply_affine, fit_box, make_frames
from classroomkd.tasks.pose.data.pixels import Pixels, choose_levels, halve
from classroomkd.tasks.pose.data.reader import read_image

RANDOM = np.random.default_rng(0)
IMAGES = [RANDOM.integers(0, 256, (h, w, 3), dtype=np.uint8) for h, w in [(40, 60), (47, 31)]]


def random_frames(size, count=6, seed=0):
    random = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.rand(*shape, generator=random, dtype=torch.float64)
    return make_frames(
        draw(count, 2) * 60 - 5,
        draw(count) * 3 + 0.1,
        size,
        angle=draw(count) * 360,
        mirrored=torch.arange(count) % 2 == 0,
    )


def by_hand(image, centre, matrix, size):
    """The crop of one person, pixel by pixel."""
    height, width = size
    padded = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            away = np.array([column - (width - 1) / 2, row - (height - 1) / 2])
            x, y = centre + matrix @ away
            if not (-1 < x < image.shape[1] and -1 < y < image.shape[0]):
                continue
            x0, y0 = int(np.floor(x)), int(np.floor(y))
            for dy, dx in ((0, 0), (0, 1), (1, 0), (1, 1)):
                weight = (1 - abs(x - x0 - dx)) * (1 - abs(y - y0 - dy))
                out[row, column] += weight * padded[y0 + dy + 1, x0 + dx + 1]
    return out


def crop(frames, image, level=None, images=IMAGES):
    levels = torch.zeros(len(image), dtype=torch.int64) if level is None else level
    pixels = Pixels.of(images, int(levels.max()) + 1)
    return pixels.crop(image, levels, frames.centre, frames.matrix, frames.size)


@pytest.mark.parametrize("size", [(17, 12), (12, 17), (16, 16), (1, 3)])
def test_pixels_are_those_of_a_slow_reference(size):
    frames = random_frames(size)
    image = torch.tensor([0, 1, 1, 0, 1, 0])
    shown = crop(frames, image)
    for place in range(6):
        centre, matrix = frames.centre[place].numpy(), frames.matrix[place].numpy()
        wanted = by_hand(IMAGES[image[place]], centre, matrix, size)
        assert np.abs(shown[place].permute(1, 2, 0).numpy() - wanted).max() < 0.51


def test_the_plain_image_comes_out_as_it_is():
    centre, scale = fit_box(torch.tensor([[-0.5, -0.5, 60, 40]]), (40, 60), padding=1)
    shown = crop(make_frames(centre, scale, (40, 60)), torch.tensor([0]))
    assert np.array_equal(shown[0].permute(1, 2, 0), IMAGES[0])


def test_black_outside():
    far = make_frames(torch.tensor([[1e7, 3.0], [-1e9, 1e9]]), torch.tensor([1.0, 99.0]), (5, 4))
    assert crop(far, torch.tensor([0, 1])).eq(0).all()


def test_a_mirrored_input_is_exactly_mirrored():
    centre, scale, angle = torch.tensor([[30.3, 20.1]]), torch.tensor([0.7]), torch.tensor([33.0])
    for size in ((20, 15), (15, 20)):
        plain, mirrored = (
            make_frames(centre, scale, size, angle=angle, mirrored=torch.tensor([flag]))
            for flag in (False, True)
        )
        image = torch.tensor([0])
        assert torch.equal(crop(mirrored, image), crop(plain, image).flip(-1))
        points = torch.tensor([[[10.0, 12.0], [50.0, 1.0]]])
        x, y = plain.to_input(points).unbind(-1)
        there = torch.stack([size[1] - 1 - x, y], -1)
        torch.testing.assert_close(mirrored.to_input(points), there, atol=1e-9, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (96, 72), (256, 192), (384, 288), (5, 300)])
def test_there_and_back(size):
    frames = random_frames(size, count=8)
    points = torch.rand(8, 17, 2, generator=torch.Generator().manual_seed(1)) * 2000 - 200
    back = apply_affine(frames.inverse.float(), frames.to_input(points).float())
    assert (back - points).abs().max() < 1e-3


def test_points_follow_the_pixels():
    image = np.zeros((41, 61, 3), np.uint8)
    image[17:20, 33:36] = 255  # around (34, 18)
    centre, scale = torch.tensor([[33.0, 20.0]]), torch.tensor([0.5])
    for angle in (0.0, 40.0, 130.0, -77.0):
        frames = make_frames(centre, scale, (80, 90), angle=torch.tensor([angle]))
        shown = crop(frames, torch.tensor([0]), images=[image])[0, 0].double()
        rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(90.0), indexing="ij")
        found = torch.stack([(shown * columns).sum(), (shown * rows).sum()]) / shown.sum()
        wanted = frames.to_input(torch.tensor([[[34.0, 18.0]]]))[0, 0]
        assert (found - wanted).abs().max() < 0.05


def test_a_box_becomes_a_region_of_the_inputs_aspect():
    box = torch.tensor([[10.0, 20.0, 30.0, 40.0], [0.0, 0.0, 80.0, 20.0]])
    centre, scale = fit_box(box, (256, 192))
    assert centre.tolist() == [[25, 40], [40, 10]]
    assert scale.tolist() == pytest.approx([40 / 256 * 1.25, 80 / 192 * 1.25])
    corners = make_frames(*fit_box(box, (256, 192), padding=1), (256, 192)).inverse
    edges = apply_affine(corners, torch.tensor([[[-0.5, -0.5], [191.5, 255.5]]]).double())
    assert edges[0].tolist() == [[10, 20], [40, 60]]
    assert edges[1].flatten().tolist() == pytest.approx([0, 10 - 160 / 3, 80, 10 + 160 / 3])


def test_reduced_levels_lie_where_the_image_does():
    ramp = np.add.outer(np.arange(96) * 1.0, np.arange(128) * 1.5)
    image = np.repeat(ramp[..., None], 3, -1).round().astype(np.uint8)
    frames = make_frames(torch.tensor([[60.2, 45.7]]), torch.tensor([4.0]), (16, 20))
    x, y = frames.centre[0, 0] + 4 * (torch.arange(20) - 9.5), 45.7 + 4 * (torch.arange(16) - 7.5)
    inside = (x > 8) & (x < 118), (y > 8) & (y < 86)
    for level in range(4):
        shown = crop(frames, torch.tensor([0]), torch.tensor([level]), [image])[0, 0]
        wanted = 1.5 * x + y[:, None]
        assert (shown - wanted)[inside[1]][:, inside[0]].abs().max() < 1.1


def test_fine_patterns_become_grey_where_they_are_shrunk():
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    image = np.repeat(board[..., None], 3, -1)
    frames = make_frames(torch.tensor([[31.5, 31.5]]), torch.tensor([4.0]), (12, 12))
    shown = crop(frames, torch.tensor([0]), choose_levels(frames.scale, 5), [image])
    assert shown.float().sub(127.5).abs().max() <= 1


def test_halves_of_odd_images():
    image = np.arange(5 * 3, dtype=np.uint8).reshape(5, 3, 1).repeat(3, -1)
    half = halve(image)
    assert half.shape == (3, 2, 3)
    assert half[0, 0, 0] == 2  # of 0, 1, 3, 4
    assert half[2, 1, 0] == 14  # the corner alone
    assert halve(half[:1, :1]).shape == (1, 1, 3)


def test_images_of_another_size_or_turned(tmp_path):
    file = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IMAGES[0]).save(file, exif=exif)
    assert read_image(file, (60, 40)).shape == (40, 60, 3)
    turned = read_image(file, (40, 60))
    assert np.array_equal(turned, np.rot90(read_image(file, (60, 40)), -1))
    with pytest.raises(ClassroomError, match="is 60 x 40 pixels, .* of 61 x 40"):
        read_image(file, (61, 40))
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(ClassroomError, match="image.jpg: cannot be used as an image"):
        read_image(file, (60, 40))
