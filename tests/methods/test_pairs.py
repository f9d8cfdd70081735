"""Feature pairs on the whole zoo, and what every method on features keeps to."""

from functools import cache

import pytest
import torch

from classroomkd.methods import Outputs, create_method, list_methods, method_class
from classroomkd.methods.pairs import same_size, stage_pairs
from classroomkd.models import build_model, list_models
from tests.methods.scenes import (
    EQUAL,
    LARGE,
    SMALL,
    TARGET,
    B,
    C,
    lesson_of,
    random,
    says,
    term,
    whole,
)

FEATURE_METHODS = [n for n in list_methods() if method_class(n).needs_features]
FAMILIES = ["resnet20", "resnet8x4", "wrn_16_2", "vgg8", "MobileNetV2", "ShuffleNetV1"]
FAMILIES += ["ShuffleNetV2", "ResNet50"]

# ------------------------------------------------------------------------------------- pairs


@cache
def zoo_features(name):
    with torch.device("meta"):
        return (
            build_model(name, 100)
            .eval()
            .forward_stages(torch.empty(2, 3, 32, 32), preactivations=True)
        )


@pytest.mark.parametrize("stem", [True, False])
@pytest.mark.parametrize("student", list_models())
def test_pairs_of_the_whole_zoo(student, stem):
    for mentor in list_models():
        here, there = zoo_features(student), zoo_features(mentor)
        depth = [
            [n for n in f if n[:-1] == "stage" or (stem and n == "stem")] for f in (here, there)
        ]
        pairs = stage_pairs(here, there, stem=stem)
        assert len(pairs) == min(map(len, depth))
        assert pairs[-1] == (depth[0][-1], depth[1][-1])
        for side in (0, 1):
            ranks = [depth[side].index(pair[side]) for pair in pairs]
            assert ranks == sorted(set(ranks))
        if len(depth[0]) == len(depth[1]):
            assert pairs == list(zip(*depth, strict=True))
        assert [p[::-1] for p in pairs] == stage_pairs(there, here, stem=stem)


def numbered(*pairs):
    return [(f"stage{a}", f"stage{b}") for a, b in pairs]


@pytest.mark.parametrize(
    ("student", "mentor", "expected"),
    [
        ("resnet8", "resnet110", numbered((1, 1), (2, 2), (3, 3))),
        ("MobileNetV2", "vgg13", numbered((1, 1), (2, 2), (3, 3), (4, 4))),
        # 32, 16, 8 pixels and 16, 8, 4, 4: the last together, the others by what is nearest.
        ("resnet20", "vgg13", numbered((1, 1), (2, 2), (3, 4))),
        ("MobileNetV2", "wrn_40_2", numbered((1, 1), (2, 2), (4, 3))),
        # 16, 8, 4 and 32, 16, 8, 4: a pixel-true pair for each.
        ("ShuffleNetV1", "ResNet50", numbered((1, 2), (2, 3), (3, 4))),
    ],
)
def test_pairs_by_resolution(student, mentor, expected):
    assert stage_pairs(zoo_features(student), zoo_features(mentor), stem=False) == expected


def test_networks_without_maps_are_named():
    maps = {"stage1": torch.empty(1, 2, 4, 4)}
    with pytest.raises(ValueError, match=r"the student shows no feature maps \(its features: pool"):
        stage_pairs({"pooled": torch.empty(1, 2)}, maps)
    with pytest.raises(ValueError, match="the mentor shows no feature maps.*forward_stages"):
        stage_pairs(maps, {})


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if n in ("at", "nst", "sp")])
def test_pairs_by_hand(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    by_hand = [["stage1", "stem"], ["stage2", "stage1"]]
    both = term(lesson_of(name, student, mentor, pairs=by_hand)[1])
    each = [term(lesson_of(name, student, mentor, pairs=[pair])[1]) for pair in by_hand]
    torch.testing.assert_close(both, sum(each))


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (("stage7", "stage1"), "pairs: unknown feature of the student 'stage7'.*'stage[12]'"),
        (("stage1", "stge1"), "pairs: unknown feature of the mentor 'stge1': did you mean 'stage1"),
        (("pooled", "stage1"), "pairs: 'pooled' of the student is no map"),
    ],
)
def test_pairs_by_hand_that_are_not_there(pair, message):
    student = says(*SMALL)
    student = Outputs(student.logits, {**student.features, "pooled": random(B, 7)})
    method = create_method("at", pairs=[pair])
    with pytest.raises(ValueError, match=message):
        method.setup(student, [says(*LARGE)])
    with pytest.raises(ValueError, match="pairs"):
        create_method("at", pairs=[])


def test_the_larger_map_is_pooled():
    one, other = random(2, 3, 8, 4), random(2, 5, 4, 8)
    a, b = same_size(one, other)
    torch.testing.assert_close(a, one.unflatten(2, (4, 2)).mean(3))
    torch.testing.assert_close(b, other.unflatten(3, (4, 2)).mean(4))
    assert same_size(one, one)[0] is one


# ----------------------------------------------------------------------------------- all methods


FEWER = {"diffkd": {"steps": 2}}  # each of the five has the same shapes


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if not method_class(n).needs_index])
@pytest.mark.parametrize("student", FAMILIES)
def test_pairs_of_different_architectures(name, student):
    """Shapes agree for every pair of families (on the meta device, at the sizes of CIFAR)."""
    for mentor in FAMILIES:
        here, there = (
            whole(Outputs(f["logits"], {k: v for k, v in f.items() if k != "logits"}))
            for f in (zoo_features(student), zoo_features(mentor))
        )
        with torch.device("meta"):
            method = create_method(name, **FEWER.get(name, {}))
            if name == "kdsvd" and student != mentor:  # its singular vectors must be equally long
                with pytest.raises(ValueError, match="equally wide"):
                    method.setup(here, [there])
                continue
            method.setup(here, [there])
            lesson = method(here, [there], torch.zeros(2, dtype=torch.long))
        assert lesson.loss.shape == ()
        assert lesson.mentor_loss.shape in ((1,), (1, 2))
        assert all(p.device.type == "meta" for p in method.parameters())


@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_logits_alone_are_refused(name):
    index = torch.arange(B)
    with pytest.raises((ValueError, RuntimeError), match="forward_stages|method.setup"):
        create_method(name)(random(B, C), [random(B, C)], TARGET, index)


@pytest.mark.parametrize("name", [n for n in FEATURE_METHODS if method_class(n).kind == "feature"])
def test_samples_are_taught_one_by_one(name):
    """What a sample's lesson is does not depend on its company (adapters in eval mode)."""
    # KDSVD compares maps of equal widths alone, SHAKE fuses three stages of its teacher.
    widths = {"kdsvd": SMALL, "shake": (*LARGE, LARGE[-1])}.get(name, LARGE)
    student, mentor = whole(says(*SMALL)), whole(says(*widths, seed=9))
    method, _ = lesson_of(name, student, mentor)
    method.eval()
    together = method(student, [mentor], TARGET)
    assert together.mentor_loss.shape == (1, B)

    def one(outputs, i):
        maps = {k: v[i : i + 1] for k, v in outputs.features.items()}
        return Outputs(outputs.logits[i : i + 1], maps)

    for i in range(B):
        alone = method(one(student, i), [one(mentor, i)], TARGET[i : i + 1])
        torch.testing.assert_close(alone.mentor_loss[:, 0], together.mentor_loss[:, i])


@pytest.mark.parametrize("name", ["at", "nst", "fsp", "sp"])
def test_equal_maps_teach_nothing(name):
    student = says(*EQUAL)
    student.features["stage2"].requires_grad_()
    _, lesson = lesson_of(name, student, student)
    assert lesson.mentor_loss.abs().max() < 1e-10
    (gradient,) = torch.autograd.grad(lesson.loss, student.features["stage2"])
    assert gradient.abs().max() < 1e-10


@pytest.mark.parametrize("name", ["fitnets", "vid", "fsp"])
def test_adapters_belong_to_the_method(name):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    bare = create_method(name)
    with pytest.raises(RuntimeError, match=f"{name} has no adapters yet: call method.setup"):
        bare(student, [mentor], TARGET)
    method, lesson = lesson_of(name, student, mentor)
    parameters = dict(method.named_parameters())
    assert parameters.keys() <= method.state_dict().keys()
    lesson.loss.backward()
    assert all(p.grad.any() for p in parameters.values())
    bare.setup(student, [mentor])
    bare.double().load_state_dict(method.state_dict())
    method.eval(), bare.eval()
    lessons = [m(student, [mentor], TARGET).loss for m in (bare, method)]
    assert torch.equal(*lessons)
