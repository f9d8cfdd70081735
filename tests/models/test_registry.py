"""Models by name."""

import pytest
import torch

from classroomkd.models import Network, build_model, list_models, register_model, registry
from classroomkd.models.cifar.resnet import thin_resnet


@pytest.fixture
def scratch(monkeypatch):
    """Undo what a test registers."""
    monkeypatch.setattr(registry, "_builders", dict(registry._builders))
    monkeypatch.setattr(registry, "_canonical", dict(registry._canonical))


def test_listed_in_natural_order():
    thin = [name for name in list_models("resnet*") if "x" not in name]
    assert thin == [f"resnet{depth}" for depth in (8, 14, 20, 32, 44, 56, 110)]
    assert list_models("resnet*x4") == ["resnet8x4", "resnet32x4"]
    assert list_models("ResNet*") == ["ResNet18", "ResNet34", "ResNet50"]
    assert list_models("nothing*") == []
    assert set(list_models("vgg*")) < set(list_models())


def test_build():
    network = build_model("resnet8", 7)
    assert isinstance(network, Network)
    assert (network.name, network.num_classes) == ("resnet8", 7)
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 7)


@pytest.mark.parametrize(
    ("asked", "canonical"),
    [
        ("ShuffleV1", "ShuffleNetV1"),
        ("shufflev2", "ShuffleNetV2"),
        ("mobilenetv2", "MobileNetV2"),
        ("RESNET8X4", "resnet8x4"),
        ("resnet18", "ResNet18"),
    ],
)
def test_aliases_and_case(asked, canonical):
    with torch.device("meta"):
        assert build_model(asked, 10).name == canonical


def test_unknown_name_suggests_the_nearest():
    with pytest.raises(ValueError, match="unknown model 'resnet8x5': did you mean 'resnet8x4'"):
        build_model("resnet8x5", 10)
    with pytest.raises(ValueError, match="did you mean 'MobileNetV2'"):
        build_model("mobilnetv2", 10)


@pytest.mark.parametrize("num_classes", [0, -1])
def test_no_classes(num_classes):
    with pytest.raises(ValueError, match="num_classes"):
        build_model("resnet8", num_classes)


def test_unknown_option():
    with pytest.raises(TypeError, match="dropuot"):
        build_model("wrn_16_1", 10, dropuot=0.1)


@pytest.mark.usefixtures("scratch")
def test_register_by_function_name():
    @register_model
    def resnet26(num_classes, **options):
        return thin_resnet(26, num_classes, **options)

    assert "resnet26" in list_models()
    network = build_model("resnet26", 3, mean=(0.5, 0.5, 0.5))
    assert network.name == "resnet26"
    assert network.normalize.mean.flatten().tolist() == [0.5, 0.5, 0.5]


@pytest.mark.usefixtures("scratch")
def test_register_by_explicit_name():
    @register_model("tiny", aliases=["TinyNet"])
    def build(num_classes, **options):
        return thin_resnet(8, num_classes, **options)

    assert build_model("tinynet", 3).name == "tiny"
    assert "TinyNet" not in list_models()


@pytest.mark.parametrize("name", ["resnet8", "ShuffleV1", "resnet18"])
@pytest.mark.usefixtures("scratch")
def test_a_name_is_given_once(name):
    with pytest.raises(ValueError, match=f"'{name}' is registered already"):
        register_model(name)(thin_resnet)
