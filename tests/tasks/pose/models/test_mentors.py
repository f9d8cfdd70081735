"""Pose networks of other libraries; no test needs the network."""

import pytest
import torch
import transformers
from torchvision.models import detection
from torchvision.ops import MultiScaleRoIAlign

from classroomkd.errors import ClassroomError
from classroomkd.tasks.pose.models import (
    Grid,
    HeatmapCodec,
    build_pose_model,
    flip_test,
    from_torchvision,
    parse_pose_name,
)
from classroomkd.tasks.pose.models.from_torchvision import KeypointRCNNPose, pyramid_level

NAMES, PAIRS = ("nose", "left_hand", "right_hand"), ((1, 2),)
RCNN = "pose/torchvision/keypointrcnn_resnet50_fpn"


def images(height=64, width=48, count=2):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(1))


def config(experts=1, **options):
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(64, 48),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_experts=experts,
        part_features=4,
        out_indices=[2],
    )
    return transformers.VitPoseConfig(backbone_config=backbone, num_labels=3, **options)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small random ViTPose in a folder, with a normalisation of its own."""
    folder = tmp_path_factory.mktemp("vitpose")
    torch.manual_seed(0)
    transformers.VitPoseForPoseEstimation(config()).save_pretrained(folder)
    processor = transformers.VitPoseImageProcessor(
        image_mean=[0.1, 0.2, 0.3], image_std=[0.5, 0.6, 0.7]
    )
    processor.save_pretrained(folder)
    return folder


def test_a_vitpose_of_a_folder_gives_what_the_library_gives(folder):
    network = build_pose_model(f"pose/hf/{folder}", NAMES, PAIRS, pretrained=True).eval()
    model = transformers.VitPoseForPoseEstimation.from_pretrained(folder).eval()
    pixels = (images() - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 0.6, 0.7]
    ).view(3, 1, 1)
    with torch.no_grad():
        (heat,) = network(images())
        expected = model(pixel_values=pixels).heatmaps
    torch.testing.assert_close(heat, expected)
    assert heat.shape == (2, 3, 16, 12)
    assert network.input_size == (64, 48)
    assert network.codec.x.step == pytest.approx(47 / 11)
    assert network.codec.y.offset == 0


def test_udp_grids_lie_where_transformers_decodes_them():
    """Its crops are 1 pixel smaller than its inputs: corners of both are centres of pixels."""
    grids = Grid.corner_to_corner(192, 48), Grid.corner_to_corner(256, 64)
    codec = HeatmapCodec(*grids)
    points = torch.tensor([[[40.2, 60.7], [95.0, 127.3], [150.5, 200.1]]])
    (heat,) = codec.encode(points)
    output = transformers.models.vitpose.modeling_vitpose.VitPoseEstimatorOutput(heatmaps=heat)
    width, height = 191 / 1.25, 255 / 1.25  # boxes are padded
    box = [(191 - width) / 2, (255 - height) / 2, width, height]
    processor = transformers.VitPoseImageProcessor()
    ((person,),) = processor.post_process_pose_estimation(output, boxes=[[box]])
    assert (person["keypoints"] - points[0]).abs().max() < 0.25  # of its blur, and its aspect


def test_a_fresh_vitpose_takes_any_joints(folder):
    network = build_pose_model(f"pose/hf/{folder}", ["a", "b", "c", "d"])
    assert network(images())[0].shape == (2, 4, 16, 12)


def test_classic_decoders_and_experts(tmp_path):
    model = transformers.VitPoseForPoseEstimation(config(experts=3, use_simple_decoder=False))
    model.save_pretrained(tmp_path)
    name = f"pose/hf/{tmp_path}"
    first, second = (
        build_pose_model(name, NAMES, PAIRS, pretrained=True, dataset_index=i).eval()
        for i in (0, 2)
    )
    with torch.no_grad():
        (one,), (other,) = first(images()), second(images())
    assert one.shape == (2, 3, 16, 12)
    assert not one.equal(other)
    with pytest.raises(ClassroomError, match="there is no dataset_index 3"):
        build_pose_model(name, NAMES, PAIRS, pretrained=True, dataset_index=3)


def test_flipping_a_vitpose_leaves_its_input_size_alone(folder):
    network = build_pose_model(f"pose/hf/{folder}", NAMES, PAIRS, pretrained=True).eval()
    with torch.no_grad():
        (heat,) = flip_test(network, images(100, 90))
    assert heat.shape == (2, 3, 16, 12)
    model = network.model
    with torch.no_grad():
        pairs = torch.tensor(PAIRS)
        pixels = network.normalize(images())
        theirs = model(pixel_values=pixels.flip(-1), flip_pairs=pairs).heatmaps
        ours = flip_test(network, images())[0] * 2 - network(images())[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_what_is_no_vitpose(tmp_path, folder):
    with pytest.raises(ClassroomError, match="has 3 joints, not the 2 that were named"):
        build_pose_model(f"pose/hf/{folder}", ["a", "b"], pretrained=True)
    with pytest.raises(ValueError, match=r"input_size of its own, \(64, 48\)"):
        build_pose_model(f"pose/hf/{folder}", NAMES, PAIRS, (96, 96))
    transformers.ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(ClassroomError, match="is no ViTPose, but a resnet"):
        build_pose_model(f"pose/hf/{tmp_path}", NAMES, PAIRS)
    transformers.VitPoseConfig(backbone_config=config().backbone_config).save_pretrained(tmp_path)
    with pytest.raises(ClassroomError, match=r"weights of pose/hf.*Is the folder whole"):
        build_pose_model(f"pose/hf/{tmp_path}", NAMES, PAIRS, pretrained=True)


def test_a_hub_that_is_out_of_reach_says_what_to_fetch(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", offline)
    with pytest.raises(
        ClassroomError, match=r"hf download usyd-community/vitpose-base --local-dir"
    ):
        build_pose_model("pose/hf/usyd-community/vitpose-base", NAMES, PAIRS, pretrained=True)


@pytest.fixture(scope="module")
def rcnn():
    torch.manual_seed(0)
    backbone = detection.backbone_utils.resnet_fpn_backbone(
        backbone_name="resnet18", weights=None, trainable_layers=5
    )
    return detection.KeypointRCNN(backbone, num_classes=2, num_keypoints=3).eval()


@pytest.mark.slow
def test_a_keypoint_rcnn_by_name():
    network = build_pose_model(RCNN, NAMES, PAIRS, (64, 96))
    assert network(images(64, 96))[0].shape == (2, 3, 56, 56)
    assert (network.name, network.input_size) == (RCNN, (64, 96))


def test_a_keypoint_rcnn_is_asked_about_the_whole_crop(rcnn):
    network = KeypointRCNNPose(rcnn, NAMES, PAIRS, (64, 96)).eval()
    with torch.no_grad():
        (heat,) = network(images(64, 96, count=1))
        maps = rcnn.backbone(network.normalize(images(64, 96, count=1)))
        box = torch.tensor([[-0.5, -0.5, 95.5, 63.5]])
        heads = rcnn.roi_heads
        pooled = heads.keypoint_roi_pool(maps, [box], [(64, 96)])
        expected = heads.keypoint_predictor(heads.keypoint_head(pooled))
    torch.testing.assert_close(heat, expected)
    assert heat.shape == (1, 3, 56, 56)
    (logits,) = network.codec.logits((heat,))
    torch.testing.assert_close(logits, heat.flatten(2))
    names = {name for name, _ in network.named_children()}
    assert names == {"normalize", "backbone", "keypoint_head", "keypoint_predictor"}


@pytest.mark.parametrize(
    "size", [(32, 32), (96, 96), (224, 224), (256, 192), (512, 384), (1024, 1024)]
)
def test_the_level_is_the_one_that_torchvision_takes(size):
    height, width = size
    maps = {
        str(level): torch.full((1, 1, height // 2 ** (2 + level), width // 2 ** (2 + level)), level)
        for level in range(4)
    }
    pool = MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=2, sampling_ratio=2)
    box = torch.tensor([[-0.5, -0.5, width - 0.5, height - 0.5]])
    pooled = pool({k: v.float() for k, v in maps.items()}, [box], [size])
    assert pooled.max() == pyramid_level(size)


def test_bins_of_a_keypoint_rcnn_lie_where_torchvision_decodes_them(rcnn):
    network = KeypointRCNNPose(rcnn, NAMES, PAIRS, (112, 168))
    heat = torch.zeros(1, 3, 56, 56)
    heat[0, :, 20, 31] = 9.0
    box = torch.tensor([[-0.5, -0.5, 167.5, 111.5]])
    theirs, _ = detection.roi_heads.heatmaps_to_keypoints(heat, box)
    ours, confidence = network.codec.decode((heat,))
    assert (ours - theirs[..., :2]).abs().max() <= 0.5 + 1e-4  # they round to pixels
    assert confidence.min() > 0.5


def test_joints_of_a_keypoint_rcnn(rcnn):
    with pytest.raises(ClassroomError, match="has 3 joints, not the 2"):
        KeypointRCNNPose(rcnn, ("a", "b"), ())


def test_weights_out_of_reach_say_what_to_fetch(monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(from_torchvision.detection, "keypointrcnn_resnet50_fpn", offline)
    with pytest.raises(
        ClassroomError, match=r"fc266e95.*Fetch that file and put it at.*checkpoints"
    ):
        build_pose_model(RCNN, [str(i) for i in range(17)], pretrained=True)
    with pytest.raises(ClassroomError, match="9f466800"):
        build_pose_model(f"{RCNN}.COCO_LEGACY", [str(i) for i in range(17)], pretrained=True)


def test_every_tag_that_is_known_is_offered():
    for name in detection.KeypointRCNN_ResNet50_FPN_Weights.__members__:
        if name == "DEFAULT":
            continue
        assert str(parse_pose_name(f"{RCNN}.{name}")) == f"{RCNN}.{name}"
