"""Pose networks by name: shapes, sizes, what is refused, and that they learn."""

import pytest
import timm
import torch

from classroomkd.errors import ClassroomError
from classroomkd.models import build_model
from classroomkd.models.external.pixels import IMAGENET_MEAN
from classroomkd.tasks.pose.models import Grid, build_pose_model, parse_pose_name
from classroomkd.tasks.pose.models.heads import HeatmapHead, SimCCHead

NAMES, PAIRS = ("nose", "left_hand", "right_hand"), ((1, 2),)
TIMM = ["test_resnet", "test_vit", "test_efficientnet", "mobilenetv3_small_050", "cspnext_tiny"]


def images(height=64, width=96, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def build(name, size=(64, 96), **options):
    torch.manual_seed(0)
    return build_pose_model(name, NAMES, PAIRS, size, **options)


@pytest.mark.parametrize("head", ["heatmap", "simcc"])
@pytest.mark.parametrize("body", ["tiny", "small", "base", *TIMM])
def test_every_body_and_head(body, head):
    network = build(f"pose/{body}/{head}")
    outputs = network(images())
    expected = [(2, 3, 16, 24)] if head == "heatmap" else [(2, 3, 192), (2, 3, 128)]
    assert [tuple(block.shape) for block in outputs] == expected
    assert (network.name, network.input_size) == (f"pose/{body}/{head}", (64, 96))
    assert (network.joint_names, network.flip_pairs) == (NAMES, PAIRS)
    points, confidence = network.codec.decode(outputs)
    assert (points.shape, confidence.shape) == ((2, 3, 2), (2, 3))
    sum(block.square().sum() for block in outputs).backward()
    idle = [name for name, weight in network.named_parameters() if weight.grad is None]
    assert not idle


def test_an_hrnet_gives_its_finest_map_and_keeps_no_idle_weights():
    network = build("pose/hrnet_w18_small/heatmap")
    assert isinstance(network.head, HeatmapHead)
    assert len(network.head.enlarge) == 0
    (heat,) = network(images())
    assert heat.shape == (2, 3, 16, 24)
    heat.sum().backward()
    assert all(weight.grad is not None for weight in network.parameters())
    with pytest.raises(ValueError, match="multiples of 32, such as"):
        build("pose/hrnet_w18_small/heatmap", (64, 80))


def test_maps_with_their_channels_last_are_turned():
    network = build("pose/test_mambaout/heatmap")
    assert network(images())[0].shape == (2, 3, 16, 24)


@pytest.mark.parametrize(("name", "least", "most"), [("tiny", 0.15, 0.25), ("small", 0.8, 1.2)])
def test_sizes_of_the_small_ones(name, least, most):
    for head in ("heatmap", "simcc"):
        network = build_pose_model(f"pose/{name}/{head}", [str(i) for i in range(14)], (), (96, 96))
        count = sum(weight.numel() for weight in network.parameters()) / 1e6
        assert least < count < most + 0.1 * (head == "simcc")


def test_normalisation_is_the_backbones_own():
    vit, resnet = build("pose/test_vit/heatmap"), build("pose/resnet18/heatmap")
    config = timm.get_pretrained_cfg("test_vit")
    torch.testing.assert_close(vit.normalize.mean.flatten(), torch.tensor(config.mean))
    torch.testing.assert_close(resnet.normalize.mean.flatten(), torch.tensor(IMAGENET_MEAN))


def test_images_of_another_size_are_resized():
    network = build("pose/tiny/heatmap").eval()
    (heat,) = network(images(128, 100))
    assert heat.shape == (2, 3, 16, 24)
    blocks = images(64, 96).repeat_interleave(2, -1).repeat_interleave(2, -2)
    small = torch.nn.functional.interpolate(blocks, (64, 96), mode="bilinear", antialias=True)
    torch.testing.assert_close(network(blocks)[0], network(small)[0])


def test_options_of_heads():
    network = build("pose/tiny/heatmap", finer=2, width=16, sigma=3.0, beta=20.0)
    assert network(images())[0].shape == (2, 3, 32, 48)
    assert (network.codec.sigma, network.codec.beta) == (3.0, 20.0)
    assert network.codec.x == Grid.over(96, 48)
    network = build("pose/tiny/simcc", split=3.0, sigma=(4.0, 5.0))
    assert [block.shape[-1] for block in network(images())] == [288, 192]
    assert network.options == {"split": 3.0, "sigma": (4.0, 5.0)}


def test_simcc_starts_as_the_marginals_of_its_maps():
    head = SimCCHead(1, 8, 1, (64, 96))
    torch.nn.init.ones_(head.joints.weight)
    maps = torch.zeros(1, 1, 8, 12)
    maps[0, 0, 2, 9] = 1.0  # the cell around x = 75.5 and y = 19.5
    points, confidence = head.codec.decode(head(maps))
    assert (points - torch.tensor([75.5, 19.5])).abs().max() < 0.5
    assert confidence.item() == pytest.approx(1, abs=0.05)


def test_simcc_sees_six_cells_of_the_shorter_side_or_more():
    for size, cells in [((256, 192), 8 * 6), ((96, 96), 6 * 6), ((64, 96), 8 * 12)]:
        head = SimCCHead(8, 32, 3, size, width=4)
        assert head.x.in_features == cells
        maps = torch.rand(1, 8, size[0] // 32, size[1] // 32)
        assert head(maps)[0].shape == (1, 3, 2 * size[1])


@pytest.mark.parametrize(
    ("name", "size", "complaint"),
    [
        ("pose/small/heatmap", (100, 96), r"multiples of 16, such as \(96, 96\) or \(112, 96\)"),
        ("pose/small/heatmap", (0, 96), "multiples of 16"),
        ("pose/test_resnet/simcc", (48, 64), "multiples of 32"),
        ("pose/test_vit/heatmap", (64, 100), "multiples of 16"),
        ("pose/small/heatmap", None, "needs an input_size"),
        ("pose/torchvision/keypointrcnn_resnet50_fpn", (100, 96), "multiples of 32"),
        ("pose/small/offsets", (64, 64), "unknown head of a pose network 'offsets'"),
        ("pose/smal/heatmap", (64, 64), "unknown model 'smal' of timm.*tiny, small, base"),
        ("pose/resnet18.nobody/heatmap", (64, 64), "unknown weights 'nobody'"),
        ("pose/torchvision/resnet18", (64, 64), "unknown pose network of torchvision"),
        ("pose/torchvision/keypointrcnn_resnet50_fpn.X", (64, 64), "unknown weights of Keypoint"),
        ("pose/hf/no such folder/at all", None, "no such folder"),
        ("pose/small", (64, 64), "no name of a pose network"),
        ("resnet8", (64, 64), "no name of a pose network"),
    ],
)
def test_what_is_refused(name, size, complaint):
    with pytest.raises(ValueError, match=complaint):
        build(name, size)


@pytest.mark.parametrize(
    ("names", "pairs"),
    [((), ()), (("a", "a"), ()), (("a", "b"), ((0, 2),)), (("a", "b"), ((0, 1), (1, 0)))],
)
def test_joints_that_cannot_be(names, pairs):
    with pytest.raises(ValueError, match=r"joints need names|flip_pairs must"):
        build_pose_model("pose/tiny/heatmap", names, pairs, (32, 32))


def test_a_patch_of_14_has_no_stride_of_4():
    with pytest.raises(ValueError, match="choose finer among 14, 7"):
        build("pose/eva02_tiny_patch14_224/heatmap", (56, 84))
    with pytest.raises(ValueError, match="choose finer among 14, 7"):
        HeatmapHead(8, 14, 3, (56, 56))


def test_unknown_options_and_missing_weights():
    with pytest.raises(TypeError, match="splits"):
        build("pose/tiny/simcc", splits=3)
    with pytest.raises(ValueError, match="comes without weights"):
        build("pose/tiny/simcc", pretrained=True)
    with pytest.raises(ClassroomError, match="offers no weights"):
        build("pose/mobilenetv2_035/simcc", pretrained=True)


def test_pretrained_weights_that_cannot_be_fetched_say_what_to_fetch(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained=False, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(ClassroomError, match=r"hf download timm/resnet18.*models--timm--resnet18"):
        build("pose/resnet18/heatmap", pretrained=True)


def test_names_in_full():
    assert str(parse_pose_name("POSE/Small/SimCC")) == "pose/small/simcc"
    assert str(parse_pose_name("pose/resnet18.a1_in1k/heatmap")) == "pose/resnet18.a1_in1k/heatmap"
    assert (
        parse_pose_name("pose/hf/usyd-community/vitpose-base").rest == "usyd-community/vitpose-base"
    )


def test_classifiers_and_pose_networks_are_not_confused():
    with pytest.raises(ValueError, match="finds joints and has no classes"):
        build_model("pose/small/heatmap", 10)


def spots(count, seed, size=48):
    """Dim noise with a red and a green spot, and where they are."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 2, 2, generator=generator) * (size - 16) + 8
    pixels = torch.arange(size).float()
    pictures = torch.rand(count, 3, size, size, generator=generator) * 0.3
    for joint in range(2):
        x, y = (torch.exp(-((pixels - points[:, joint, i : i + 1]) ** 2) / 8) for i in (0, 1))
        pictures[:, joint] += 0.7 * y.unsqueeze(-1) * x.unsqueeze(-2)
    return pictures, points


@pytest.mark.slow
@pytest.mark.parametrize("head", ["heatmap", "simcc"])
def test_small_networks_find_spots(head):
    torch.manual_seed(0)
    network = build_pose_model(f"pose/tiny/{head}", ["red", "green"], (), (48, 48))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    for step in range(150):
        pictures, points = spots(32, step)
        logits, target = network.codec.logits(network(pictures)), network.codec.target(points)
        loss = sum(
            -(y * z.log_softmax(-1)).sum(-1).mean() for y, z in zip(target, logits, strict=True)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    pictures, points = spots(64, 10**6)
    with torch.no_grad():
        found, confidence = network.eval().codec.decode(network(pictures))
    assert (found - points).norm(dim=-1).median() < 1.5
    assert confidence.mean() > 0.3
