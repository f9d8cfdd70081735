import pytest
import torch

from classroomkd.tasks.pose.data import JointSet, custom_joints, joint_map, joint_set


@pytest.mark.parametrize(("name", "count"), [("coco", 17), ("mpii", 16), ("lsp", 14)])
def test_pairs_are_left_before_right_and_complete(name, count):
    joints = joint_set(name)
    assert len(joints) == len(joints.sigmas) == count
    for left, right in joints.pairs:
        assert joints.names[left] == joints.names[right].replace("right_", "left_")
        assert joints.sigmas[left] == joints.sigmas[right]
    sided = [place for pair in joints.pairs for place in pair]
    assert len(sided) == sum(name.startswith(("left_", "right_")) for name in joints.names)
    assert [joints.mirrored[place] for place in joints.mirrored] == list(range(count))
    assert sorted(joints.upper + joints.lower) == list(range(count))


def test_sigmas_are_cocos():
    published = [26, 25, 25, 35, 35, 79, 79, 72, 72, 62, 62, 107, 107, 87, 87, 89, 89]
    assert joint_set("coco").sigmas == tuple(s / 1000 for s in published)


def test_lower_body():
    coco = joint_set("coco")
    assert coco.lower == tuple(range(11, 17))
    assert joint_set("lsp").lower == tuple(range(6))
    assert joint_set("mpii").lower == tuple(range(7))


def test_lsp_is_mpii_less_pelvis_and_thorax():
    mpii, lsp = joint_set("mpii"), joint_set("lsp")
    there = joint_map(mpii, lsp)
    assert there.dtype == torch.int64
    assert sorted(set(range(16)) - set(there.tolist())) == [6, 7]
    back = joint_map(lsp, mpii)
    assert (back == -1).nonzero()[:, 0].tolist() == [6, 7]
    assert torch.equal(there[back[back >= 0]], (back >= 0).nonzero()[:, 0])


def test_coco_and_mpii_share_the_limbs():
    mapped = joint_map(joint_set("coco"), joint_set("mpii"))
    lacking = [joint_set("mpii").names[i] for i in (mapped < 0).nonzero()[:, 0]]
    assert lacking == ["pelvis", "thorax", "neck", "head_top"]


def test_joints_of_ones_own():
    hand = custom_joints("hand", ["Wrist L", "wrist R", "Thumb"], [(0, 2)])
    assert hand.names == ("left_wrist", "right_wrist", "thumb")
    assert hand.pairs == ((0, 1),)
    assert hand.sigmas == (0.062, 0.062, 0.079)


@pytest.mark.parametrize(
    "change",
    [
        {"names": ("a", "a")},
        {"sigmas": (0.1,)},
        {"sigmas": (0.1, 0.0)},
        {"pairs": ((0, 2),)},
        {"pairs": ((0, 0),)},
        {"skeleton": ((0, -1),)},
    ],
)
def test_mistakes(change):
    good = {"names": ("a", "b"), "pairs": (), "skeleton": (), "sigmas": (0.1, 0.1)}
    JointSet("good", **good, upper=(0, 1), lower=())
    with pytest.raises(ValueError, match="joints bad"):
        JointSet("bad", **(good | change), upper=(0, 1), lower=())


def test_unknown_set():
    with pytest.raises(ValueError, match="did you mean 'coco'"):
        joint_set("cocoo")
