"""Mentors from run folders and from files; their names."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from classroomkd.config import mentor_names
from classroomkd.errors import ClassroomError
from classroomkd.models import StudentFile, build_model, save_student
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.recipe import MentorRecipe

CLASSES = ("cat", "dog", "cow", "emu")


def images(count=3):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model("resnet8", 4, mean=(0.1, 0.2, 0.3)).eval()


@pytest.fixture
def run(tmp_path, network):
    folder = tmp_path / "teacher"
    folder.mkdir()
    save_student(network, StudentFile("resnet8", CLASSES, "animals", 3, 55.5), folder)
    return folder


def test_a_run_brings_its_network_classes_and_normalisation(run, network):
    mentor = open_mentor(MentorRecipe(run=run, role="teacher"), "ann", CLASSES)
    assert (mentor.name, mentor.role, mentor.class_map) == ("ann", "teacher", None)
    assert torch.equal(mentor(images()), network(images()))
    swapped = open_mentor(MentorRecipe(run=run), "ann", ("emu", "cat"))
    assert torch.equal(swapped(images()), network(images())[:, [3, 0]])
    with pytest.raises(ClassroomError, match="ann was not trained on .*: yak"):
        open_mentor(MentorRecipe(run=run), "ann", ("cat", "yak"))


def file_of(network, path, *, normalised):
    state = network.state_dict()
    torch.save({k: v for k, v in state.items() if normalised or "normalize" not in k}, path)
    return path


def test_a_file_with_classes_and_normalisation(tmp_path, network):
    path = file_of(network, tmp_path / "w.pt", normalised=False)
    options = {"checkpoint": path, "model": "resnet8"}
    recipe = MentorRecipe(**options, mean=(0.1, 0.2, 0.3), classes=CLASSES)
    mentor = open_mentor(recipe, "m", CLASSES[::-1])
    assert torch.equal(mentor(images()), network(images()).flip(1))
    plain = open_mentor(MentorRecipe(**options), "m", CLASSES)
    assert plain.class_map is None
    assert not torch.allclose(plain(images()), network(images())), "its mean was not given"
    assert not mentor.network.training


def test_a_recipe_has_the_last_word_about_pixels(tmp_path, network):
    path = file_of(network, tmp_path / "w.pt", normalised=True)
    options = {"checkpoint": path, "model": "resnet8"}
    own = open_mentor(MentorRecipe(**options), "m", CLASSES)
    assert torch.equal(own(images()), network(images()))
    other = open_mentor(MentorRecipe(**options, mean=(0, 0, 0)), "m", CLASSES).network
    assert torch.equal(other.normalize.mean, torch.zeros(3, 1, 1))
    assert torch.equal(other.normalize.std, network.normalize.std)


def test_a_file_of_another_class_count(tmp_path, network):
    path = file_of(network, tmp_path / "w.pt", normalised=True)
    recipe = MentorRecipe(checkpoint=path, model="resnet8", classes=(*CLASSES, "yak"))
    with pytest.raises(ClassroomError, match="does not fit a resnet8 with 5 classes"):
        open_mentor(recipe, "m", CLASSES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged(tmp_path, network, run, value):
    with torch.no_grad():
        network.classifier.weight[0, 0] = value
    path = file_of(network, tmp_path / "w.pt", normalised=True)
    save_student(network, StudentFile("resnet8", CLASSES, "animals", 3, None), run)
    for recipe in (MentorRecipe(checkpoint=path, model="resnet8"), MentorRecipe(run=run)):
        with pytest.raises(ClassroomError, match=r"m has weights that are not finite.*classifier"):
            open_mentor(recipe, "m", CLASSES)


def test_no_names_are_no_classes(tmp_path, network):
    path = file_of(network, tmp_path / "w.pt", normalised=True)
    with pytest.raises(ClassroomError, match="m: classes is empty"):
        open_mentor(MentorRecipe(checkpoint=path, model="resnet8", classes=()), "m", CLASSES)


def named(*names):
    return mentor_names([MentorRecipe.model_construct(name=n, model="vgg8") for n in names])


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a", "a", "a-2"], ["a", "a-3", "a-2"]),
        (["a-2", "a", "a"], ["a-2", "a", "a-3"]),
        (["a", "a-3", "a"], ["a", "a-3", "a-2"]),
        (["a", "a-2", "a-4", "a"], ["a", "a-2", "a-4", "a-3"]),
        (["a", "a-x", "a"], ["a", "a-x", "a-2"]),
        (["a", "a", "a-2", "a-2"], ["a", "a-3", "a-2", "a-2-2"]),
        ([None, None], ["vgg8", "vgg8-2"]),
        (["", "vgg8"], ["vgg8", "vgg8-2"]),
    ],
)
def test_names(own, expected):
    assert named(*own) == expected


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "a-2-2", "a-22", "b", "a-"]), max_size=9))
def test_names_are_unique_and_explicit_ones_are_kept(own):
    names = named(*own)
    assert len(set(names)) == len(own)
    assert set(own) <= set(names)
    assert all(name.startswith(given) for name, given in zip(names, own, strict=True))


def test_runs_are_called_by_their_folder():
    recipes = [MentorRecipe.model_construct(run=Path(p)) for p in ("runs/t", "other/t", "runs/s/")]
    assert mentor_names(recipes) == ["t", "t-2", "s"]
