"""The search of a suite: its list, its rungs and budget, what it chooses, and what it refuses."""

import csv
import json
import shutil

import pytest
import yaml

from classroomkd.config import load_recipe
from classroomkd.config.search import RunSearch, Search, shortened
from classroomkd.config.suite import list_suites, load_suite
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.suite import search as searching
from classroomkd.suite.comparison import compare
from classroomkd.suite.runner import changed_runs, foresee, run_suite
from classroomkd.suite.search import SearchTrial, options_of, trials_of
from classroomkd.suite.tables import to_markdown
from classroomkd.tasks.classification.task import Classification

LR = {"train.optimizer.lr": [0.001, 0.02, 0.05, 0.1]}
SEARCH = {"options": LR, "epochs": [1, 2], "keep": 0.5}


@pytest.fixture
def write(tmp_path):
    """Write a suite with a search on digits: a function from its runs and changes to its file."""

    def make(runs=None, **changes):
        raw = {
            "base": "digits-mentor",
            "set": ["student.model=resnet8", "train.epochs=1", "train.batch_size=256"],
            "baseline": "alone",
            "search": SEARCH,
            "runs": {"alone": {}} if runs is None else runs,
        }
        path = tmp_path / "suite.yaml"
        path.write_text(yaml.safe_dump(raw | changes, sort_keys=False))
        return path

    return make


def mistakes_of(path):
    with pytest.raises(RecipeError) as caught:
        load_suite(path)
    return caught.value.mistakes


def quiet(_):
    pass


def fake(trial, dev):
    """A finished trial with this result, as far as a search looks at it."""
    trial.folder.mkdir(parents=True, exist_ok=True)
    summary = {"headline": "top1", "best": {"dev_top1": dev}}
    (trial.folder / "summary.json").write_text(json.dumps(summary))


def test_rungs_and_their_budget():
    options = {"method.weight": [0.3, 1, 3], "method.task_weight": [0.1, 1]}
    search = Search(options=options, epochs=[1, 3, 9], keep=0.5)
    assert (search.sizes, search.budget) == ((6, 3, 2), 6 + 9 + 18)
    assert str(search) == "6 of 1 epoch, then 3 of 3 epochs, then 2 of 9 epochs: 33 epochs"
    assert RunSearch().candidates(search)[:3] == [
        ("method.weight=0.3", "method.task_weight=0.1"),
        ("method.weight=0.3", "method.task_weight=1"),
        ("method.weight=1", "method.task_weight=0.1"),
    ]
    pairs = [{"method.weight": w, "method.task_weight": 1 - w} for w in (0.25, 0.75)]
    search = Search(options=pairs, epochs=[2])
    assert (search.sizes, search.budget) == ((2,), 4)
    renamed = RunSearch(rename={"method.weight": "method.alpha"})
    assert renamed.candidates(search)[1] == ("method.alpha=0.75", "method.task_weight=0.25")
    assert renamed.keys(search) == ["method.alpha", "method.task_weight"]


def test_all_that_is_counted_in_epochs_is_shortened_alike():
    changes = [
        "train.epochs=240", "train.schedule={name: step, milestones: [150, 180], warmup_epochs: 5}",
        "mentors=[{model: resnet8, train: false, checkpoint: x}]",
    ]  # fmt: skip
    recipe = load_recipe("digits-mentor", changes[:2])
    short = load_recipe("digits-mentor", [*changes[:2], *shortened(recipe, 12)])
    assert short.train.epochs == 12
    assert short.train.schedule.milestones == pytest.approx((7.5, 9.0))
    assert short.train.schedule.warmup_epochs == pytest.approx(0.25)
    recipe = load_recipe("digits-mentor", ["train.epochs=8", "train.snapshots=[2, 8]"])
    assert shortened(recipe, 1) == ("train.snapshots=null", "train.epochs=1")
    peers = "mentors=[{model: resnet8, train: true}]"
    dkd = ["method.name=dkd", "mentors=[{model: timm/resnet18.a1_in1k, pretrained: true}]"]
    recipe = load_recipe("digits-mentor", ["train.epochs=240", *dkd])
    assert "method.warmup_epochs=1.0" in shortened(recipe, 12)  # of 20, its default
    recipe = load_recipe("digits-mentor", ["method.name=dml", peers])
    assert shortened(recipe, 1) == ("train.epochs=1",)


def test_each_rung_takes_the_best_of_the_one_before_on_the_development_split(write, tmp_path):
    suite = load_suite(write())
    first, second = suite.rungs("alone", tmp_path)
    assert [trial.folder.name for trial in second] == ["alone-rung2-1", "alone-rung2-2"]
    with pytest.raises(ClassroomError, match="no finished trial"):
        options_of(second[0])
    for trial, dev in zip(first, (30.0, None, 50.0, 50.0), strict=True):
        fake(trial, dev)
    # The second has no result, and equals stand in the list's order.
    lr = "train.optimizer.lr={}".format
    assert [options_of(trial) for trial in second] == [(lr(0.05),), (lr(0.1),)]
    fake(second[0], 40.0)
    fake(second[1], 41.0)
    *_, run = suite.planned(tmp_path)
    assert (run.name, run.seed, options_of(run)) == ("alone", 0, (lr(0.1),))
    assert trials_of(suite, tmp_path)[2:] == [
        SearchTrial("alone", 1, 1, (lr(0.05),), 50.0, True),
        SearchTrial("alone", 1, 1, (lr(0.1),), 50.0, True),
        SearchTrial("alone", 2, 2, (lr(0.05),), 40.0, False),
        SearchTrial("alone", 2, 2, (lr(0.1),), 41.0, True),
    ]


def test_a_search_from_end_to_end(write, tmp_path, monkeypatch):
    runs = {
        "teacher": {"search": False},
        "alone": {"search": {"options": {"train.clip": [1, 5, 10, 20]}}, "seeds": [0, 1]},
    }
    suite, out, said = load_suite(write(runs)), tmp_path / "out", []
    tested, real = [], Classification.test_set
    monkeypatch.setattr(
        Classification, "test_set", lambda task: tested.append(said[-1]) or real(task)
    )
    assert run_suite(suite, out, say=said.append) == {}
    assert said[1].endswith("search of alone: 4 of 1 epoch, then 2 of 2 epochs: 8 epochs each") or (
        "search of alone: 4 of 1 epoch, then 2 of 2 epochs: 8 epochs each" in said[0]
    )
    assert [line.split(":")[0] for line in tested] == ["teacher-s0", "alone-s0", "alone-s1"]
    trials = trials_of(suite, out)
    assert [trial.epochs for trial in trials] == [1] * 4 + [2] * 2
    best = sorted(trials[:4], key=lambda trial: -trial.dev)[:2]
    assert [trial.options for trial in trials[4:]] == [trial.options for trial in best]
    winner = max(trials[4:], key=lambda trial: trial.dev)
    for seed in (0, 1):
        recipe = yaml.safe_load((out / f"alone-s{seed}" / "recipe.yaml").read_text())
        assert (f"train.clip={recipe['train']['clip']:g}",) == winner.options
        assert (recipe["seed"], recipe["train"]["epochs"]) == (seed, 1)
    for trial in (out / "search").iterdir():
        recipe = yaml.safe_load((trial / "recipe.yaml").read_text())
        assert (recipe["seed"], recipe["train"]["test"]) == (100, False)
    rows = list(csv.DictReader((out / "search.csv").read_text().splitlines()))
    assert [
        (row["run"], row["options"], float(row["dev"]), row["kept"] == "yes") for row in rows
    ] == [(trial.run, *trial.options, trial.dev, trial.kept) for trial in trials]
    text = to_markdown(suite, compare(suite, out), trials)
    assert f"| alone | 2 | 2 | {winner.options[0]} | {winner.dev:.2f} | kept |" in text
    before = {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")}
    assert run_suite(suite, out, say=quiet) == {}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("summary.json")} == before


def test_a_search_goes_on_where_it_was_cut_and_with_longer_lists(write, tmp_path):
    def cut(line):
        if line.startswith("alone-rung1-3 begins"):
            raise KeyboardInterrupt

    suite, out = load_suite(write()), tmp_path / "out"
    with pytest.raises(ClassroomError, match="same command goes on"):
        run_suite(suite, out, say=cut)
    said = []
    assert run_suite(suite, out, say=said.append) == {}
    begun = [line.split()[0] for line in said if " begins" in line]
    assert begun == ["alone-rung1-3", "alone-rung1-4", "alone-rung2-1", "alone-rung2-2", "alone-s0"]
    # A fifth candidate that wins takes the place of what was chosen without it.
    longer = SEARCH | {"options": {"train.optimizer.lr": [0.001, 0.02, 0.05, 0.1, 0.07]}}
    suite = load_suite(write(search=longer))
    fifth = suite.rungs("alone", out)[0][4]
    shutil.copytree(out / "search" / "alone-rung1-4", fifth.folder)
    run_fifth(suite, fifth, out)
    assert "alone-rung2-1" in changed_runs(suite, out)
    with pytest.raises(ClassroomError, match=r"alone-rung2-1.*--overwrite"):
        run_suite(suite, out, say=quiet)


def run_fifth(suite, trial, out):
    """Make the trial the best of its rung, as if it had been trained."""
    from classroomkd.suite.search import resolved

    (trial.folder / "recipe.yaml").write_text(resolved(trial).recipe().to_yaml())
    summary = json.loads((trial.folder / "summary.json").read_text())
    summary["best"]["dev_top1"] = 99.0
    (trial.folder / "summary.json").write_text(json.dumps(summary))


def test_a_search_that_chooses_anew_meanwhile_replaces_nothing_unasked(write, tmp_path):
    suite, out = load_suite(write()), tmp_path / "out"
    run_suite(suite, out, say=quiet)
    first, second = suite.rungs("alone", out)
    lost = searching.ranked(first)[0]
    shutil.rmtree(lost.folder)  # it has to be trained again, and fails: another takes its place
    failures = run_suite(suite, out, say=stop(lost.folder.name))
    assert failures[lost.folder.name] == "RuntimeError: the disk is gone"
    assert "--overwrite" in failures["alone-rung2-1"]
    assert failures["alone-s0"].startswith("not begun, as alone-rung2")
    failures = run_suite(suite, out, overwrite=True, say=stop(lost.folder.name))
    assert list(failures) == [lost.folder.name]
    assert changed_runs(suite, out) == []


def stop(name):
    """Say nothing, but fail in the run of this name."""

    def say(line):
        if line.startswith(f"{name}: "):
            raise RuntimeError("the disk is gone")

    return say


def test_a_trial_that_fails_is_out_and_the_rest_go_on(write, tmp_path):
    options = {"train.optimizer.lr": [1.0e30, 0.05, 0.02]}
    search = {"options": options, "epochs": [1]}
    suite, out = load_suite(write(search=search)), tmp_path / "out"
    failures = run_suite(suite, out, say=quiet)
    assert list(failures) == ["alone-rung1-1"]
    assert failures["alone-rung1-1"].startswith("epoch 1: the loss is no longer finite")
    trials = trials_of(suite, out)
    assert (trials[0].dev, trials[0].kept) == (None, False)
    assert (out / "alone-s0" / "summary.json").exists()
    assert "train.optimizer.lr=1.0e+30 | – |" in to_markdown(suite, compare(suite, out), trials)
    hopeless = search | {"options": {"train.optimizer.lr": [1.0e30, 1.0e31]}}
    failures = run_suite(load_suite(write(search=hopeless)), tmp_path / "other", say=quiet)
    assert failures["alone-s0"].startswith("no finished trial of its search is left")


def test_trials_side_by_side(write, tmp_path, monkeypatch):
    import classroomkd.suite.runner as module

    def train_apart(run, state, say):
        lr = next(float(o.split("=")[1]) for o in run.overrides if "optimizer.lr" in o)
        said.append(f"{run.folder.name} ends")
        fake(run, 100 * lr)
        (run.folder / "recipe.yaml").write_text(run.recipe().to_yaml())
        (run.folder / "environment.json").write_text("{}")
        return ""

    def fake(run, dev):
        run.folder.mkdir(parents=True)
        scores = {"epoch": 0, "dev_top1": dev, "test_top1": dev}
        summary = {"student": "resnet8", "method": "none", "last": scores, "best": scores}
        (run.folder / "summary.json").write_text(json.dumps(summary))

    said = []
    monkeypatch.setattr(module, "_train_apart", train_apart)
    suite, out = load_suite(write()), tmp_path / "out"
    assert run_suite(suite, out, jobs=3, say=said.append) == {}
    order = [line.split(" (")[0] for line in said]
    begins = [order.index(f"alone-{name} begins") for name in ("rung2-1", "rung2-2", "s0")]
    assert begins == sorted(begins)
    assert all(order.index(f"alone-rung1-{place} ends") < begins[0] for place in (1, 2, 3, 4))
    assert order.index("alone-rung2-2 ends") < begins[2]
    recipe = yaml.safe_load((out / "alone-s0" / "recipe.yaml").read_text())
    assert recipe["train"]["optimizer"]["lr"] == 0.1


def test_the_commands_of_a_search_are_foreseen(write, tmp_path):
    lines = foresee(load_suite(write()), tmp_path / "out")
    assert lines[-1] == "   9 epochs in all"
    assert lines[1].endswith("seed=100 train.optimizer.lr=0.001 train.epochs=1 train.test=false")
    assert "'<options of alone-rung1, place 2>' train.epochs=2" in lines[11]
    assert lines[13].endswith("seed=0 '<options of alone-rung2, place 1>'")


def test_epochs_before_the_run_are_foreseen_and_shortened(write, tmp_path):
    mentor = "mentors=[{model: resnet8, train: false, checkpoint: weights.pt}]"
    (tmp_path / "weights.pt").touch()
    ab = ["method.name=ab", "method.init_epochs=4", "train.epochs=8"]
    runs = {"alone": {"set": [*ab, mentor.replace("weights.pt", str(tmp_path / "weights.pt"))]}}
    lines = foresee(load_suite(write(runs)), tmp_path / "out")
    # 4 trials of 1 + 1 epochs (a half is made one), 2 of 2 + 1, and a run of 8 + 4.
    assert lines[-1] == "  26 epochs in all"
    assert "method.init_epochs=1" in lines[1]


MENTOR = "mentors=[{run: '{teacher}', role: teacher}]"
WEIGHTS = {"options": {"method.weight": [1, 2], "method.task_weight": [0.1, 1]}, "epochs": [1]}
TAUGHT = {
    "teacher": {"search": False},
    "alone": {"search": False},
    "kd": {"set": ["method.name=kd", MENTOR]},
}


def test_a_method_without_an_option_is_told_before_anything_runs(write):
    runs = TAUGHT | {"at": {"set": ["method.name=at", MENTOR]}}
    (mistake,) = mistakes_of(write(runs, search=WEIGHTS))
    assert mistake.startswith("runs.at: search: method.task_weight: unknown option of at")
    assert "rename" in mistake
    own = {"options": {"method.weight": [1, 10, 100, 1000]}}
    runs["at"] = runs["at"] | {"search": own}
    assert load_suite(write(runs, search=WEIGHTS)).rungs("at", write().parent)[0][3].candidate == (
        "method.weight=1000",
    )


def test_an_option_may_have_another_name(write, tmp_path):
    runs = TAUGHT | {"kd": TAUGHT["kd"] | {"search": {"rename": {"method.loud": "method.weight"}}}}
    search = {"options": {"method.loud": [1, 2]}, "epochs": [1]}
    suite = load_suite(write(runs, search=search))
    assert [trial.candidate for trial in suite.rungs("kd", tmp_path)[0]] == [
        ("method.weight=1",), ("method.weight=2",)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("search", "run", "expected"),
    [
        ({"epochs": [2, 1]}, {}, "search: epochs: each rung must be longer"),
        ({"keep": 0.2}, {}, "search: keep: 0.2 of 4 candidates leaves one for the last rung"),
        ({"option": {}}, {}, "search.option: unknown key: did you mean 'options'?"),
        ({"options": {"seed": [1]}}, {}, "search.options: seed: seeds come from"),
        ({"options": {"data.dev": [0.1]}}, {}, "search.options: data.dev: candidates are"),
        ({"options": {"train.clip": 1}}, {}, "search.options: train.clip: give a list"),
        ({"options": []}, {}, "search.options: give a mapping of options"),
        ({"options": [[1]]}, {}, "search.options: a candidate is a mapping"),
        ({"seed": 0}, {}, "runs.alone.search: seed 0 is the search's own"),
        ({}, {"options": {"train.clip": [1, 2]}}, "runs.alone.search: 2 candidates, but 4"),
        ({}, {"rename": {"method.w": "method.v"}}, "runs.alone.search: rename: unknown option"),
        ({}, {"renam": {}}, "runs.alone.search.renam: unknown key: did you mean 'rename'?"),
        ({}, {"rename": {}, "options": LR}, None),
        ({}, {"rename": {"a": "b"}, "options": LR}, "runs.alone.search: give rename or options"),
    ],
)
def test_mistakes_in_a_search(write, search, run, expected):
    path = write({"alone": {"search": run}}, search=SEARCH | search)
    if expected is None:
        load_suite(path)
        return
    (mistake, *_) = mistakes_of(path)
    assert mistake.startswith(expected)


def test_a_search_needs_a_development_split_and_a_run_a_search(write):
    (mistake,) = mistakes_of(write({"alone": {"set": ["data.dev=0"]}}))
    assert mistake.startswith("runs.alone: search: candidates are compared on the development")
    (mistake,) = mistakes_of(write({"alone": {"search": {"options": LR}}}, search=None))
    assert mistake.endswith("runs.alone.search: the suite has no search")


def test_the_chain_of_takd_searches_each_step(tmp_path):
    suite = load_suite(list_suites()["takd"])
    assert [name for name in suite.runs if not suite.rungs(name, tmp_path)] == ["teacher", "alone"]
    trials = suite.rungs("takd", tmp_path)[0]
    assert [need.name for need in trials[0].needs] == ["assistant-small-s0"]
    steps = {tuple(t.candidate for t in suite.rungs(n, tmp_path)[0]) for n in ("assistant", "takd")}
    assert len(steps) == 1
