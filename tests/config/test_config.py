"""Recipes: every mistake with its path and the nearest name, overrides, base, round trip."""

from pathlib import Path

import pytest
import yaml

from classroomkd.config import find_recipe, list_recipes, load_recipe, parse_recipe
from classroomkd.config.files import read_yaml
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.tasks.classification.recipe import Recipe

SINGLE_PROCESS = {"name": "x", "student": {"model": "resnet8"}, "method": {"name": "none"}}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a file of weights and a finished run in name."""
    monkeypatch.chdir(tmp_path)
    Path("w.pt").touch()
    finished_run(Path("runs/teacher"))
    return tmp_path


def finished_run(path):
    path.mkdir(parents=True)
    (path / "student.safetensors").touch()


def write(text, name="recipe.yaml"):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else yaml.safe_dump(text), encoding="utf-8")
    return path


def mistakes_of(read, *arguments):
    with pytest.raises(RecipeError) as caught:
        read(*arguments)
    error = caught.value
    assert isinstance(error, ClassroomError)
    assert len(set(error.mistakes)) == len(error.mistakes)
    assert all(line in str(error) for line in error.mistakes)
    return error.mistakes


def the_mistake(raw):
    (mistake,) = mistakes_of(parse_recipe, raw)
    return mistake


PEER = {"checkpoint": "w.pt", "model": "vgg8"}


def test_every_mistake_is_listed_at_once():
    raw = {
        "name": "x",
        "sede": 1,
        "data": {"name": "cifar10O", "augment": [{"name": "crop"}, {"name": "flp"}]},
        "mentors": [
            {"run": "runs/teacher"},
            {"checkpoint": "w.pt", "model": "resnett20"},
            {"checkpoint": "w.ptt", "model": "vgg8", "rolle": "peer"},
            {"run": "runs/teacher", "checkpoint": "w.pt"},
            {"run": "runs/tacher"},
        ],
        "method": {"name": "classroom", "temprature": 3, "group": "batches"},
        "train": {
            "epochs": "abc", "epoch": 3,
            "optimizer": {"name": "sgd", "momentun": 0.9},
            "schedule": {"name": "onecyle"},
        },
    }  # fmt: skip
    mistakes = mistakes_of(parse_recipe, raw)
    expected = [
        ("sede: unknown key: did you mean 'seed'?",),
        ("data.name: unknown data set 'cifar10O': did you mean 'cifar10", "known: "),
        ("data.augment[1]: unknown view 'flp': did you mean 'flip'?",),
        ("student: is missing",),
        ("mentors[1].model: unknown model 'resnett20': did you mean 'resnet20'?",),
        ("mentors[2].checkpoint: no such file", "w.ptt", "did you mean 'w.pt'?"),
        ("mentors[2].rolle: unknown key: did you mean 'role'?",),
        ("mentors[3]: give one of run", "checkpoint"),
        ("mentors[4].run: no such file or folder: runs/tacher", "did you mean 'teacher'?"),
        ("method.temprature: unknown option of classroom: did you mean 'temperature'?",),
        ("method.group: ", "'sample', 'batch' or 'unit'", "got 'batches'"),
        ("train.epochs: ", "valid integer", "got 'abc'"),
        ("train.epoch: unknown key: did you mean 'epochs'?",),
        ("train.optimizer.momentun: unknown key: did you mean 'momentum'?",),
        ("train.schedule.name: unknown name 'onecyle': did you mean 'onecycle'?",),
    ]
    for start, *rest in expected:
        (line,) = [m for m in mistakes if m.startswith(start)]
        assert all(part in line for part in rest), line
    assert len(mistakes) == len(expected)


@pytest.mark.parametrize(
    ("part", "start"),
    [
        ({"method": {"name": "classrom"}}, "method.name: unknown method 'classrom': did you mean "),
        ({"method": {"name": ["kd"]}}, "method.name: Input should be a valid string"),
        ({"method": "kd"}, "method: must be a mapping"),
        ({"method": {"name": "classroom"}}, "mentors: classroom needs mentors"),
        ({"method": {"name": "kd"}}, "mentors: kd needs a mentor"),
        ({"method": None}, "method: "),
        ({"mentors": [{}]}, "mentors[0]: give one of run"),
        ({"mentors": [{"checkpoint": "w.pt"}]}, "mentors[0]: a checkpoint needs model"),
        ({"mentors": [{"run": "runs/teacher", "model": "vgg8"}]}, "mentors[0]: a run knows its"),
        ({"mentors": [{"run": "runs"}]}, "mentors[0].run: runs has no student.safetensors"),
        ({"mentors": [PEER | {"checkpoint": "runs"}]}, "mentors[0].checkpoint: runs is a folder"),
        ({"mentors": [PEER | {"mean": [0.5, 0.5]}]}, "mentors[0].mean"),
        ({"mentors": [PEER | {"std": [0.5, 0.5, 0]}]}, "mentors[0].std[2]: "),
        ({"mentors": [PEER | {"role": "tutor"}]}, "mentors[0].role: Input should be 'teacher'"),
        ({"mentors": {"run": "runs/teacher"}}, "mentors: "),
        ({"mentors": ["runs/teacher"]}, "mentors[0]: "),
        ({"student": {"model": "vgg8", "checkpoint": "w.p"}}, "student.checkpoint: no such file"),
        ({"student": "resnet8"}, "student: must be a mapping"),
        ({"data": {"name": ["digits"]}}, "data.name: Input should be a valid string"),
        ({"data": {"path": "nowhere"}}, "data.path: no such file or folder: nowhere"),
        ({"data": {"path": "runs", "hub": "x"}}, "data: give path or hub, not both"),
        ({"data": {"dev": -1}}, "data.dev: give a share below 1.0"),
        ({"data": {"dev": 1.5}}, "data.dev: give a share below 1.0"),
        ({"data": {"dev": "some"}}, "data.dev: give a share below 1.0"),
        ({"data": {"dev": float("nan")}}, "data.dev: give a share below 1.0"),
        ({"data": {"augment": [{"name": "crop", "pading": 1}]}}, "data.augment[0]: view 'crop': "),
        ({"data": {"augment": [{"name": "crop", "padding": -1}]}}, "data.augment[0]: padding must"),
        ({"data": {"augment": ["flip"]}}, "data.augment[0]: "),
        ({"data": {"mix": {}}}, "data.mix: give mixup, cutmix or both"),
        ({"data": {"mix": {"p": 0.5}}}, "data.mix: give mixup, cutmix or both"),
        ({"data": {"mix": {"mixup": -1}}}, "data.mix.mixup: "),
        ({"data": {"mix": {"mixup": 0.8, "switch": 1.5}}}, "data.mix.switch: "),
        ({"data": {"mix": {"mixap": 0.8}}}, "data.mix.mixap: unknown key: did you mean 'mixup'"),
        ({"data": {"mix": 0.8}}, "data.mix: must be a mapping"),
        ({"data": {"smoothing": 1.0}}, "data.smoothing: "),
        ({"data": {"copies": 0}}, "data.copies: "),
        ({"data": {"copies": 2}, "bank": {"path": "b"}}, "data.copies: a bank holds one view"),
        ({"train": {"step": 3}}, "train.step: unknown key"),
        ({"train": {"epochs": 0}}, "train.epochs: Input should be greater than 0, got 0"),
        ({"train": {"device": "gpu"}}, "train.device: unknown device 'gpu'"),
        ({"train": {"device": "cuda:one"}}, "train.device: unknown device 'cuda:one'"),
        ({"train": {"optimizer": {"name": "adamw", "momentum": 0.9}}}, "train.optimizer.momentum:"),
        ({"train": {"optimizer": {"lr": float("inf")}}}, "train.optimizer.lr: "),
        ({"train": {"schedule": {"name": "step", "gama": 2}}}, "train.schedule.gama: unknown key:"),
        ({"sgd": 1}, "sgd: unknown key"),
        ({"name": 7}, "name: Input should be a valid string, got 7"),
    ],
)
def test_one_mistake(part, start):
    assert the_mistake(SINGLE_PROCESS | part).startswith(start)


def test_kd_and_its_one_teacher():
    two = SINGLE_PROCESS | {"method": {"name": "kd"}, "mentors": [PEER, PEER]}
    assert the_mistake(two).startswith("mentors: kd learns from one")
    teachers = [PEER | {"role": "teacher"}] * 2
    assert the_mistake(two | {"mentors": teachers}).startswith("mentors: kd learns from one")
    parse_recipe(two | {"mentors": [PEER, teachers[0]]})
    parse_recipe(two | {"mentors": [PEER]})


def test_options_that_exclude_each_other():
    method = {"name": "classroom", "compat": "official", "filtering": False}
    mistake = the_mistake(SINGLE_PROCESS | {"method": method, "mentors": [PEER]})
    assert mistake.startswith("method: ")
    assert "filtering" in mistake


def test_keys_that_are_no_text():
    for raw in (SINGLE_PROCESS | {3: 1}, SINGLE_PROCESS | {"method": {"name": "none", 3: 1}}):
        assert "Keys should be strings" in the_mistake(raw)


def test_options_without_a_name_are_those_of_the_usual_one():
    recipe = parse_recipe(
        SINGLE_PROCESS | {"train": {"optimizer": {"lr": 0.2}, "schedule": {"rise": 0.1}}}
    )
    assert (recipe.train.optimizer.name, recipe.train.optimizer.lr) == ("sgd", 0.2)
    assert (recipe.train.schedule.name, recipe.train.schedule.rise) == ("onecycle", 0.1)


def test_a_count_and_a_share_stay_what_they_are():
    for dev in (0, 500, 0.25):
        size = parse_recipe(SINGLE_PROCESS | {"data": {"dev": dev}}).data.dev
        assert (size, type(size)) == (dev, type(dev))


@pytest.mark.parametrize(
    ("data", "views"),
    [
        ({}, ["crop", "flip"]),
        ({"name": "cifar100"}, ["crop", "flip"]),
        ({"name": "cifar10"}, ["crop", "flip"]),
        ({"name": "digits"}, ["crop"]),
        ({"name": "digits", "augment": None}, ["crop"]),
        ({"augment": []}, []),
        ({"name": "digits", "augment": [{"name": "flip"}]}, ["flip"]),
    ],
)
def test_views_of_the_data_set(data, views):
    recipe = parse_recipe(SINGLE_PROCESS | {"data": data})
    assert [view.name for view in recipe.data.augment] == views
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe


def test_digits_are_moved_by_a_pixel():
    assert (
        parse_recipe(SINGLE_PROCESS | {"data": {"name": "digits"}})
        .data.augment[0]
        .options["padding"]
        == 1
    )


# Overrides


def test_mixing():
    data = parse_recipe(SINGLE_PROCESS | {"data": {"mix": {"mixup": 0.8, "cutmix": 1}}}).data
    assert (data.mixing.mixup, data.mixing.cutmix, data.mixing.switch) == (0.8, 1.0, 0.5)
    assert (data.smoothing, data.copies) == (0, 1)
    assert parse_recipe(SINGLE_PROCESS).data.mixing is None
    for off in ({"mixup": 0}, {"cutmix": 0.0, "mixup": 0.0}, {"mixup": 1, "p": 0}):
        assert parse_recipe(SINGLE_PROCESS | {"data": {"mix": off}}).data.mixing is None
    data = overridden(
        SINGLE_PROCESS, "data.mix.mixup=0.2", "data.smoothing=0.1", "data.copies=3"
    ).data
    assert (data.mixing.mixup, data.smoothing, data.copies) == (0.2, 0.1, 3)
    assert (
        overridden(SINGLE_PROCESS | {"data": {"mix": {"mixup": 1}}}, "data.mix=null").data.mix
        is None
    )


@pytest.mark.parametrize("method", [{"name": "dkd"}, {"name": "classroom", "also": "dkd"}])
@pytest.mark.parametrize(
    ("data", "key"),
    [({"mix": {"mixup": 1}}, "data.mix"), ({"smoothing": 0.1}, "data.smoothing")],
)
def test_methods_that_need_the_true_class(monkeypatch, method, data, key):
    from classroomkd.methods import method_class

    raw = SINGLE_PROCESS | {"mentors": [PEER], "method": method, "data": data}
    parse_recipe(raw)
    monkeypatch.setattr(method_class("dkd"), "soft_targets", False)
    parse_recipe(raw | {"data": {}})
    mistake = the_mistake(raw)
    assert f"'{method['name']}' needs each sample's one true class, which {key} take" in mistake
    assert "use another method" in mistake


def overridden(raw, *overrides):
    return load_recipe(write(raw), overrides)


def test_overrides_of_every_type():
    raw = SINGLE_PROCESS | {"mentors": [PEER, {"run": "runs/teacher"}]}
    recipe = overridden(
        raw,
        "seed=3",
        "train.ema=0.99",
        "train.channels_last=false",
        "train.clip=1e-1",
        "train.clip=null",
        "student.model=VGG13",
        "train.schedule={name: step, milestones: [3, 5]}",
        "mentors.1.role=teacher",
        "mentors.0.name=a=b",
        "data.dev=0",
        "data.augment=[]",
        "name=with spaces",
    )
    assert (recipe.seed, recipe.train.ema, recipe.train.channels_last) == (3, 0.99, False)
    assert recipe.train.clip is None
    assert recipe.student.model == "vgg13"
    assert recipe.train.schedule.milestones == (3, 5)
    assert [m.role for m in recipe.mentors] == ["peer", "teacher"]
    assert (recipe.mentors[0].name, recipe.mentors[0].model) == ("a=b", "vgg8")
    assert recipe.mentors[0].checkpoint == Path("w.pt")
    assert (recipe.data.dev, recipe.data.augment) == (0, ())
    assert recipe.name == "with spaces"


def test_a_whole_mentor_can_be_replaced():
    recipe = overridden(SINGLE_PROCESS | {"mentors": [PEER]}, "mentors.0={run: runs/teacher}")
    assert recipe.mentors[0].run == Path("runs/teacher")
    assert recipe.mentors[0].model is None


def test_renaming_a_mentor_keeps_it():
    recipe = overridden(SINGLE_PROCESS | {"mentors": [PEER | {"name": "a"}]}, "mentors.0.name=b")
    assert (recipe.mentors[0].name, recipe.mentors[0].model) == ("b", "vgg8")


CLASSROOM = SINGLE_PROCESS | {"method": {"name": "classroom", "group": "batch"}, "mentors": [PEER]}


def test_another_method_leaves_the_options_behind():
    assert overridden(CLASSROOM, "method.name=kd").method.options == {}
    assert overridden(CLASSROOM, "method.name=classroom").method.options == {"group": "batch"}
    usual = CLASSROOM | {"method": {"group": "batch"}}  # classroom, without saying so
    assert overridden(usual, "method.name=kd").method.options == {}
    assert overridden(usual, "method.name=classroom").method.options == {"group": "batch"}


def test_overrides_of_options_hold_on_either_side_of_the_name():
    for order in ([0, 1], [1, 0]):
        overrides = ["method.name=kd", "method.temperature=2"]
        method = overridden(CLASSROOM, *(overrides[i] for i in order)).method
        assert (method.name, method.options) == ("kd", {"temperature": 2})


def test_another_optimizer_schedule_data_set_or_view():
    raw = SINGLE_PROCESS | {
        "data": {"name": "cifar100", "dev": 0.3, "path": "runs", "augment": [{"name": "flip"}]},
        "train": {"optimizer": {"momentum": 0.5}, "schedule": {"name": "step", "gamma": 0.2}},
    }
    train = overridden(raw, "train.optimizer.name=adamw", "train.schedule.name=cosine").train
    assert (train.optimizer.name, train.optimizer.lr, train.schedule.name) == (
        "adamw", 1e-3, "cosine",
    )  # fmt: skip
    data = overridden(raw, "data.name=digits").data
    assert (data.dev, data.path, data.augment[0].name) == (0.3, None, "crop")
    raw["data"]["augment"] = [{"name": "crop", "padding": 2}]
    assert overridden(raw, "data.augment.0.name=flip").data.augment[0].options == {}


@pytest.mark.parametrize(
    ("override", "mistake"),
    [
        ("train.epochs", "train.epochs: an override looks like train.epochs=20"),
        ("=3", "=3: an override looks like train.epochs=20"),
        ("train.epochs=[1", "train.epochs: the value is not valid YAML"),
        ("train.epochs=abc", "train.epochs: Input should be a valid integer"),
        ("train.epochs=", "train.epochs: Input should be a valid integer, got None"),
        ("train.epochs.more=3", "train.epochs.more: there is no such place"),
        ("train.epochs.more.still=3", "train.epochs.more: there is no such place"),
        ("student.model={name: resnet8}", "student.model: Input should be a valid string"),
        ("train=5", "train: must be a mapping"),
        ("mentors.1.role=peer", "mentors.1: there is no such place"),
        ("mentors.7=peer", "mentors.7: there is no such place"),
        ("mentors.²=peer", "mentors.²: there is no such place"),
        ("mentors.-1.role=peer", "mentors.-1: there is no such place"),
        ("mentors.role=peer", "mentors.role: there is no such place"),
        ("trian.epochs=3", "trian: unknown key: did you mean 'train'?"),
        ("train.optimizr.lr=3", "train.optimizr: unknown key: did you mean 'optimizer'?"),
        ("train..lr=3", "train.: unknown key"),
        ("base=other.yaml", "base: unknown key"),
    ],
)
def test_overrides_that_cannot_be(override, mistake):
    raw = SINGLE_PROCESS | {"mentors": [PEER], "train": {"epochs": 3}}
    (line,) = mistakes_of(load_recipe, write(raw), [override])
    assert line.startswith(mistake)


# Base


def test_base_comes_first():
    below = CLASSROOM | {"name": "below", "train": {"epochs": 7, "optimizer": {"momentum": 0.5}}}
    write(below, "bases/below.yaml")
    above = write(
        {"base": "below.yaml", "train": {"optimizer": {"lr": 0.3}}, "method": {"temperature": 3}},
        "bases/above.yaml",
    )
    recipe = load_recipe(above, ["train.epochs=8"])
    assert recipe.train.epochs == 8
    assert (recipe.train.optimizer.lr, recipe.train.optimizer.momentum) == (0.3, 0.5)
    assert recipe.method.options == {"group": "batch", "temperature": 3}
    assert recipe.mentors[0].model == "vgg8"
    assert recipe.name == "above", "or it would write into the folder of below's run"


@pytest.mark.parametrize("method", [{"name": "classroom", "group": "batch"}, {"group": "batch"}])
def test_base_with_another_method(method):
    write(CLASSROOM | {"method": method, "data": {"dev": 0.3, "path": "runs"}}, "below.yaml")
    above = {"base": "below.yaml", "method": {"name": "kd"}, "data": {"name": "digits"}}
    recipe = load_recipe(write(above))
    assert (recipe.method.name, recipe.method.options) == ("kd", {})
    assert (recipe.data.name, recipe.data.dev, recipe.data.path) == ("digits", 0.3, None)


def test_lists_of_base_are_replaced():
    write(CLASSROOM | {"mentors": [PEER] * 3}, "below.yaml")
    mentors = [{"run": "runs/teacher"}]
    recipe = load_recipe(write({"base": "below.yaml", "mentors": mentors}))
    assert [mentor.model for mentor in recipe.mentors] == [None]


def test_base_that_cannot_be():
    write(SINGLE_PROCESS, "below.yaml")
    (line,) = mistakes_of(load_recipe, write({"base": "blow.yaml"}, "a.yaml"))
    assert line.startswith("base: no such file: blow.yaml: did you mean 'below.yaml'?")
    write({"base": "below.yaml"}, "middle.yaml")
    (line,) = mistakes_of(load_recipe, write({"base": "middle.yaml"}, "a.yaml"))
    assert line.startswith("base: middle.yaml has a base itself")
    for bad in (None, 3, ["below.yaml"]):
        (line,) = mistakes_of(load_recipe, write({"base": bad}, "a.yaml"))
        assert line.startswith("base: ")


# Files


def test_round_trip():
    raw = CLASSROOM | {
        "name": "trip: ü",
        "mentors": [
            PEER | {"mean": [0.5, 0.4, 0.3], "std": [0.1] * 3, "classes": ["on", "1"], "name": "a"},
            {"run": "runs/teacher", "role": "teacher"},
        ],
        "data": {"augment": [{"name": "crop", "padding": 3}]},
        "train": {"schedule": {"name": "step", "milestones": [1, 2]}, "ema": 0.9},
    }
    recipe = parse_recipe(raw)
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert load_recipe(write(recipe.to_yaml())).to_yaml() == recipe.to_yaml()


def test_defaults_round_trip():
    recipe = parse_recipe(SINGLE_PROCESS)
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert isinstance(recipe, Recipe)


def test_the_name_of_a_file_is_the_recipes():
    raw = {key: value for key, value in SINGLE_PROCESS.items() if key != "name"}
    assert load_recipe(write(raw, "deep/my-run.yaml")).name == "my-run"


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (b"", "a recipe is a mapping"),
        (b"# nothing but a remark\n", "a recipe is a mapping"),
        (b"- a\n- b\n", "a recipe is a mapping"),
        (b"resnet8", "a recipe is a mapping"),
        (b"name: [x", "not valid YAML"),
        (b"name: !!python/object:os.system x", "not valid YAML"),
        (b"name: \xff\xfe", "cannot be read as text (UTF-8)"),
        (b"name: \x00", "not valid YAML"),
    ],
)
def test_files_that_are_no_recipes(content, mistake):
    Path("bad.yaml").write_bytes(content)
    (line,) = mistakes_of(load_recipe, "bad.yaml")
    assert line.startswith(mistake)
    write({"base": "bad.yaml"})
    (line,) = mistakes_of(load_recipe, "recipe.yaml")
    assert line.startswith(mistake)


def test_recipes_that_are_not_there():
    write(SINGLE_PROCESS, "mine.yaml")
    (line,) = mistakes_of(load_recipe, "mime.yaml")
    assert line == "no such file: did you mean 'mine.yaml'?"
    for name, path in list_recipes().items():
        assert find_recipe(name) == path
        (line,) = mistakes_of(load_recipe, f"{name}x")
        assert line.startswith(f"unknown recipe '{name}x': did you mean '{name}'?")


def test_sections_left_blank_are_named():
    (line,) = mistakes_of(
        load_recipe, write("student: {model: vgg8}\nmethod: {name: none}\ntrain:")
    )
    assert line.startswith("train: ")


@pytest.mark.parametrize("name", list_recipes())
def test_packaged_recipes_load(name):
    """With stand-ins for the files and runs that they name."""
    path = list_recipes()[name]
    texts = [yaml.safe_load(path.read_text(encoding="utf-8"))]
    if "base" in texts[0]:
        base = path.parent / texts[0]["base"]
        texts.append(yaml.safe_load(base.read_text(encoding="utf-8")))
    for raw in texts:
        for entry in [raw.get("student", {}), raw.get("data", {}), *raw.get("mentors", [])]:
            if "run" in entry and not Path(entry["run"]).exists():
                finished_run(Path(entry["run"]))
            for key in ("checkpoint", "path"):
                if key in entry:
                    Path(entry[key]).parent.mkdir(parents=True, exist_ok=True)
                    Path(entry[key]).touch()
    recipe = load_recipe(name)
    assert load_recipe(write(recipe.to_yaml())) == recipe
    assert path.read_text(encoding="utf-8").startswith("#"), "say what it is for"


def test_all_that_does_not_go_together_is_told_at_once(tmp_path, monkeypatch):
    from classroomkd.methods import method_class

    monkeypatch.setattr(method_class("fitnets"), "soft_targets", False)
    raw = SINGLE_PROCESS | {
        "data": {"name": "digits", "mix": {"mixup": 0.2}, "copies": 2},
        "mentors": [{"model": "resnet8", "train": True, "role": "teacher"}],
        "method": {"name": "fitnets"},
        "train": {"mentor_placement": "shard"},
        "bank": {"path": str(tmp_path)},
    }
    with pytest.raises(RecipeError) as caught:
        parse_recipe(raw)
    starts = [mistake.split(":")[0] for mistake in caught.value.mistakes]
    assert starts == [
        "mentors[0].train", "data.mix", "train.mentor_placement", "method", "data.copies",
    ]  # fmt: skip


def test_a_key_that_is_given_twice_is_a_mistake(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("data: {name: digits}\nstudent: {model: vgg8}\ndata: {name: cifar10}\n")
    with pytest.raises(RecipeError, match="'data' is given twice") as caught:
        load_recipe(file)
    assert "line 3, column 1" in str(caught.value)


def test_merged_keys_are_no_repetition(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(
        "data: {name: digits}\nmethod: {name: none}\n"
        "train: {optimizer: &o {name: sgd, lr: 0.1}, schedule: &s {name: onecycle}}\n"
        "student: {model: vgg8}\n"
    )
    load_recipe(file)
    file.write_text("a: {b: &x {k: 1}}\nc: {d: &y {<<: *x, k: 2}}\ne: {<<: *y, k: 3}\n")
    assert read_yaml(file)["e"] == {"k": 3}
    assert read_yaml(file)["c"]["d"] == {"k": 2}


@pytest.mark.parametrize(
    ("changes", "mistake"),
    [
        ({"name": "a/b"}, "name: its folder is runs/<name>: give a name without / or"),
        ({"name": ".."}, "name: its folder is runs/<name>"),
        ({"student": "vgg8"}, "student: must be a mapping such as {model: resnet20}, got 'vgg8'"),
        ({"bank": 3}, "bank: must be a mapping such as {path: runs/bank}, got 3"),
        ({"mentors": 5}, "mentors: must be a list such as [{run: runs/teacher, role: teacher}]"),
        ({"method": {"name": "kd"}}, "a student alone is trained with method.name=none"),
    ],
)
def test_mistakes_show_what_was_meant(changes, mistake):
    with pytest.raises(RecipeError) as caught:
        parse_recipe({"name": "x", "student": {"model": "vgg8"}, **changes})
    assert any(mistake in line for line in caught.value.mistakes)


def test_a_mentor_s_pixels_go_from_0_to_1(tmp_path):
    (tmp_path / "w.pt").touch()
    mentor = {"checkpoint": str(tmp_path / "w.pt"), "model": "vgg8", "mean": [123, 116, 103]}
    with pytest.raises(RecipeError, match=r"mentors\[0\].mean: must be that of pixels from 0 to 1"):
        parse_recipe({"name": "x", "student": {"model": "vgg8"}, "mentors": [mentor]})


def test_a_relative_path_is_told_with_where_it_was_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(
            {"name": "x", "student": {"model": "vgg8"}, "data": {"name": "folder", "path": "none"}}
        )
    assert f"data.path: no such file or folder: none (in the current folder, {tmp_path})" in str(
        caught.value
    )


def test_a_recipe_is_written_as_it_reads():
    recipe = parse_recipe(
        {"name": "Äpfel", "student": {"model": "vgg8"}, "method": {"name": "none"}}
    )
    assert "name: Äpfel" in recipe.to_yaml()


def test_what_of_the_training_set_is_learnt_from():
    def mistake(**data):
        return the_mistake({**SINGLE_PROCESS, "data": data})

    assert mistake(noise={"rate": 1.4}).startswith("data.noise.rate: ")
    assert mistake(noise={"rat": 0.4, "rate": 0.1}) == (
        "data.noise.rat: unknown key: did you mean 'rate'? (known: rate, classes, seed)"
    )
    assert mistake(noise=0.4) == "data.noise: must be a mapping such as {rate: 0.4}, got 0.4"
    assert mistake(fraction=0).startswith("data.fraction: ")
    assert mistake(train_classes=[]).startswith("data.train_classes: is empty: ")
    for wrong in (-1, 1.5, True, [3]):
        assert mistake(train_classes=[0, wrong]) == (
            "data.train_classes: must be names of classes, numbers from 0, or ranges such as 0-49,"
            f" got {wrong!r}"
        )
    assert mistake(train_classes="49-0") == (
        "data.train_classes: ranges go up, as in 0-49, not 49-0"
    )
    recipe = parse_recipe(
        {
            **SINGLE_PROCESS,
            "data": {"train_classes": "0-49", "noise": {"rate": 0.4, "classes": [3, "apple"]}},
        }
    )
    assert recipe.data.train_classes == ("0-49",)
    assert recipe.data.noise.classes == (3, "apple")
    assert parse_recipe(yaml.safe_load(recipe.to_yaml())) == recipe
    assert parse_recipe({**SINGLE_PROCESS, "data": {"train_classes": 7}}).data.train_classes == (7,)
