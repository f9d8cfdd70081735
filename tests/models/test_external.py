"""Networks of other libraries behave as ours do; no test needs the network."""

import sys
from urllib.error import URLError

import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image
from torch import nn
from torchvision.transforms import functional as V

from classroomkd.config import parse_recipe
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.mentors import Mentor
from classroomkd.methods import Outputs, create_method
from classroomkd.models import (
    StudentFile,
    build_model,
    canonical_name,
    load_student,
    load_weights,
    save_student,
)
from classroomkd.models.external import from_entry_point
from classroomkd.models.external.pixels import FitPixels, Pixels
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.recipe import MentorRecipe

CNN, VIT = "timm/test_resnet", "timm/test_vit"


def images(size=32, count=2, seed=1):
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def build(name, classes=7, **options):
    torch.manual_seed(0)
    return build_model(name, classes, **options).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small random image classifiers of transformers in folders of their own."""
    small = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2}
    small |= {"intermediate_size": 32, "image_size": 64, "patch_size": 16}
    widths, depths = [8, 12, 16, 24], [1, 1, 1, 1]
    configs = {
        "vit": transformers.ViTConfig(**small, num_labels=5),
        "registers": transformers.Dinov2WithRegistersConfig(
            **{k: v for k, v in small.items() if k != "intermediate_size"}, num_register_tokens=4
        ),
        "resnet": transformers.ResNetConfig(embedding_size=8, hidden_sizes=widths, depths=depths),
        "swin": transformers.SwinConfig(
            image_size=64, patch_size=2, embed_dim=8, depths=[1, 1, 2], num_heads=[1, 2, 4],
            window_size=4,
        ),
    }  # fmt: skip
    root = tmp_path_factory.mktemp("hf")
    for name, config in configs.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForImageClassification.from_config(config)
        model.save_pretrained(root / name)
    transformers.ViTImageProcessor(
        image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7], resample=3
    ).save_pretrained(root / "vit")
    return root


STAGES = ("stage1", "stage2", "stage3", "stage4")
WITH_STEM = ("stem", *STAGES)
NETWORKS = {
    CNN: (*WITH_STEM, "head", "pooled"),
    VIT: (*STAGES, "pooled"),
    "timm/test_vit3": (*STAGES, "pooled"),
    "timm/test_efficientnet": (*WITH_STEM, "head", "pooled"),
    "timm/test_convnext": (*STAGES, "pooled"),
    "timm/test_nfnet": (*WITH_STEM, "head", "pooled"),
    "timm/test_mambaout": (*STAGES, "pooled"),
    "timm/test_coatnet": (*WITH_STEM, "head", "pooled"),
    "torchvision/resnet18": (*WITH_STEM, "head", "pooled"),
    "torchvision/mobilenet_v3_small": (*WITH_STEM, "pooled"),
    "torchvision/vit_b_32": (*STAGES, "pooled"),
    "hf/vit": (*STAGES, "pooled"),
    "hf/registers": (*STAGES, "pooled"),
    "hf/resnet": (*STAGES, "head", "pooled"),
    "hf/swin": ("stage1", "stage2", "pooled"),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_conformance(name, folders):
    network = build(name.replace("hf/", f"hf/{folders}/"))
    assert network.name.startswith(name.partition("/")[0])
    assert network.stage_names == NETWORKS[name]
    for size in (32, 64):
        batch = images(size)
        with torch.no_grad():
            logits, features = network(batch), network.forward_stages(batch)
        assert logits.shape == (2, 7)
        assert tuple(features) == (*NETWORKS[name], "logits")
        torch.testing.assert_close(features["logits"], logits, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            network.classifier(features["pooled"]), logits, rtol=1e-4, atol=1e-5
        )
        if "head" in features:
            mean = features["head"].mean((2, 3))
            torch.testing.assert_close(mean, features["pooled"], rtol=1e-3, atol=1e-5)
        maps = [feature for feature in features.values() if feature.ndim == 4]
        heights = [found.shape[2] for found in maps]
        assert heights == sorted(heights, reverse=True)
        assert all(found.shape[2] == found.shape[3] for found in maps)
    with pytest.raises(ValueError, match="before their last ReLU"):
        network.forward_stages(batch, preactivations=True)


@pytest.mark.parametrize("name", [CNN, VIT])
def test_a_look_at_the_stages_leaves_the_network_as_it_was(name):
    network = build(name).train()
    network.model.get_submodule("head" if name == VIT else "layer1").eval()
    modes = [module.training for module in network.modules()]
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert network.stage_names
    assert torch.equal(torch.rand(1), drawn)
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())


def test_tokens_become_maps_without_those_of_the_class(folders):
    network = build(f"hf/{folders}/registers")
    with torch.no_grad():
        x = network.normalize(images(64))
        states = network.model(pixel_values=x, output_hidden_states=True).hidden_states
        shown = network.forward_stages(images(64))["stage4"]
    patch = states[-1][:, 5 + 4 * 1 + 2]  # a class token, four registers; second row, third column
    torch.testing.assert_close(shown[:, :, 1, 2], patch)


def photograph(size=96):
    pixels = images(size, 1)[0].mul(255).byte()
    smooth = V.gaussian_blur(pixels, 7)
    return Image.fromarray(smooth.permute(1, 2, 0).numpy())


@pytest.mark.parametrize("name", [VIT, "timm/test_vit2", "timm/test_maxvit"])
def test_preprocessing_is_timms(name):
    network = build(name)
    config = timm.data.resolve_data_config(model=network.model)
    own = timm.data.create_transform(**{**config, "crop_pct": 1.0}, is_training=False)
    view = V.to_tensor(photograph())[None]
    torch.testing.assert_close(network.normalize(view)[0], own(photograph()), atol=0.03, rtol=0)


def test_preprocessing_is_torchvisions():
    network = build("torchvision/mobilenet_v3_small")
    network.normalize.always = True
    weights = torchvision.models.MobileNet_V3_Small_Weights.IMAGENET1K_V1
    own = weights.transforms(resize_size=224)
    view = V.to_tensor(photograph())[None]
    torch.testing.assert_close(network.normalize(view)[0], own(photograph()), atol=0.03, rtol=0)


def test_preprocessing_is_the_processors(folders):
    network = build(f"hf/{folders}/vit")
    processor = transformers.ViTImageProcessor.from_pretrained(
        folders / "vit", size={"height": 64, "width": 64}
    )
    own = processor(photograph(), return_tensors="pt")["pixel_values"]
    view = V.to_tensor(photograph())[None]
    torch.testing.assert_close(network.normalize(view), own, atol=0.03, rtol=0)


def test_who_resizes():
    for name, sizes in {
        CNN: {32: 160, 96: 96, 200: 200},
        VIT: {32: 160, 96: 160, 200: 160},
    }.items():
        fit = build(name).normalize
        assert {size: fit(images(size)).shape[2] for size in sizes} == sizes
    assert FitPixels(Pixels())(images(9)).shape[2:] == (9, 9)
    resized = build(VIT).normalize.resize(images(64).round())
    assert 0 <= resized.min() < 0.001
    assert 0.999 < resized.max() <= 1


def test_mentors_of_several_resolutions_share_a_view(folders):
    student = build("resnet8", mean=(0.5,) * 3)(images()).detach().requires_grad_()
    mentors = [Mentor(build(name), name) for name in (CNN, f"hf/{folders}/vit", "resnet14")]
    said = [mentor(images()) for mentor in mentors]
    lesson = create_method("classroom")(student, said, torch.tensor([0, 3]))
    lesson.loss.backward()
    assert student.grad.isfinite().all()


def show(network, batch):
    features = dict(network.forward_stages(batch))
    return Outputs(features.pop("logits"), features, network.classifier)


@pytest.mark.parametrize("method", ["at", "fitnets", "rkd", "sp"])
@pytest.mark.parametrize("pair", [("resnet8", VIT), (VIT, CNN)])
def test_feature_methods_between_families(method, pair):
    student, mentor = (build(name) for name in pair)
    batch, target = images(count=4), torch.tensor([0, 1, 2, 1])
    judge = create_method(method)
    with torch.no_grad():
        taught = show(mentor, batch)
        first = show(student, batch)
    judge.on_train_set(torch.arange(4), target)
    judge.setup(first, [taught])
    lesson = judge(show(student.train(), batch), [taught], target, torch.arange(4))
    lesson.loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert lesson.loss.isfinite()
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", [CNN, VIT, "timm/test_nfnet", "torchvision/resnet18", "hf/swin"])
def test_saved_and_loaded(name, folders, tmp_path):
    network = build(name.replace("hf/", f"hf/{folders}/"), mean=(0.4, 0.5, 0.6))
    network.normalize.always = True  # as it is in a pretrained one
    classes = tuple("abcdefg")
    save_student(network, StudentFile(network.name, classes, "letters", 0, None), tmp_path)
    loaded, info = load_student(tmp_path)
    assert info.model == network.name
    assert loaded.normalize.always
    batch = images(100)
    with torch.no_grad():
        torch.testing.assert_close(loaded(batch), network(batch), rtol=0, atol=0)
    mentor = open_mentor(MentorRecipe(run=tmp_path), "m", classes[::-1])
    torch.testing.assert_close(mentor(batch), loaded(batch).detach().flip(1))


def test_weights_of_the_library_itself(tmp_path):
    torch.manual_seed(3)
    own = torchvision.models.resnet18(num_classes=7).eval()
    torch.save(own.state_dict(), tmp_path / "own.pth")
    network = build("torchvision/resnet18", mean=(0.0,) * 3, std=(1.0,) * 3)
    load_weights(network, tmp_path / "own.pth")
    with torch.no_grad():
        torch.testing.assert_close(network(images(128)), own(images(128)))
    with pytest.raises(ClassroomError, match="does not fit a torchvision/resnet18 with 5 classes"):
        load_weights(build("torchvision/resnet18", 5), tmp_path / "own.pth")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tim/resnet18", "unknown origin of a model 'tim': did you mean 'timm'"),
        ("timm/", "names no model: say which, as in timm/NAME"),
        ("timm/resnet81", "unknown model 'resnet81' of timm: did you mean 'resnet"),
        (
            "timm/resnet18.a1_in2k",
            "unknown weights 'a1_in2k' of timm's resnet18: did you mean 'a1_",
        ),
        ("torchvision/resnet81", "of torchvision: did you mean 'resnet"),
        ("torchvision/fasterrcnn_resnet50_fpn", "unknown model"),
        ("torchvision/resnet50.IMAGENET1K_V3", "unknown weights of torchvision's resnet50"),
        ("hf/./nowhere/at/all", "no such folder"),
        ("entry/nobody", "unknown registered model 'nobody'"),
    ],
)
def test_unknown_names(name, message, monkeypatch):
    monkeypatch.setattr(timm, "create_model", None)  # nothing is built
    with pytest.raises(ValueError, match=message):
        canonical_name(name)
    with pytest.raises(RecipeError, match="student.model"):
        parse_recipe({"name": "n", "student": {"model": name}})


@pytest.mark.parametrize(("package", "extra"), [("timm", "timm"), ("transformers", "hf")])
def test_a_missing_package_is_named_with_its_extra(package, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"pip install 'classroomkd\[{extra}\]'"):
        canonical_name(f"{extra}/resnet18")


def unreachable(*_, **__):
    raise URLError("no route to host")


def test_weights_out_of_reach_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ClassroomError, match=r"hf download timm/test_resnet\.r160_in1k"):
        build_model(CNN, None, pretrained=True)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    where = r"resnet18-f37072fd\.pth,.*no route to host.*put it at .*checkpoints/resnet18-f37072fd"
    with pytest.raises(ClassroomError, match=where):
        build_model("torchvision/resnet18", None, pretrained=True)
    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", unreachable)
    with pytest.raises(ClassroomError, match="hf download nobody/none --local-dir"):
        build_model("hf/nobody/none", 7)


def test_pretrained_torchvision(monkeypatch):
    torch.manual_seed(4)
    own = torchvision.models.resnet18().eval()
    weights = own.state_dict()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: weights
    )
    mentor = build_model("torchvision/resnet18", None, pretrained=True).eval()
    assert (mentor.num_classes, len(mentor.classes), mentor.classes[0]) == (1000, 1000, "tench")
    assert mentor.normalize(images(200)).shape[2] == 224
    assert mentor.top1 == 69.758
    with torch.no_grad():
        torch.testing.assert_close(mentor(images(64)), own(mentor.normalize(images(64))))
    student = build("torchvision/resnet18", 1000, pretrained=True)
    assert torch.equal(student.model.conv1.weight, own.conv1.weight)
    assert not torch.equal(student.classifier.weight, own.fc.weight), "the classifier is fresh"
    assert (student.classes, student.top1) == (None, None)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_auxiliary_classifiers_are_left_out(name, monkeypatch, tmp_path):
    torch.manual_seed(4)
    own = torchvision.models.get_model(
        name, weights=None, aux_logits=True, transform_input=True, init_weights=False
    ).eval()
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: own.state_dict()
    )
    mentor = build_model(f"torchvision/{name}", None, pretrained=True).eval()
    size = mentor.normalize.size[0]
    weights = torchvision.models.get_model_weights(name).DEFAULT
    image = photograph(size)
    with torch.no_grad():
        said = mentor(V.to_tensor(image)[None])
        by_hand = own(weights.transforms(resize_size=size, crop_size=size)(image)[None])
    torch.testing.assert_close(said, by_hand, rtol=1e-4, atol=1e-5)
    student = build(f"torchvision/{name}", pretrained=True).train()
    assert student(images(size)).shape == (2, 7), "logits alone, while training, too"
    torch.save({"model": {f"module.{k}": v for k, v in own.state_dict().items()}}, tmp_path / "w")
    other = build(f"torchvision/{name}", 1000)
    load_weights(other, tmp_path / "w")
    with torch.no_grad():
        torch.testing.assert_close(other(V.to_tensor(image)[None]), said)


def test_weights_without_a_classifier(monkeypatch):
    name = "torchvision/vgg16.IMAGENET1K_FEATURES"
    with pytest.raises(ClassroomError, match="are weights without a classifier.*no mentor"):
        build_model(name, None, pretrained=True)
    own = torchvision.models.vgg16(init_weights=False)
    monkeypatch.setattr(
        torchvision.models._api, "load_state_dict_from_url", lambda *_, **__: own.state_dict()
    )
    student = build(name, pretrained=True)
    assert student.classifier.out_features == 7
    assert student.normalize.std.mean() < 0.004, "of pixels up to 255"


def test_where_a_file_of_timm_belongs(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    own = timm.create_model("legacy_seresnet18").eval()
    file = tmp_path / "checkpoints" / "seresnet18-4bb0ce65.pth"
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(ClassroomError, match=rf"Fetch that file and put it at {file}"):
        build_model("timm/legacy_seresnet18", None, pretrained=True)
    monkeypatch.setattr(timm, "create_model", create)
    file.parent.mkdir()
    torch.save(own.state_dict(), file)
    mentor = build_model("timm/legacy_seresnet18", None, pretrained=True)
    assert torch.equal(mentor.classifier.weight, own.last_linear.weight)


def test_pretrained_timm(monkeypatch):
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **o: create(name, **o))
    mentor = build_model(CNN, None, pretrained=True)
    assert mentor.classes[1] == "n01443537, goldfish, Carassius auratus"
    assert mentor.normalize.always
    assert build(CNN, 3, pretrained=True)(images()).shape == (2, 3)


def test_pretrained_transformers(folders):
    mentor = build_model(f"hf/{folders}/vit", None, pretrained=True).eval()
    assert (mentor.num_classes, mentor.classes) == (5, None)
    own = transformers.AutoModelForImageClassification.from_pretrained(folders / "vit").eval()
    with torch.no_grad():
        x = mentor.normalize(images())
        torch.testing.assert_close(mentor(images()), own(pixel_values=x).logits)
    student = build(f"hf/{folders}/vit", 5, pretrained=True)
    assert not torch.equal(student.classifier.weight, mentor.classifier.weight)


def test_the_zoo_comes_without_weights():
    with pytest.raises(ValueError, match="comes without weights"):
        build_model("resnet8", 10, pretrained=True)
    with pytest.raises(RecipeError, match="pretrained needs a model of another library"):
        parse_recipe({"name": "n", "student": {"model": "resnet8", "pretrained": True}})


def test_two_heads_are_no_classifier():
    model = nn.ModuleDict({"a": nn.Linear(3, 7), "b": nn.Linear(3, 7)})
    model.forward = lambda x: (model["a"](x.mean((2, 3))) + model["b"](x.mean((2, 3)))) / 2
    network = from_entry_point.ExternalNetwork(model, 7, Pixels())
    assert network.classifier is None
    assert list(network.forward_stages(images())) == ["logits"]


def test_a_run_with_others(digits_recipe, tmp_path):
    from classroomkd.engine.evaluate_run import evaluate_run
    from classroomkd.engine.run import train

    torch.manual_seed(0)
    own = torchvision.models.mobilenet_v3_small(num_classes=10)
    torch.save(own.state_dict(), tmp_path / "own.pth")
    mentor = {"model": "torchvision/mobilenet_v3_small", "checkpoint": str(tmp_path / "own.pth")}
    recipe = digits_recipe(
        data={"dev": 1300}, train={"epochs": 1}, student={"model": VIT}, mentors=[mentor]
    )
    train(recipe, tmp_path / "run", say=lambda _: None)
    info, scores = evaluate_run(tmp_path / "run", "test", last=True)
    assert info.model == VIT
    assert 0 <= scores["top1"] <= 100
    mentor = open_mentor(MentorRecipe(run=tmp_path / "run"), "m", tuple("0123456789"))
    assert mentor(images(8)).shape == (2, 10)
