"""The zoo against the counts and shapes of the CRD benchmark (100 classes, 32x32)."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from classroomkd.models import Network, build_model, list_models
from classroomkd.models.cifar.resnet import ResNet, thin_resnet
from classroomkd.models.cifar.shufflenet import ShuffleBlockV2, channel_shuffle, interleave
from classroomkd.models.cifar.wrn import WideBlock, WideResNet

THIN = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]
X4 = [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,)]
VGG = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), (512,)]
BASIC = [(64, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512,)]


def wide(k):
    return [
        (16, 32, 32),
        (16 * k, 32, 32),
        (32 * k, 16, 16),
        (64 * k, 8, 8),
        (64 * k,),
    ]


# name: parameters (exact, or millions as printed), MACs in millions, features
ZOO = {
    "resnet8": (83892, 12.507, THIN),
    "resnet14": (181108, 26.663, THIN),
    "resnet20": (278324, 40.819, THIN),
    "resnet32": (472756, 69.130, THIN),
    "resnet44": (667188, 97.442, THIN),
    "resnet56": (861620, 125.754, THIN),
    "resnet110": (1736564, 253.156, THIN),
    "resnet8x4": (1233540, 177.071, X4),
    "resnet32x4": (7433860, 1083.041, X4),
    "wrn_16_1": (180916, 26.663, wide(1)),
    "wrn_16_2": (703284, 101.118, wide(2)),
    "wrn_16_8": (11.0075, 1548.19, wide(8)),
    "wrn_28_10": (36.5369, 5243.39, wide(10)),
    "wrn_40_1": (569780, 83.286, wide(1)),
    "wrn_40_2": (2255156, 327.611, wide(2)),
    "vgg8": (3965028, 96.193, VGG),
    "vgg11": (9277284, 209.439, VGG),
    "vgg13": (9462180, 284.936, VGG),
    "vgg16": (14774436, 398.182, VGG),
    "vgg19": (20086692, 511.429, VGG),
    "MobileNetV2": (
        812836,
        6.524,
        [(16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2), (1280,)],
    ),
    "ShuffleNetV1": (
        949258,
        38.691,
        [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4), (960,)],
    ),
    "ShuffleNetV2": (
        1355528,
        44.504,
        [(24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4), (1024,)],
    ),
    "ResNet18": (11.2201, 555.47, BASIC),
    "ResNet34": (21.3283, 1159.45, BASIC),
    "ResNet50": (
        23705252,
        1298.014,
        [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (2048,)],
    ),
}
FAMILIES = ["resnet8", "wrn_16_1", "vgg8", "MobileNetV2", "ShuffleNetV1", "ShuffleNetV2"]


def on_meta(name, size=32):
    with torch.device("meta"):
        return build_model(name, 100).eval(), torch.empty(1, 3, size, size)


def small(name, **options):
    torch.manual_seed(0)
    return build_model(name, 10, **options)


def images(batch=4, size=16):
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


def count_macs(network, batch):
    total = 0

    def add(module, _, output):
        nonlocal total
        total += output[0].numel() * module.weight[0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(add)
    network(batch)
    return total


def test_the_table_covers_the_zoo():
    assert sorted(ZOO) == sorted(list_models())


@pytest.mark.parametrize("name", ZOO)
def test_parameters(name):
    expected = ZOO[name][0]
    count = sum(p.numel() for p in on_meta(name)[0].parameters())
    assert (count if isinstance(expected, int) else round(count / 1e6, 4)) == expected


@pytest.mark.parametrize("name", ZOO)
def test_macs(name):
    assert count_macs(*on_meta(name)) / 1e6 == pytest.approx(ZOO[name][1], rel=1e-3)


@pytest.mark.parametrize("name", ZOO)
def test_feature_shapes_and_names(name):
    network, batch = on_meta(name)
    features = network.forward_stages(batch)
    shapes = {key: tuple(feature.shape[1:]) for key, feature in features.items()}
    last = shapes.pop("head")
    shapes = list(shapes.values())
    assert shapes == [*ZOO[name][2], (100,)]
    assert last[:1] == shapes[-2]
    stages = [f"stage{i}" for i in range(1, len(shapes) - 2)]
    assert network.stage_names == ("stem", *stages, "head", "pooled")
    assert tuple(features) == (*network.stage_names, "logits")
    assert isinstance(network.classifier, nn.Linear)
    assert network.classifier.in_features == shapes[-2][0]


@pytest.mark.parametrize("size", [8, 64])
@pytest.mark.parametrize("name", ZOO)
def test_other_sizes(name, size):
    network, batch = on_meta(name, size)
    features = network.forward_stages(batch)
    assert all(feature.numel() > 0 for feature in features.values())
    assert features["pooled"].shape == (1, *ZOO[name][2][-1])


def test_vgg_ends_in_4x4_from_64_pixels_too():
    network, batch = on_meta("vgg8", 64)
    assert network.forward_stages(batch)["stage4"].shape[2:] == (4, 4)


@pytest.mark.parametrize("name", FAMILIES)
def test_forward_gives_the_logits_of_the_stages(name):
    network = small(name).eval()
    features = network.forward_stages(images())
    assert torch.equal(network(images()), features["logits"])
    assert torch.equal(network.classifier(features["pooled"]), features["logits"])
    assert features["logits"].std(0).min() > 0, "the logits must depend on the image"


@pytest.mark.parametrize("name", FAMILIES)
def test_normalisation_is_inside(name):
    # In training mode (the logits of fresh running statistics hardly depend on the image) and in
    # double precision (statistics over few values amplify rounding).
    default = small(name).double()
    other = small(name, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3)).double()
    x = images().double()
    shifted = default.normalize(x) * other.normalize.std + other.normalize.mean
    torch.testing.assert_close(other(shifted), default(x))
    assert not torch.allclose(other(x), default(x), rtol=0.01, atol=0.01)


def test_normalisation_is_in_the_state_dict():
    state = small("resnet8", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)).state_dict()
    assert state["normalize.mean"].flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert state["normalize.std"].shape == (3, 1, 1)


@pytest.mark.parametrize("bad", [{"std": (0.0, 1.0, 1.0)}, {"mean": (0.5,)}])
def test_normalisation_that_cannot_be(bad):
    with pytest.raises(ValueError, match="std"):
        build_model("resnet8", 10, **bad)


@pytest.mark.parametrize("name", FAMILIES)
def test_state_dict_round_trip(name):
    source = small(name)
    source(images())  # moves the running statistics
    torch.manual_seed(1)
    copy = build_model(name, 10, mean=(0.0,) * 3, std=(1.0,) * 3)
    copy.load_state_dict(source.state_dict())
    assert torch.equal(copy.eval()(images()), source.eval()(images()))


@pytest.mark.parametrize("name", FAMILIES)
def test_bf16_and_channels_last(name):
    network = small(name).to(memory_format=torch.channels_last)
    x = images(size=32).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = network(x)
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    F.cross_entropy(logits.float(), torch.arange(4)).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", FAMILIES)
def test_channels_last_stays_and_changes_nothing(name):
    network = small(name).double().to(memory_format=torch.channels_last)
    features = network.forward_stages(images().double().to(memory_format=torch.channels_last))
    for feature in list(features.values())[:-2]:
        assert feature.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(features["logits"], small(name).double()(images().double()))


@pytest.mark.parametrize("name", [*FAMILIES, "resnet8x4", "wrn_16_2"])
def test_gradient_reaches_every_parameter(name):
    network = small(name)
    F.cross_entropy(network(images()), torch.arange(4)).backward()
    still = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    # A bias before batch normalisation has no effect, so only rounding errors reach it.
    assert not [n for n in still if not (name == "vgg8" and n.endswith(".0.bias"))]


def test_bottleneck_gradient():
    network = small("ResNet50")
    F.cross_entropy(network(images(2, 8)), torch.arange(2)).backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet8", "resnet8x4", "vgg8", "ShuffleNetV1", "ShuffleNetV2"])
def test_stages_end_in_their_own_relu(name):
    network = small(name)
    x = network.forward_stages(images())["stem"]
    for stage in network.stages():
        if isinstance(stage, nn.Sequential) and not hasattr(stage, "preactivation"):
            inner, last = stage[:-1](x), stage[-1]
        else:
            inner, last = x, stage
        before, x = last.preactivation(inner), stage(x)
        assert before.min() < 0
        torch.testing.assert_close(x, F.relu(before))


def test_wide_block_by_hand():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 6, 6)
    for width, shortcut_of in (
        (4, lambda block: x),
        (8, lambda b: b.convShortcut(b.bn1(x).relu())),
    ):
        block = WideBlock(4, width, stride=1, dropout=0.0).eval()
        block.bn1.running_mean.fill_(0.5)
        path = block.conv2(block.bn2(block.conv1(block.bn1(x).relu())).relu())
        torch.testing.assert_close(block(x), path + shortcut_of(block))


def test_wide_resnet_pools_what_is_normalised_and_activated():
    network = small("wrn_16_1").eval()
    network.bn1.running_mean.fill_(0.3)
    features = network.forward_stages(images())
    assert features["stage3"].min() < 0
    expected = network.bn1(features["stage3"]).relu().mean((2, 3))
    torch.testing.assert_close(features["pooled"], expected)


def test_dropout_only_where_asked():
    assert torch.equal(small("wrn_16_1")(images()), small("wrn_16_1")(images()))
    dropping = small("wrn_16_1", dropout=0.5)
    assert not torch.equal(dropping(images()), dropping(images()))
    dropping.eval()
    assert torch.equal(dropping(images()), dropping(images()))


def test_mobilenet_stages_are_linear():
    features = small("MobileNetV2").forward_stages(images(size=32))
    assert all(features[f"stage{i}"].min() < 0 for i in range(1, 5))
    assert features["stem"].min() == 0


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_channel_shuffle(memory_format):
    x = torch.randn(2, 12, 5, 5).to(memory_format=memory_format)
    shuffled = channel_shuffle(x, groups=3)
    torch.testing.assert_close(shuffled, nn.ChannelShuffle(3)(x.contiguous()))
    assert shuffled.is_contiguous(memory_format=memory_format)


def test_shuffle_block_v2_keeps_half_of_the_channels():
    torch.manual_seed(0)
    block, x = ShuffleBlockV2(8).eval(), torch.rand(2, 8, 5, 5)
    out = block(x)
    assert torch.equal(out[:, 0::2], x[:, :4])
    assert not torch.equal(out[:, 1::2], x[:, 4:])


@pytest.mark.parametrize("name", ["resnet8", "wrn_16_2", "vgg8", "MobileNetV2"])
def test_convolutions_start_at_he_normal_over_fan_out(name):
    network = small(name)
    checked = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 4000:
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.1)
            assert module.bias is None or not module.bias.any()
            checked += 1
    assert checked


def test_depths_that_do_not_exist():
    with pytest.raises(ValueError, match="6n \\+ 2"):
        thin_resnet(9, 10)
    with pytest.raises(ValueError, match="6n \\+ 4"):
        WideResNet(14, 1, 10)


def test_names_of_the_benchmarks_checkpoints():
    keys = set(small("resnet20").state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer2.0.downsample.0.weight"} <= keys
    assert {"layer3.2.conv2.weight", "layer3.2.bn2.bias", "classifier.bias"} <= keys
    assert "block1.layer.0.convShortcut.weight" in small("wrn_16_2").state_dict()
    assert "block4.1.running_mean" in small("vgg8").state_dict()
    assert "blocks.6.0.conv.7.weight" in small("MobileNetV2").state_dict()
    assert isinstance(small("ResNet18"), ResNet)
    assert isinstance(small("ResNet18"), Network)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_preactivations_become_features(name, training):
    network = build_model(name, 10).train(training)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    plain = network.forward_stages(images())
    moved = {key: value.clone() for key, value in network.state_dict().items()}
    network.load_state_dict(state)
    features = network.forward_stages(images(), preactivations=True)
    assert all(torch.equal(value, moved[key]) for key, value in network.state_dict().items())
    for key, value in plain.items():
        torch.testing.assert_close(features[key], value)
    stages = [key for key in plain if key.startswith("stage")]
    assert {f"{key}_preact" for key in stages} == features.keys() - plain.keys()
    for key in stages:
        before = features[f"{key}_preact"]
        assert before.shape == plain[key].shape
        if name.startswith("wrn"):
            continue
        linear = name == "MobileNetV2"
        assert (before < 0).any()
        torch.testing.assert_close(before if linear else before.relu(), plain[key])


def test_wide_resnets_show_what_the_next_block_activates():
    network = build_model("wrn_16_2", 10).eval()
    features = network.forward_stages(images(), preactivations=True)
    following = [network.block2.layer[0].bn1, network.block3.layer[0].bn1, network.bn1]
    for number, norm in enumerate(following, start=1):
        expected = norm(features[f"stage{number}"])
        torch.testing.assert_close(features[f"stage{number}_preact"], expected)
    torch.testing.assert_close(features["head"], features["stage3_preact"].relu())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_interleaving_is_a_shuffle_of_two(layout):
    x = torch.rand(2, 8, 3, 5).contiguous(memory_format=layout)
    one, other = x.chunk(2, dim=1)
    other = other.contiguous(memory_format=layout)
    together = interleave(one, other)
    assert torch.equal(together, channel_shuffle(torch.cat([one, other], dim=1), groups=2))
    assert together.is_contiguous(memory_format=layout)
