"""Published options in recipes: filled in where nothing is said, known by the teacher's run."""

import json
from pathlib import Path

import pytest

from classroomkd.config import load_recipe, parse_recipe
from classroomkd.config.published import published_notes


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finished(name, model):
    run = Path("runs") / name
    run.mkdir(parents=True)
    (run / "student.safetensors").touch()
    if model is not None:
        (run / "student.json").write_text(json.dumps({"model": model}))
    return {"run": str(run)}


def recipe(mentors, student="resnet20", data=None, **method):
    return parse_recipe(
        {
            "name": "x",
            "data": data or {"name": "cifar100"},
            "student": {"model": student},
            "mentors": mentors,
            "method": {"name": "dkd", **method},
        }
    )


def test_the_only_mentor_is_the_teacher():
    filled = recipe([finished("a", "resnet56")])
    assert filled.method.options == {"beta": 2}
    assert "beta: 2" in filled.to_yaml()
    (note,) = published_notes(filled)
    assert note.startswith("dkd, published options: beta 2 (cifar100, resnet56 -> resnet20: ")


def test_the_own_option_wins():
    own = recipe([finished("a", "resnet56")], beta=5)
    assert own.method.options == {"beta": 5}
    (note,) = published_notes(own)
    assert note.startswith("dkd, options of its own: beta 5 instead of 2 (cifar100, ")


@pytest.mark.parametrize("place", [0, 1])
def test_the_mentor_with_the_role(place):
    mentors = [finished("a", "vgg13"), finished("b", "resnet56")]
    mentors[1 - place]["role"] = "teacher"
    beta = recipe(mentors).method.options.get("beta")
    assert beta == (2 if place == 0 else None)


def test_teachers_of_other_origin():
    Path("w.pt").touch()
    assert recipe([{"checkpoint": "w.pt", "model": "resnet56"}]).method.options == {"beta": 2}
    store = Path("bank/a")
    store.mkdir(parents=True)
    (store / "mentor.json").write_text(json.dumps({"architecture": "resnet56"}))
    assert recipe([{"outputs": "bank/a"}]).method.options == {"beta": 2}


@pytest.mark.parametrize("text", [None, "{", "[]", '{"model": 3}'])
def test_an_unknown_teacher_has_no_pair(text):
    teacher = finished("a", None)
    if text is not None:
        (Path(teacher["run"]) / "student.json").write_text(text)
    assert recipe([teacher]).method.options == {}
    assert published_notes(recipe([teacher])) == []


def test_another_pair_or_data_set_has_the_defaults():
    teacher = finished("a", "resnet56")
    assert recipe([teacher], student="resnet8").method.options == {}
    assert recipe([teacher], data={"name": "cifar10"}).method.options == {}


@pytest.mark.parametrize("data", [{"name": "imagenet"}, {"name": "shards", "classes": "imagenet"}])
def test_imagenet_by_any_reader(data, tmp_path):
    mentors = [{"model": "torchvision/resnet34", "pretrained": True}]
    data = {"path": str(tmp_path), **data}
    filled = recipe(mentors, student="torchvision/resnet18", data=data)
    assert filled.method.options == {"temperature": 1, "warmup_epochs": 1, "beta": 0.5}
    assert len(published_notes(filled)) == 1


def test_a_resolved_recipe_is_read_as_it_is():
    """A run from before the table trained at beta 8, whatever is published."""
    filled = recipe([finished("a", "resnet56")])
    Path("new.yaml").write_text(filled.to_yaml())
    assert load_recipe("new.yaml", resolved=True) == load_recipe("new.yaml") == filled
    old = filled.to_yaml().replace("  beta: 2\n", "")
    Path("old.yaml").write_text(old)
    assert load_recipe("old.yaml", resolved=True).method.options == {}
    assert load_recipe("old.yaml") == filled


def test_overrides_come_before():
    Path("kd.yaml").write_text(recipe([finished("a", "resnet56")]).to_yaml())
    changed = load_recipe("kd.yaml", ["method.name=dtkd", "method.alpha=2"])
    assert changed.method.options == {"alpha": 2, "beta": 0.5}


def test_standardised_logits_in_a_recipe():
    filled = recipe([finished("a", "resnet56")], name="kd", standardize=True)
    expected = {"standardize": True, "temperature": 2, "weight": 9, "task_weight": 0.1}
    assert filled.method.options == expected
    assert recipe([finished("b", "resnet56")], standardize=True).method.options["beta"] == 18
    (note,) = published_notes(filled)
    assert note == "kd, published options: temperature 2.0, weight 9.0, task_weight 0.1 (LSKD)"
