"""A mentor's classes are matched to the data's before the first step."""

import pytest
import torch
from pydantic import ValidationError
from torchvision.models import ResNet18_Weights

from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.mentors.labels import class_count_map, class_map, imagenet_classes
from classroomkd.methods import create_method
from classroomkd.models import build_model
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.recipe import MentorRecipe

IMAGENET = imagenet_classes()
PLAIN = tuple(name.split(", ")[1] for name in IMAGENET)  # as torchvision has them


@pytest.mark.parametrize("name", ["Tench", "tinca_tinca", "tench, Tinca tinca", "n01440764"])
@pytest.mark.parametrize("mentor", [IMAGENET, ("x", "Tench, Tinca tinca")])
def test_ways_to_name_a_class(name, mentor):
    assert class_map(mentor, (name,)).tolist() == [0 if mentor is IMAGENET else 1]


def test_the_spelling_decides_where_the_data_has_both():
    assert class_map(("cat", "Cat", "dog"), ("Cat", "cat")).tolist() == [1, 0]
    assert class_map(TORCHVISION, ("cardigan", "Cardigan")).tolist() == [474, 264]


def test_a_name_of_several_classes_needs_a_label():
    mentor = ("crane, bird", "crane, machine")
    with pytest.raises(ClassroomError, match=r"'crane' may be any of its classes 0 \(crane, bird"):
        class_map(mentor, ("crane",), "ann")
    assert class_map(mentor, ("crane",), labels={"crane": 1}).tolist() == [1]
    assert class_map(mentor, ("crane",), labels={"crane": "machine"}).tolist() == [1]
    with pytest.raises(ClassroomError, match="'crane' may be any"):
        class_map(("crane, bird", "crane"), ("crane",))
    assert class_map(("crane, bird", "crane"), ("crane",), labels={"crane": "crane"}).tolist() == [
        1
    ]


@pytest.mark.parametrize("mentor", [IMAGENET, PLAIN])
def test_folders_of_imagenet(mentor):
    ids = tuple(name.split(",")[0] for name in IMAGENET)
    assert class_map(mentor, ids) is None or mentor is not ids
    backwards = class_map(mentor, ids[::-1])
    assert backwards.tolist() == list(range(999, -1, -1))


WORDS = tuple(name.partition(", ")[2] for name in IMAGENET)  # as transformers has them
IDS = tuple(name.split(",")[0] for name in IMAGENET)
TORCHVISION = tuple(ResNet18_Weights.DEFAULT.meta["categories"])
SPELT = {"timm": IMAGENET, "torchvision": TORCHVISION, "transformers": WORDS, "folders": IDS}


@pytest.mark.parametrize("data", SPELT)
@pytest.mark.parametrize("mentor", SPELT)
def test_all_of_imagenet_is_known_however_it_is_spelt(mentor, data):
    assert class_map(SPELT[mentor], SPELT[data]) is None
    with_background = ("background", *SPELT[mentor])
    assert class_map(with_background, SPELT[data]).tolist() == list(range(1, 1001))


@pytest.mark.parametrize("mentor", SPELT)
def test_names_of_part_of_imagenet(mentor):
    some = ("hognose snake, puff adder, sand viper", "Tench", "n01443537", "Carcharodon carcharias")
    for before in ((), ("background",)):
        places = class_map((*before, *SPELT[mentor]), some).tolist()
        assert places == [place + len(before) for place in (54, 0, 1, 2)]


@pytest.mark.parametrize("mentor", SPELT)
@pytest.mark.parametrize(
    ("name", "beside", "place"),
    [("crane", "n02012849", 134), ("crane", "n03126707", 517),
     ("cardigan", "Cardigan Welsh corgi", 264), ("Cardigan", "n02963159", 474),
     ("maillot", "tank suit", 639), ("maillot", "n03710637", 638),
     ("harp", "mouth organ", 593), ("crayfish", "crawdad", 124), ("panda", "red panda", 387)],
)  # fmt: skip
def test_a_name_of_two_classes_of_imagenet_is_never_guessed(mentor, name, beside, place):
    with pytest.raises(ClassroomError, match=f"'{name}' may be any of its classes .*{place}"):
        class_map(SPELT[mentor], (name, "tench"))
    for full in (f"{name}, {beside}", f"{beside}, {name}"):
        assert class_map(SPELT[mentor], (full, "tench")).tolist() == [place, 0]
    assert class_map(SPELT[mentor], (name,), labels={name: beside}).tolist() == [place]


def test_another_name_of_the_data_may_leave_one_class():
    data = ("harp", "harmonica", "Tub", "bathtub", "panda", "giant panda")
    assert class_map(WORDS, data).tolist() == [594, 593, 876, 435, 387, 388]
    with pytest.raises(ClassroomError, match="'cardigan' may be any"):  # both may be the garment
        class_map(TORCHVISION, ("cardigan", "sweater"), labels={"sweater": "cardigan"})


def test_folders_in_the_order_of_the_alphabet():
    data = tuple(sorted(TORCHVISION))
    expected = [TORCHVISION.index(name) for name in data]
    assert class_map(TORCHVISION, data).tolist() == expected


def test_ids_that_differ_do_not_match_by_their_words():
    mentor = ("n03126707 crane", "n02007558 flamingo")
    for data in ("n02012849 crane", "n02012849"):
        with pytest.raises(ClassroomError, match="not trained on"):
            class_map(mentor, (data,))
    assert class_map(("x", "crane, bird"), ("n02012849 crane",)).tolist() == [1]


def test_another_order_is_seen_by_two_names():
    swapped = list(IMAGENET)
    swapped[3], swapped[700] = swapped[700], swapped[3]
    places = class_map(tuple(swapped), WORDS[:100]).tolist()
    assert places == [0, 1, 2, 700, *range(4, 100)]
    assert class_map(IMAGENET, tuple(swapped)).tolist()[3] == 700


def test_spelling_does_not_matter():
    for mentor, data in {
        "Great White Shark": "great-white_shark",
        "caf\u00e9": "cafe\u0301",  # as folders of macOS have it
        "Granny Smith's": "granny smith\u2019s",
        " dog ": "dog",
        "n02085620 Chihuahua": "n02085620-Chihuahua",
        "tench,Tinca tinca": "tinca tinca",
    }.items():
        assert class_map(("other", mentor), (data,)).tolist() == [1]


def test_two_names_for_one_class_must_be_meant():
    for data in (("tench", "Tinca tinca"), ("n01440764", "Tench"), ("tench", "TENCH")):
        with pytest.raises(ClassroomError, match=r"cannot tell the data's .* both are its class 0"):
            class_map(IMAGENET, data, "ann")
        assert class_map(IMAGENET, data, labels={data[1]: data[0]}).tolist() == [0, 0]
    assert class_map(IMAGENET, ("tench", "x"), labels=[0, 0]).tolist() == [0, 0]


def test_the_nearest_is_named():
    with pytest.raises(ClassroomError, match="tensh: did you mean 'tench'"):
        class_map(("tench", "goldfish"), ("goldfish", "tensh"), "ann")
    with pytest.raises(ClassroomError, match="no class of the data: did you mean 'goldfish'"):
        class_map(("tench", "goldfish"), ("goldfish",), labels={"goldfihs": 0})


def test_labels_in_order():
    assert class_map(("a", "b", "c"), ("x", "y"), labels=[2, 0]).tolist() == [2, 0]
    assert class_map(("a", "b"), ("x", "y"), labels=[0, 1]) is None
    with pytest.raises(ClassroomError, match="1 labels for the data's 2 classes"):
        class_map(("a", "b", "c"), ("x", "y"), labels=[2])
    with pytest.raises(ClassroomError, match="label 3 is beyond its 3 classes"):
        class_map(("a", "b", "c"), ("x", "y"), labels=[2, 3])


def test_only_the_count_is_known():
    assert class_count_map(3, ("a", "b", "c")) is None
    assert class_count_map(9, ("a", "b"), labels={"b": 4, "a": 7}).tolist() == [7, 4]
    assert class_count_map(2, ("a", "b"), labels={"a": "b", "b": "a"}).tolist() == [1, 0]
    for labels in (None, {"a": 4}, {"a": "x", "b": 2}):
        with pytest.raises(ClassroomError, match="ann tells 9 classes apart.*give classes"):
            class_count_map(9, ("a", "b"), "ann", labels)


NAMES = ("goldfish", "n01440764", "Great_White_Shark", "hen", "cock", "ostrich", "brambling",
         "house finch", "junco", "robin")  # fmt: skip


@pytest.fixture(scope="module")
def mentor_of_1000():
    torch.manual_seed(0)
    return build_model("resnet8", 1000).eval()


def images(count=6):
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("method", ["classroom", "kd", "dkd"])
def test_a_subset_of_1000_in_another_order_gives_the_same_lesson(mentor_of_1000, method):
    order = class_map(IMAGENET, NAMES)
    small = build_model("resnet8", 10).eval()
    state = dict(mentor_of_1000.state_dict())
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][order]
    small.load_state_dict(state)
    torch.manual_seed(2)
    student, target = build_model("resnet8", 10).eval()(images()), torch.arange(6)
    lessons = [
        create_method(method)(student, [mentor(images())], target)
        for mentor in (Mentor(small, "m"), Mentor(mentor_of_1000, "m", "peer", order))
    ]
    for one, other in zip(vars(lessons[0]).values(), vars(lessons[1]).values(), strict=True):
        torch.testing.assert_close(one, other)


@pytest.fixture
def checkpoint(tmp_path, mentor_of_1000):
    torch.save(mentor_of_1000.state_dict(), tmp_path / "own.pt")
    return {"model": "resnet8", "checkpoint": tmp_path / "own.pt"}


def test_in_a_recipe(checkpoint, mentor_of_1000):
    mentor = open_mentor(MentorRecipe(**checkpoint, classes="imagenet"), "m", NAMES)
    expected = mentor_of_1000(images())[:, class_map(IMAGENET, NAMES)]
    assert torch.equal(mentor(images()), expected)
    labels = {"pet": "goldfish", "cock": 8}
    recipe = MentorRecipe(**checkpoint, classes="imagenet", labels=labels)
    assert open_mentor(recipe, "m", ("cock", "hen", "pet")).class_map.tolist() == [8, 8, 1]
    with pytest.raises(ClassroomError, match="unicorn"):
        open_mentor(MentorRecipe(**checkpoint, classes="imagenet"), "m", (*NAMES, "unicorn"))


def test_a_pretrained_model_brings_its_classes(monkeypatch):
    import timm

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **o: create(name, **o))
    source = {"model": "timm/test_resnet", "pretrained": True}
    mentor = open_mentor(MentorRecipe(**source), "m", NAMES)
    assert mentor.class_map.tolist()[:4] == [1, 0, 2, 8]
    with torch.no_grad():
        assert torch.equal(mentor(images()), mentor.network(images())[:, mentor.class_map])
    labelled = MentorRecipe(**source, labels=[5, 3])
    assert open_mentor(labelled, "m", ("x", "y")).class_map.tolist() == [5, 3]
    with pytest.raises(ClassroomError, match="1000 classes apart, but classes names 2"):
        open_mentor(MentorRecipe(**source, classes=("x", "y")), "m", ("x", "y"))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"model": "timm/test_resnet"}, "give one of run"),
        ({"pretrained": True}, "pretrained needs a model of another library"),
        ({"model": "resnet8", "pretrained": True}, "pretrained needs a model of another library"),
        (
            {"model": "timm/test_resnet", "pretrained": True, "mean": (0, 0, 0)},
            "knows its own mean",
        ),
        (
            {"model": "timm/test_resnet", "pretrained": True, "labels": [-1]},
            "greater than or equal",
        ),
        ({"model": "timm/test_resnet", "pretrained": True, "classes": "imagnet"}, "imagenet"),
    ],
)
def test_recipes_with_mistakes(entry, message):
    with pytest.raises(ValidationError, match=message):
        MentorRecipe(**entry)


def test_names_leave_the_origin_out():
    from classroomkd.config import mentor_names

    recipes = [MentorRecipe.model_construct(model=f"{o}/resnet18") for o in ("timm", "torchvision")]
    assert mentor_names(recipes) == ["resnet18", "resnet18-2"]
