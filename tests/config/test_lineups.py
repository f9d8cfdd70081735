"""The table of line-ups: every recipe that it makes is valid, and names its mentors' commands."""

from pathlib import Path

import pytest
import yaml

from classroomkd.config import load_recipe, parse_recipe
from classroomkd.config.suite import load_suite
from classroomkd.errors import RecipeError
from classroomkd.models import canonical_name
from classroomkd.recipes import lineups as table
from classroomkd.recipes.lineups import (
    how_to_make,
    lineup_recipe,
    list_lineups,
    published_name,
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def finish(*names):
    """Stand-ins for the runs of networks alone."""
    for name in names:
        run = Path("runs") / name.replace("/", "-", 1)
        run.mkdir(parents=True, exist_ok=True)
        (run / "student.safetensors").touch()


def alone():
    return [name for name, room in list_lineups().items() if not room.mentors]


def test_every_recipe_is_valid_and_named_after_itself():
    """One pass: a recipe takes some milliseconds."""
    finish(*alone())
    names = set()
    for name in list_lineups():
        recipe = load_recipe(name)
        assert recipe.name == name.replace("/", "-", 1)
        assert recipe.method.name == ("classroom" if recipe.mentors else "none")
        assert canonical_name(recipe.student.model) == recipe.student.model
        assert recipe.train.batch_size == 64
        names.add(recipe.name)
    assert len(names) == len(list_lineups()) > 100


def test_every_mentor_is_a_recipe_of_its_own():
    for name, room in list_lineups().items():
        runs = [entry["run"] for entry in lineup_recipe(name)["mentors"]]
        assert len(runs) == len(room.mentors)
        for run in runs:
            command = how_to_make(Path(run))
            made = lineup_recipe(command.removeprefix("classroomkd train "))
            assert Path("runs") / made["name"] == Path(run)


def test_the_table_has_no_key_twice():
    text = (Path(table.__file__).parents[1] / "recipes" / "lineups" / "cifar100.yaml").read_text()

    def keys(node):
        if isinstance(node, yaml.MappingNode):
            own = [key.value for key, _ in node.value]
            assert len(own) == len(set(own)), own
            for _, value in node.value:
                keys(value)

    keys(yaml.compose(text))


@pytest.mark.parametrize(
    ("name", "student", "teachers", "peers"),
    [
        ("resnet20-1t5p-resnet56", "resnet20", ["resnet56"], 5),
        ("MobileNetV2-3t2p", "MobileNetV2", ["ResNet50", "vgg13", "wrn_40_2"], 2),
        ("ResNet18-1t4p", "ResNet18", ["swin_t"], 4),
        ("wrn_16_8-1t8p", "wrn_16_8", ["wrn_40_2"], 8),
        ("ShuffleNetV1-0t5p", "ShuffleNetV1", [], 5),
        ("vgg8-3t3p", "vgg8", ["vgg13"] * 3, 3),
    ],
)
def test_some_of_the_public_line_ups(name, student, teachers, peers):
    raw = lineup_recipe(f"cifar100/{name}")
    roles = {
        role: [m["run"] for m in raw["mentors"] if m["role"] == role]
        for role in ("teacher", "peer")
    }
    assert raw["student"]["model"] == student
    assert roles["teacher"] == [f"runs/cifar100-{who}" for who in teachers]
    assert len(roles["peer"]) == peers


def test_schedules():
    def train(name):
        return lineup_recipe(f"cifar100/{name}")["train"]

    teacher, gentle = train("vgg13"), train("MobileNetV2")
    assert (teacher["epochs"], teacher["optimizer"]["lr"]) == (240, 0.05)
    assert teacher["schedule"]["milestones"] == [150, 180, 210]
    assert gentle["optimizer"]["lr"] == train("ShuffleNetV1-1t5p-new")["optimizer"]["lr"] == 0.01
    assert train("ResNet34-1t5p")["schedule"]["milestones"] == [312, 375, 437]
    early, whole = train("EfficientNet-B0-e8"), train("EfficientNet-B0")
    assert early == {**whole, "epochs": 8}, "an early stop of the same schedule"


def test_options_of_the_table_reach_the_method():
    assert lineup_recipe("cifar100/MobileNetV2-1t5p-T20")["method"]["temperature"] == 20
    assert lineup_recipe("cifar100/MobileNetV2-1t5p")["method"]["temperature"] == 12
    assert lineup_recipe("cifar100/MobileNetV2-3t5p-dist")["method"]["divergence"] == "dist"


def test_a_missing_run_says_which_command_makes_it():
    with pytest.raises(RecipeError) as error:
        load_recipe("cifar100/wrn_40_1-1t5p")
    assert len(error.value.mistakes) == 6
    assert error.value.mistakes[0] == (
        "mentors[0].run: no such file or folder: runs/cifar100-wrn_40_2:"
        " `classroomkd train cifar100/wrn_40_2` makes it"
    )
    raw = lineup_recipe("cifar100/wrn_40_1-1t5p") | {"mentors": [{"run": "old/cifar100-vgg13"}]}
    with pytest.raises(RecipeError, match="train cifar100/vgg13 --out old/cifar100-vgg13` makes"):
        parse_recipe(raw)
    assert how_to_make(Path("runs/cifar100-resnet9")) is None
    assert how_to_make(Path("runs")) is None


def test_the_protocol_of_published_numbers():
    finish(*(f"{name}-published" for name in alone()))
    usual, published = (
        lineup_recipe(f"cifar100/resnet20-1t5p-resnet56{end}") for end in ("", "-published")
    )
    assert "dev" not in usual["data"]
    assert published["data"] == usual["data"] | {"dev": 0}
    assert published["train"] == usual["train"] | {"precision": "fp32"}
    assert [m["run"] for m in published["mentors"]] == [
        f"{m['run']}-published" for m in usual["mentors"]
    ]
    recipe = load_recipe("cifar100/resnet20-1t5p-resnet56-published")
    assert recipe.name == "cifar100-resnet20-1t5p-resnet56-published"
    assert (recipe.data.dev, recipe.train.precision) == (0, "fp32")
    assert (recipe.train.epochs, recipe.train.batch_size) == (240, 64)
    assert recipe.train.optimizer.model_dump() == {
        "name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 5e-4,
    }  # fmt: skip
    assert published_name("cifar100/vgg8") == published_name("cifar100/vgg8-published")
    with pytest.raises(ValueError, match="digits-mentor is no line-up"):
        published_name("digits-mentor")


def test_a_missing_published_mentor_says_which_command_makes_it():
    with pytest.raises(RecipeError, match=r"`classroomkd train cifar100/vgg13 --published` makes"):
        load_recipe("cifar100/vgg8-1t5p-published")


def test_a_suite_of_line_ups_by_the_published_protocol():
    finish("cifar100/wrn_40_2-published", *(f"{name}-published" for name in alone()))
    text = (
        "base: cifar100/wrn_40_1-1t5p\nbaseline: alone\n"
        "runs:\n  alone: {base: cifar100/wrn_40_1}\n  room: {}\n"
    )
    Path("two.yaml").write_text(text)
    suite = load_suite("two.yaml", published=True)
    assert suite.name == "two-published"
    for name in ("alone", "room"):
        recipe = suite.plan(name, 0, Path("out")).recipe()
        assert (recipe.data.dev, recipe.train.precision) == (0, "fp32")
    Path("two.yaml").write_text(text.replace("{base: cifar100/wrn_40_1}", "{base: digits-mentor}"))
    with pytest.raises(RecipeError, match="digits-mentor.yaml is no line-up"):
        load_suite("two.yaml", published=True)
    Path("two.yaml").write_text(text.replace("1t5p", "1t5p-published"))
    assert load_suite("two.yaml").base == Path("cifar100/wrn_40_1-1t5p-published")


def test_a_baseline_of_a_line_up_has_the_published_options():
    finish(*alone())
    Path("runs/cifar100-resnet56/student.json").write_text('{"model": "resnet56"}')
    recipe = load_recipe("cifar100/resnet20-1t5p-resnet56", ["method.name=dkd"])
    assert recipe.method.options == {"beta": 2}


def test_overrides_and_unknown_names():
    recipe = load_recipe("cifar100/resnet8", ["train.epochs=3", "name=short"])
    assert (recipe.train.epochs, recipe.name) == (3, "short")
    with pytest.raises(RecipeError, match=r"did you mean 'cifar100/vgg8-1t5p'\? \(see `classroom"):
        load_recipe("cifar100/vgg8-1t5")
    with pytest.raises(RecipeError, match="no such file"):
        load_recipe("cifar100/vgg8.yaml")


def test_a_file_of_the_same_name_comes_first():
    Path("cifar100").mkdir()
    Path("cifar100/vgg8").write_text("student: {model: resnet8}\nmethod: {name: none}\n")
    assert load_recipe("cifar100/vgg8").student.model == "resnet8"


def test_a_suite_may_start_from_a_line_up():
    finish("cifar100/wrn_40_2", *alone())
    Path("two.yaml").write_text(
        "base: cifar100/wrn_40_1-1t5p\nset: [train.epochs=1]\nbaseline: alone\n"
        "runs:\n  alone: {base: cifar100/wrn_40_1}\n  room: {}\n"
    )
    suite = load_suite("two.yaml")
    recipe = suite.plan("room", 0, Path("out")).recipe()
    assert (len(recipe.mentors), recipe.train.epochs) == (6, 1)
    Path("two.yaml").write_text("base: cifar100/nobody\nbaseline: a\nruns: {a: {}}\n")
    with pytest.raises(RecipeError, match="base: unknown recipe 'cifar100/nobody'"):
        load_suite("two.yaml")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"x": {"teachers": ["vgg13"]}}, "does not begin as 1t5p does"),
        ({"2t0p": {"teachers": ["vgg13"]}}, "wants 2 of"),
        ({"1t0p": {"teachers": ["vgg13"]}, "[1]t0p": {"teachers": ["vgg8"]}}, "vgg8-1t0p twice"),
    ],
)
def test_mistakes_in_the_table_do_not_pass(row, message, monkeypatch):
    monkeypatch.setattr(table, "_table", lambda: {"models": {}, "lineups": {"vgg8": row}})
    with pytest.raises(ValueError, match=message):
        list_lineups.__wrapped__()
