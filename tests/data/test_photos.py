import io
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from classroomkd.data import Draws, PhotoSet, ViewLoader, flip, load_image_set, resized_crop
from classroomkd.data import photos as photos_module
from classroomkd.data.decode import BadImage, Photo
from classroomkd.engine.run import train
from classroomkd.errors import ClassroomError


@pytest.fixture
def folder(tmp_path):
    """Two classes of 20 photographs of several sizes: dark ones and bright ones."""
    random = np.random.default_rng(0)
    for number in range(40):
        path = tmp_path / "photos" / ("dark", "light")[number % 2] / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (*random.integers(40, 60, 2), 3)
        pixels = random.integers(0, 128, shape) + 127 * (number % 2)
        Image.fromarray(pixels.astype(np.uint8)).save(path)
    return tmp_path / "photos"


def photo_set(folder, workers=0, **options):
    return load_image_set("folder", "train", path=folder, workers=workers, size=32, **options)


def views(loader):
    return {int(i): image for b in loader for i, image in zip(b.index, b.images, strict=True)}


def test_batches(folder):
    photos = photo_set(folder)
    batches = list(ViewLoader(photos, 10))
    assert [len(b.target) for b in batches] == [10, 10, 10, 2]
    images, target, index = map(torch.cat, zip(*batches, strict=True))
    assert images.shape == (32, 3, 32, 32)
    assert images.dtype == torch.float32
    assert torch.equal(target, photos.target)
    assert torch.equal(index, photos.index)
    assert torch.equal(images.gt(0.5).float().mean((1, 2, 3)).gt(0.5).long(), target)
    assert torch.equal((images * 255).round().byte(), photos.images)


@pytest.mark.parametrize("workers", [1, 2])
def test_views_depend_neither_on_workers_nor_on_batches(folder, workers):
    augment = [resized_crop(), flip()]
    options = {"seed": 3, "augment": augment, "second": augment[1:]}
    alone = ViewLoader(photo_set(folder), 5, **options)
    together = ViewLoader(photo_set(folder, workers), 32, shuffle=True, **options)
    seen = []
    for epoch in (4, 5):
        alone.set_epoch(epoch)
        together.set_epoch(epoch)
        a, b = views(alone), views(together)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[i], b[i]) for i in a)
        batch = next(iter(together))
        seen.append(batch.images[batch.index.argsort(stable=True)])
    assert not torch.equal(*seen)


def test_a_subset_shows_the_same_views(folder):
    photos = photo_set(folder)
    rows = torch.tensor([4, 1])
    whole = views(ViewLoader(photos, 8, augment=[resized_crop()]))
    part = views(ViewLoader(photos.subset(rows), 8, augment=[resized_crop()]))
    assert list(part) == photos.index[rows].tolist()
    assert all(torch.equal(part[i], whole[i]) for i in part)


def test_the_first_crop_picks_what_is_decoded(folder):
    photos = photo_set(folder)
    crop = resized_crop()
    batch = next(iter(ViewLoader(photos, 4, seed=7, augment=[crop])))
    path = photos.encoded.open(photos.places[2])
    with Image.open(path) as image:
        draws = Draws(7, 0, photos.index[2:3])
        size = torch.tensor([image.width]), torch.tensor([image.height])
        left, top, wide, high = crop.boxes(draws, *size)[0].tolist()
        box = (left, top, left + wide, top + high)
        wanted = np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR, box=box))
    assert torch.equal(
        (batch.images[2] * 255).round().byte(), torch.tensor(wanted).permute(2, 0, 1)
    )


def truncated_jpeg():
    file = io.BytesIO()
    random = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(random).save(file, "JPEG")
    return file.getvalue()[:-500]


def dot():
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "workers", "reason"),
    [
        (b"no image", 0, "no image that Pillow knows"),
        (b"no image", 2, "no image that Pillow knows"),
        (b"", 0, "no image that Pillow knows"),
        (truncated_jpeg(), 0, "truncated"),
        (dot(), 0, "1 x 1 pixels, 8 is the least"),
        (None, 0, "No such file"),
    ],
)
def test_a_bad_image_is_named(folder, content, workers, reason):
    bad = folder / "dark" / "00.png"
    bad.write_bytes(content or b"")
    loader = ViewLoader(photo_set(folder, workers, test=1), 64)
    if content is None:
        bad.unlink()
    wanted = rf"00\.png: cannot be used as an image \(.*{reason}.* data.bad_images: skip"
    with pytest.raises(ClassroomError, match=wanted):
        list(loader)


def test_a_set_travels_to_workers_of_their_own(folder):
    """By pickle, where worker processes are not forked."""
    photos = photo_set(folder)
    again = pickle.loads(pickle.dumps(photos))
    assert torch.equal(again.images, photos.images)
    assert again.fingerprint == photos.fingerprint


def test_waiting_is_counted(folder):
    loader = ViewLoader(photo_set(folder), 8)
    for _ in loader:
        time.sleep(0.02)
    waits = loader._reader.waits
    assert 0 < waits.seconds < waits.elapsed - 3 * 0.02
    assert 0 < waits.share < 1
    assert waits.share == waits.seconds / waits.elapsed


def shown(image, **options):
    """The pixels of an image that is written to a file and read again."""
    file = io.BytesIO()
    image.save(file, **({"format": "PNG"} | options))
    file.seek(0)
    photo = Photo(file)
    return photo.square((0, 0, *photo.size), min(photo.size))


@pytest.mark.parametrize(
    ("image", "options", "colour"),
    [
        (Image.new("L", (16, 16), 90), {}, (90, 90, 90)),
        (Image.new("1", (16, 16), 1), {}, (255, 255, 255)),
        (Image.new("I;16", (16, 16), 32896), {}, (128, 128, 128)),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 0)), {}, (255, 255, 255)),
        (Image.new("LA", (16, 16), (10, 255)), {}, (10, 10, 10)),
        (Image.new("RGB", (16, 16), (9, 200, 30)).quantize(), {}, (9, 200, 30)),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), {"format": "JPEG"}, (255, 0, 0)),
        (Image.new("CMYK", (16, 16), (0, 255, 255, 0)), {"format": "TIFF"}, (255, 0, 0)),
    ],
)
def test_every_kind_becomes_rgb(image, options, colour):
    pixels = shown(image, **options).astype(int)
    assert np.abs(pixels - np.array(colour)).max() <= 2


def test_the_first_picture_of_an_animation():
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    pixels = shown(frames[0], format="GIF", save_all=True, append_images=frames[1:])
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_as_the_camera_says(orientation):
    from PIL import ImageOps

    image = Image.fromarray(np.arange(24 * 16 * 3, dtype=np.uint8).reshape(16, 24, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    image.save(file, format="PNG", exif=exif)
    with Image.open(file) as written:
        wanted = ImageOps.exif_transpose(written)
    photo = Photo(file)
    assert photo.size == wanted.size
    top_left = np.asarray(wanted)[:10, :10]
    assert np.array_equal(photo.square((0, 0, 10, 10), 10), top_left)


def test_a_large_jpeg_looks_the_same_decoded_smaller():
    ramp = np.linspace(0, 255, 1024).astype(np.uint8)
    image = Image.fromarray(np.stack([np.tile(ramp, (1024, 1))] * 3, -1))
    file = io.BytesIO()
    image.save(file, format="JPEG", quality=95)
    reduced = Photo(file).square((100, 100, 800, 800), 32).astype(int)
    whole = image.resize((32, 32), Image.Resampling.BILINEAR, box=(100, 100, 900, 900))
    assert np.abs(reduced - np.asarray(whole)).max() <= 3


def test_real_photographs(tmp_path):
    shared = Path(__file__).parents[2].parent / "shared" / "data"
    real = Path(os.environ.get("CLASSROOMKD_DATA", shared)) / "coco-mini" / "val2017"
    if not real.is_dir():
        pytest.skip(f"no photographs at {real} (set CLASSROOMKD_DATA)")
    for place, file in enumerate(sorted(real.glob("*.jpg"))[:12]):
        copy = tmp_path / "photos" / str(place % 2) / file.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(file.read_bytes())
    photos = load_image_set("folder", "train", path=tmp_path / "photos", workers=0, test=2)
    assert isinstance(photos, PhotoSet)
    images = torch.cat([b.images for b in ViewLoader(photos, 4, augment=[resized_crop()])])
    assert images.shape == (10, 3, 224, 224)
    assert images.std((1, 2, 3)).min() > 0.02


def photo_recipe(make, folder, workers):
    return make(
        data={"name": "folder", "path": str(folder), "size": 32, "workers": workers, "dev": 8},
        mentors=[],
        method={"name": "none"},
        train={"epochs": 2, "batch_size": 8},
    )


def test_a_run_is_the_same_with_workers_and_resumed(folder, tmp_path, digits_recipe):
    def stop(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt

    alone = photo_recipe(digits_recipe, folder, workers=0)
    whole = train(alone, tmp_path / "whole", progress=False)
    recipe = photo_recipe(digits_recipe, folder, workers=2)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "stopped", progress=False, say=stop)
    resumed = train(recipe, tmp_path / "stopped", progress=False, resume=True)
    assert whole["test_samples"] == 8
    assert resumed["last"] == whole["last"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": "folder"}, "folder needs path"),
        ({"name": "digits", "size": 64}, "size: only for name: folder"),
        ({"name": "folder", "path": ".", "test": 1.5}, "test"),
    ],
)
def test_mistakes_in_a_recipe(digits_recipe, data, message):
    with pytest.raises(ClassroomError, match=message):
        digits_recipe(data=data)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_tiff_is_turned_once(orientation):
    file = io.BytesIO()
    pixels = np.zeros((20, 40, 3), np.uint8)
    pixels[:, :20] = 255
    Image.fromarray(pixels).save(file, "TIFF", tiffinfo={0x0112: orientation})
    photo = Photo(file)
    turned = orientation > 4
    assert photo.size == ((20, 40) if turned else (40, 20))
    corner = photo.square((0, 0, 12, 12), 8)
    assert (corner == (255 if orientation in (1, 6) else 0)).all()


def test_a_damaged_png_is_closed(tmp_path, monkeypatch):
    file = tmp_path / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8)).save(file)
    file.write_bytes(file.read_bytes()[:5000])
    opened, usual = [], Image.open
    monkeypatch.setattr(Image, "open", lambda source: opened.append(usual(source)) or opened[-1])
    with pytest.raises(BadImage, match="truncated"):
        Photo(file)
    assert opened[0].fp is None


@pytest.mark.parametrize(("pixels", "most"), [(2**26, 32), (60 * 60 * 2, 5), (1, 1)])
def test_few_photographs_are_open_at_a_time(folder, monkeypatch, pixels, most):
    photos = photo_set(folder, test=1)
    expected = photos.images
    monkeypatch.setattr(photos_module, "_OPEN", pixels)
    now, peak = set(), []
    usual = type(photos.encoded).photo

    class Watched:
        def __init__(self, photo):
            self.size, self.square, self._photo = photo.size, photo.square, photo
            now.add(self)
            peak.append(len(now))

        def close(self):
            now.discard(self)
            self._photo.close()

    monkeypatch.setattr(type(photos.encoded), "photo", lambda *args: Watched(usual(*args)))
    assert torch.equal(photos.images, expected)
    assert not now
    assert max(peak) <= most
