"""Mentors of every origin in one recipe give the lesson that their libraries give by hand."""

import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image

from classroomkd.config import mentor_names
from classroomkd.methods import create_method
from classroomkd.models import StudentFile, build_model, save_student
from classroomkd.tasks.classification.mentor import open_mentor

CLASSES = tuple("0123456789")
SHUFFLED = ("5", "3", "8", "1", "0", "9", "2", "7", "6", "4")
PLACES = [SHUFFLED.index(name) for name in CLASSES]


def images():
    """Four images whose pixels are whole 255ths, which a PIL image keeps."""
    drawn = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    smooth = torch.nn.functional.interpolate(drawn, (160, 160), mode="bilinear")
    return smooth.mul(255).round().div(255)


def photographs():
    return [
        Image.fromarray(view.mul(255).round().byte().permute(1, 2, 0).numpy()) for view in images()
    ]


def of_timm(folder):
    model = timm.create_model("test_vit", num_classes=10).eval()
    torch.save({"state_dict": model.state_dict()}, folder / "timm.pth")
    config = timm.data.resolve_data_config(model=model)
    own = timm.data.create_transform(**{**config, "crop_pct": 1.0}, is_training=False)
    entry = {"model": "timm/test_vit", "checkpoint": str(folder / "timm.pth")}
    logits = model(torch.stack([own(image) for image in photographs()]))
    return {**entry, "classes": list(SHUFFLED)}, logits[:, PLACES]


def of_torchvision(folder):
    model = torchvision.models.mobilenet_v3_small(num_classes=12).eval()
    torch.save(model.state_dict(), folder / "vision.pth")
    own = torchvision.models.MobileNet_V3_Small_Weights.DEFAULT.transforms(
        resize_size=160, crop_size=160
    )
    entry = {
        "model": "torchvision/mobilenet_v3_small",
        "checkpoint": str(folder / "vision.pth"),
        "classes": [f"class {place}" for place in range(12)],
        "labels": [place + 2 for place in PLACES],
    }
    logits = model(torch.stack([own(image) for image in photographs()]))
    return entry, logits[:, [place + 2 for place in PLACES]]


def of_transformers(folder):
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        image_size=160, patch_size=32, id2label=dict(enumerate(("none", *SHUFFLED))),
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config).eval()
    processor = transformers.ViTImageProcessor(
        size={"height": 160, "width": 160}, rescale_factor=1 / 127.5, image_mean=[0.9, 1.0, 1.1]
    )
    model.save_pretrained(folder / "hf")
    processor.save_pretrained(folder / "hf")
    pixels = processor(photographs(), return_tensors="pt")["pixel_values"]
    entry = {"model": f"hf/{folder / 'hf'}", "pretrained": True}
    return entry, model(pixel_values=pixels).logits[:, [place + 1 for place in PLACES]]


def of_a_run(folder):
    network = build_model("resnet8", 10, mean=(0.1, 0.2, 0.3)).eval()
    save_student(network, StudentFile("resnet8", SHUFFLED, "digits", 0, None), folder)
    return {"run": str(folder)}, network(images())[:, PLACES]


@pytest.mark.parametrize("method", ["classroom", "aver"])
@torch.no_grad()
def test_the_lesson_is_the_one_by_hand(digits_recipe, tmp_path, method):
    torch.manual_seed(0)
    origins = (of_timm, of_torchvision, of_transformers, of_a_run)
    entries, by_hand = zip(*(origin(tmp_path) for origin in origins), strict=True)
    recipe = digits_recipe(mentors=list(entries))
    names = mentor_names(recipe.mentors)
    mentors = [open_mentor(*pair, CLASSES) for pair in zip(recipe.mentors, names, strict=True)]
    said = [mentor(images()) for mentor in mentors]
    for name, one, other in zip(names, said, by_hand, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4), name
    student, target = torch.randn(4, 10), torch.arange(4)
    lessons = [create_method(method)(student, given, target) for given in (said, by_hand)]
    for one, other in zip(*(vars(lesson).values() for lesson in lessons), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
