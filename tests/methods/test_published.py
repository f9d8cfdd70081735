"""Published options: the table against values read from papers and public code; standardisation."""

import pytest
import torch

from classroomkd.methods import (
    Setting,
    create_method,
    list_methods,
    method_class,
    method_options,
    option_errors,
    published_options,
)
from classroomkd.methods.published import _table, entries
from classroomkd.models import list_models


def values(name, setting=None, **options):
    return {k: v.value for k, v in published_options(name, options, setting).items()}


def cifar(teacher, student):
    return Setting("cifar100", teacher, student)


RESNET18 = Setting("imagenet", "torchvision/resnet34", "torchvision/resnet18")
MOBILENET = Setting("imagenet", "torchvision/resnet50.IMAGENET1K_V1", "timm/mobilenetv1_100")


@pytest.mark.parametrize(
    ("name", "teacher", "student", "expected"),
    [
        ("dkd", "resnet56", "resnet20", {"beta": 2}),
        ("dkd", "resnet110", "resnet32", {"beta": 2}),
        ("dkd", "vgg13", "vgg8", {"beta": 6}),
        ("dkd", "vgg13", "MobileNetV2", {"beta": 6}),
        ("dkd", "wrn_40_2", "wrn_16_2", {"beta": 6}),
        ("dkd", "wrn_40_2", "wrn_40_1", {"beta": 6}),
        ("dkd", "resnet32x4", "resnet8x4", {}),
        ("dkd", "resnet110", "resnet20", {}),
        ("dtkd", "resnet56", "resnet20", {"alpha": 1, "beta": 0.5}),
        ("dtkd", "wrn_40_2", "wrn_40_1", {"alpha": 1, "beta": 0.5}),
        ("dtkd", "ResNet50", "MobileNetV2", {"beta": 2}),
        ("dtkd", "wrn_40_2", "ShuffleNetV1", {"alpha": 2, "beta": 0.5}),
        ("reviewkd", "resnet56", "resnet20", {"weight": 0.6}),
        ("reviewkd", "resnet110", "resnet32", {"weight": 1}),
        ("reviewkd", "resnet32x4", "ShuffleNetV2", {"weight": 8}),
        ("lskd", "vgg13", "vgg8", {"temperature": 3}),
        ("lskd", "resnet32x4", "wrn_16_2", {"temperature": 3}),
        ("lskd", "resnet56", "resnet20", {}),
        ("kd", "resnet56", "resnet20", {}),
    ],
)
def test_pairs_of_cifar100(name, teacher, student, expected):
    assert values(name, cifar(teacher, student)) == expected
    assert values(name, Setting("cifar10", teacher, student)) == {}
    assert values(name, cifar(None, student)) == {}
    assert values(name, cifar(student, teacher)) == {}


@pytest.mark.parametrize(
    ("name", "setting", "expected"),
    [
        ("kd", RESNET18, {"temperature": 1, "weight": 0.5, "task_weight": 0.5}),
        ("kd", Setting("imagenet"), {"temperature": 1, "weight": 0.5, "task_weight": 0.5}),
        ("dkd", RESNET18, {"temperature": 1, "warmup_epochs": 1, "beta": 0.5}),
        ("dkd", MOBILENET, {"temperature": 1, "warmup_epochs": 1, "beta": 2}),
        ("ofd", MOBILENET, {"weight": 1e-4}),
        ("dist", RESNET18, {"temperature": 1, "weight": 2}),
        ("wsld", RESNET18, {"temperature": 2, "weight": 2.5}),
    ],
)
def test_imagenet(name, setting, expected):
    assert values(name, setting) == expected


@pytest.mark.parametrize(("setting", "weight"), [(RESNET18, 1), (MOBILENET, 8)])
def test_reviewkd_on_imagenet(setting, weight):
    found = values("reviewkd", setting)
    assert (found["weight"], found["warmup_epochs"]) == (weight, 1)


def test_every_row_is_valid_and_says_something():
    for name in _table():
        assert name in list_methods()
        assert entries(name)
        for entry in entries(name):
            assert option_errors(name, entry.options) == {}, entry
            assert entry.source
            assert entry.options
            if entry.data == "cifar100":
                assert set(entry.pair or ()) <= set(list_models()), entry.pair
                usual = method_options(name).model_fields
                assert all(usual[k].default != v for k, v in entry.options.items()), entry


def test_defaults_of_the_benchmark():
    def usual(name):
        return {k: field.default for k, field in method_options(name).model_fields.items()}

    assert usual("wsld")["temperature"] == 4
    assert usual("wsld")["weight"] == 2.25
    assert (usual("dkd")["alpha"], usual("dkd")["beta"], usual("dkd")["temperature"]) == (1, 8, 4)
    assert (usual("dtkd")["alpha"], usual("dtkd")["beta"]) == (3, 1)
    assert (usual("lskd")["temperature"], usual("lskd")["weight"]) == (2, 9)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("kd", {"temperature": 2, "weight": 9, "task_weight": 0.1}),
        ("dkd", {"temperature": 2, "alpha": 9, "beta": 72}),
        ("rld", {"temperature": 2, "alpha": 9, "beta": 72}),
        ("wsld", {"temperature": 2, "weight": 20.25}),
        ("aver", {"temperature": 2, "weight": 9}),
        ("ebkd", {"temperature": 2, "weight": 9}),
        ("dgkd", {"temperature": 2, "weight": 9}),
        ("ca_mkd", {"temperature": 2, "weight": 9}),
        ("dist", {}),
        ("meal", {}),
        ("classroom", {}),
    ],
)
def test_what_goes_with_standardised_logits(name, expected):
    assert values(name, standardize=True) == expected
    assert values(name, standardize=False) == values(name, standardize="false") == {}


def test_every_method_with_the_switch_is_decided_upon():
    """A new one is added here, and to the registry's weights or its docstring."""
    switched = {
        name for name in list_methods() if "standardize" in method_options(name).model_fields
    }
    unchanged = {"dist", "meal", "classroom"}
    assert switched - unchanged == {name for name in switched if values(name, standardize=True)}


def test_standardised_logits_of_a_pair():
    small, wide = cifar("resnet56", "resnet20"), cifar("vgg13", "vgg8")
    assert values("dkd", small, standardize=True) == {"temperature": 2, "alpha": 9, "beta": 18}
    assert values("kd", wide, standardize=True)["temperature"] == 3
    assert values("kd", small, standardize=True)["temperature"] == 2
    assert values("kd", RESNET18, standardize=True)["temperature"] == 2, "not that of plain KD"


def scene():
    torch.manual_seed(0)
    return torch.randn(6, 5), list(torch.randn(3, 6, 5)), torch.arange(6) % 5


@pytest.mark.parametrize("name", ["kd", "dkd", "rld", "wsld", "aver", "ebkd", "ca_mkd"])
def test_create_method_takes_them_and_own_options_win(name):
    student, mentors, target = scene()
    mentors = mentors[:1] if method_class(name).num_mentors == 1 else mentors

    def loss(**options):
        options |= {"feature_weight": 0} if name == "ca_mkd" else {}
        return create_method(name, standardize=True, **options)(student, mentors, target).loss

    found = values(name, standardize=True)
    assert torch.equal(loss(), loss(**found))
    own = loss(temperature=4.0)
    assert torch.equal(own, loss(**found | {"temperature": 4.0}))
    assert not torch.equal(own, loss())


def test_standardised_kd_is_lskd():
    student, mentors, target = scene()
    switched, named = create_method("kd", standardize=True), create_method("lskd")
    assert torch.equal(
        switched(student, mentors[:1], target).loss, named(student, mentors[:1], target).loss
    )


@pytest.mark.parametrize("name", ["kd", "aver"])
def test_standardised_logits_do_not_weaken_the_mentors(name):
    """At the usual options their gradient would be five times as small or more."""
    student, mentors, target = (3 * part if i < 1 else part for i, part in enumerate(scene()))
    mentors = [4 * mentor for mentor in mentors][: 1 if name == "kd" else 3]

    def strength(**options):
        moved = student.clone().requires_grad_()
        lesson = create_method(name, task_weight=0.0, **options)(moved, mentors, target)
        return torch.autograd.grad(lesson.loss, moved)[0].norm()

    kept = {"temperature": 4.0, "weight": 0.9 if name == "kd" else 1.0}
    assert strength(standardize=True, **kept) < strength() / 4
    assert strength(standardize=True) > strength() / 2
