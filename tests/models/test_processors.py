"""Image classifiers of transformers see what their own image processors would give them."""

import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as V
from transformers import AutoImageProcessor, AutoModelForImageClassification

from classroomkd.errors import ClassroomError
from classroomkd.models import build_model, load_student, save_student
from classroomkd.models.external.processors import watch_processor
from classroomkd.models.files import StudentFile
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.recipe import MentorRecipe

NAMES = ("cat", "dog", "cow", "emu", "yak")
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {n: i for i, n in enumerate(NAMES)}}
SQUARE = {"size": {"height": 64, "width": 64}}
CROPPED = {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}}
VIT = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
VIT |= {"intermediate_size": 32, "patch_size": 16}
STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 1]}


def folder_of(path, config, processor=None, kind=None, dtype=torch.float32):
    """A small random model and its processor, saved as their users save them."""
    torch.manual_seed(0)
    model = kind(config) if kind else AutoModelForImageClassification.from_config(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    model.to(dtype).save_pretrained(path)
    if processor is not None:
        processor.save_pretrained(path)
    return path


def vit(path, processor=None, **options):
    config = transformers.ViTConfig(**VIT, image_size=64, **LABELS)
    return folder_of(path, config, processor, **options)


def edit(path, **changes):
    """Change a file of JSON; None takes a key out."""
    told = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in told.items() if v is not None}))


def photograph(size=64):
    rough = np.random.default_rng(0).random((6, 6, 3)) * 255
    return Image.fromarray(rough.astype("uint8")).resize((size, size), Image.Resampling.BICUBIC)


def by_hand(folder, image):
    """The logits as transformers gives them."""
    pixels = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        model = AutoModelForImageClassification.from_pretrained(folder, dtype=torch.float32).eval()
        return model(pixel_values=pixels).logits


PROCESSORS = {
    "plain": transformers.ViTImageProcessor(**SQUARE),
    "not rescaled": transformers.ViTImageProcessor(**SQUARE, do_rescale=False),
    "not normalised": transformers.ViTImageProcessor(**SQUARE, do_normalize=False),
    "as they are": transformers.ViTImageProcessor(**SQUARE, do_normalize=False, do_rescale=False),
    "to two": transformers.ViTImageProcessor(**SQUARE, rescale_factor=1 / 127.5),
    "one mean": transformers.ViTImageProcessor(**SQUARE, image_mean=[0.4], image_std=[0.2]),
    "not resized": transformers.ViTImageProcessor(do_resize=False),
    "offset": transformers.EfficientNetImageProcessor(
        **SQUARE, rescale_offset=True, rescale_factor=1 / 127.5, do_normalize=False,
        include_top=False,
    ),
    "normalised twice": transformers.EfficientNetImageProcessor(**SQUARE, image_std=[0.4, 0.5, 1]),
    "blue first": transformers.MobileViTImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ),
    "by the shorter edge": transformers.ConvNextImageProcessor(
        size={"shortest_edge": 64}, crop_pct=1.0
    ),
    "cropped": transformers.CLIPImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PROCESSORS)
def test_logits_are_those_by_hand(name, tmp_path):
    folder = vit(tmp_path, PROCESSORS[name])
    image = photograph()
    view = V.to_tensor(image)[None]
    network = build_model(f"hf/{folder}", None, pretrained=True).eval()
    own = AutoImageProcessor.from_pretrained(folder)(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(network.normalize(view), own.float(), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(network(view), by_hand(folder, image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("resample", [0, 1, 2, 3])
def test_views_are_resized_as_the_processor_does(resample, tmp_path):
    folder = vit(tmp_path, transformers.ViTImageProcessor(**SQUARE, resample=resample))
    image = photograph(96)
    network = build_model(f"hf/{folder}", None, pretrained=True).eval()
    with torch.no_grad():
        said = network(V.to_tensor(image)[None])
    own = by_hand(folder, image)
    assert (said - own).abs().max() < 0.01 * own.std(), "but for rounding to 8 bits"


@pytest.mark.parametrize("name", ["convnext", "dinov2"])
def test_the_processors_size_comes_before_the_configurations(name, tmp_path):
    config, size = {
        "convnext": (transformers.ConvNextConfig(**STAGES, **LABELS), 384),
        "dinov2": (
            transformers.Dinov2Config(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, patch_size=16,
                image_size=96, **LABELS,
            ),
            64,
        ),
    }[name]  # fmt: skip
    processor = {
        "convnext": transformers.ConvNextImageProcessor(size={"shortest_edge": 384}),
        "dinov2": transformers.BitImageProcessor(**CROPPED),
    }[name]
    network = build_model(f"hf/{folder_of(tmp_path, config, processor)}", None, pretrained=True)
    assert network.normalize.size == (size, size)


def test_a_network_of_one_size_keeps_it(tmp_path):
    folder = vit(tmp_path, transformers.ViTImageProcessor())  # 224, which it does not take
    assert build_model(f"hf/{folder}", 3).normalize.size == (64, 64)


def test_parts_that_see_have_the_size():
    vision = {**VIT, "image_size": 64, "projection_dim": 16}
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text)
    assert config.vision_config.image_size == 64
    from classroomkd.models.external.from_transformers import _image_size

    assert _image_size(config) == (64, 64)
    assert _image_size(transformers.ViTConfig(image_size=(32, 48))) == (32, 48)
    assert _image_size(transformers.ResNetConfig()) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_run_in_full(dtype, tmp_path):
    config = transformers.ResNetConfig(embedding_size=8, **STAGES, **LABELS)
    processor = transformers.ConvNextImageProcessor(size={"shortest_edge": 64}, crop_pct=1.0)
    folder = folder_of(tmp_path, config, processor, dtype=dtype)
    mentor = build_model(f"hf/{folder}", None, pretrained=True).eval()
    image = photograph()
    with torch.no_grad():
        said = mentor(V.to_tensor(image)[None])
    torch.testing.assert_close(said, by_hand(folder, image), rtol=1e-3, atol=1e-3)
    for pretrained in (False, True):
        student = build_model(f"hf/{folder}", 3, pretrained=pretrained)
        assert {parameter.dtype for parameter in student.parameters()} == {torch.float32}


def test_both_classifiers_of_a_distilled_network_are_fresh(tmp_path):
    config = transformers.DeiTConfig(**VIT, image_size=64, **LABELS)
    kind = transformers.DeiTForImageClassificationWithTeacher
    folder = folder_of(tmp_path, config, transformers.DeiTImageProcessor(**CROPPED), kind)
    student = build_model(f"hf/{folder}", 5, pretrained=True)
    mentor = build_model(f"hf/{folder}", None, pretrained=True)
    for head in ("cls_classifier", "distillation_classifier"):
        fresh, own = (getattr(network.model, head).weight for network in (student, mentor))
        assert fresh.shape == own.shape
        assert not torch.equal(fresh, own)
    assert build_model(f"hf/{folder}", 7, pretrained=True)(torch.rand(2, 3, 64, 64)).shape == (2, 7)


def test_a_model_of_timm_saved_by_transformers(tmp_path):
    pixels = {"input_size": [3, 160, 160], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}
    told = {"architecture": "test_vit", "num_classes": 5, "label_names": list(NAMES)}
    config = transformers.TimmWrapperConfig.from_dict(
        {**told, "pretrained_cfg": {**pixels, "interpolation": "bilinear", "crop_pct": 1.0}}
    )
    network = build_model(f"hf/{folder_of(tmp_path, config)}", None, pretrained=True).eval()
    assert (network.classes, network.normalize.interpolation) == (NAMES, "bilinear")
    image = photograph(160)
    with torch.no_grad():
        said = network(V.to_tensor(image)[None])
    torch.testing.assert_close(said, by_hand(tmp_path, image), rtol=1e-4, atol=1e-5)


def test_a_student_that_takes_blue_first_comes_back(tmp_path):
    folder = vit(tmp_path / "vit", PROCESSORS["blue first"])
    student = build_model(f"hf/{folder}", 5, mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)).eval()
    images = torch.rand(2, 3, 64, 64)
    shifted = images - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)
    torch.testing.assert_close(student.normalize(images), shifted.flip(1))
    save_student(student, StudentFile(student.name, NAMES, "animals", 0, None), tmp_path)
    loaded, _ = load_student(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), student(images), rtol=0, atol=0)


def test_classes_are_those_of_the_configuration(tmp_path):
    folder = vit(tmp_path, PROCESSORS["plain"])
    mentor = open_mentor(MentorRecipe(model=f"hf/{folder}", pretrained=True), "m", ("emu", "Cat"))
    image = photograph()
    expected = by_hand(folder, image)[:, [3, 0]]
    torch.testing.assert_close(mentor(V.to_tensor(image)[None]), expected, rtol=1e-4, atol=1e-5)


def without_classifier(folder):
    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if not name.startswith("classifier")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


MISTAKES = {
    "no word of pixels": (
        lambda folder: (folder / "preprocessor_config.json").unlink(),
        "does not say how its images are prepared.*save_pretrained",
    ),
    "a std of 0": (
        lambda folder: edit(folder / "preprocessor_config.json", image_std=[0, 1, 1]),
        "check image_mean and image_std",
    ),
    "classes from 1": (
        lambda folder: edit(folder / "config.json", id2label={1: "a", 2: "b"}),
        "names 2 classes for 2 logits, or does not number them from 0: mend id2label",
    ),
    "grey images": (
        lambda folder: vit_of_one_channel(folder),
        "does not take images of three channels",
    ),
    "code of its own": (
        lambda folder: edit(
            folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config"}
        ),
        "Code that a model brings along is not run",
    ),
    "no classifier": (without_classifier, "has no weights for classifier.bias, classifier.weight"),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "no file named model.safetensors.*Is the folder whole",
    ),
}


def vit_of_one_channel(folder):
    config = transformers.ViTConfig(**VIT, image_size=64, num_channels=1, **LABELS)
    return folder_of(folder, config, PROCESSORS["plain"])


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_named_with_their_cure(mistake, tmp_path):
    spoil, message = MISTAKES[mistake]
    spoil(vit(tmp_path, PROCESSORS["plain"]))
    with pytest.raises(ClassroomError, match=message):
        build_model(f"hf/{tmp_path}", None, pretrained=True)


def test_a_student_needs_neither_processor_nor_classifier(tmp_path):
    without_classifier(vit(tmp_path))
    assert build_model(f"hf/{tmp_path}", 3, pretrained=True)(torch.rand(2, 3, 32, 32)).shape[1] == 3


def test_processors_that_give_no_images():
    with pytest.raises(ClassroomError, match="p: its image processor does not give images"):
        watch_processor(lambda images, return_tensors: {"input_ids": torch.ones(4, 9)}, "p")
    with pytest.raises(ClassroomError, match="p: its image processor fails: no such setting"):

        def failing(images, return_tensors):
            raise ValueError("no such setting")

        watch_processor(failing, "p")
