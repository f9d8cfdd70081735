"""Suites: what is run, kept, gone on with and refused; mistakes; the table."""

import csv
import json
from pathlib import Path

import pytest
import yaml

from classroomkd.config.suite import list_suites, load_suite
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.statistics import paired_difference
from classroomkd.suite.comparison import compare
from classroomkd.suite.runner import changed_runs, foresee, run_suite
from classroomkd.suite.tables import cells, to_json, to_markdown, to_table

MENTOR = "mentors=[{run: '{teacher}', role: teacher}]"
TEACHER = {"set": ["student.model=resnet14"], "seeds": [0]}
KD = {"set": ["method.name=kd", MENTOR]}


@pytest.fixture
def write(tmp_path):
    """Write a suite of one-epoch runs on digits: a function from runs and changes to its file."""

    def make(runs, *, file="suite.yaml", **changes):
        quick = ["student.model=resnet8", "train.epochs=1", "train.batch_size=256"]
        raw = {
            "base": "digits-mentor",
            "set": quick,
            "baseline": next(iter(runs), ""),
            "runs": runs,
        }
        path = tmp_path / file
        path.write_text(yaml.safe_dump(raw | changes, sort_keys=False))
        return path

    return make


def mistakes_of(path, *overrides, **options):
    with pytest.raises(RecipeError) as caught:
        load_suite(path, overrides, **options)
    return caught.value.mistakes


def stamps(out):
    """When each run of a folder was finished."""
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob("*/summary.json")}


def quiet(_):
    pass


def test_a_run_may_refer_to_snapshots_of_another(write):
    teacher = {"set": [*TEACHER["set"], "train.snapshots=[1]"], "seeds": [0]}

    def student(epoch):
        entry = f"{{run: '{{teacher}}', epoch: {epoch}}}"
        return {"set": ["method.name=kd", f"mentors=[{entry}]"], "seeds": [3]}

    suite = load_suite(write({"teacher": teacher, "kd": student(1)}))
    assert suite.overrides_of("kd")[-1] == "mentors=[{run: '{teacher}', epoch: 1}]"
    (mistake,) = mistakes_of(write({"teacher": teacher, "kd": student(2)}))
    assert "teacher-s0 has no snapshot of epoch 2 (it has: 1)" in mistake


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The package's suite of digits, run once: its file as loaded, its folder, what was said."""
    suite, out, said = load_suite("digits"), tmp_path_factory.mktemp("digits"), []
    assert run_suite(suite, out, say=said.append) == {}
    return suite, out, said


def test_runs_go_in_order_into_folders_of_their_seeds(digits):
    suite, out, said = digits
    begun = [line.split()[0] for line in said if line.endswith("begins")]
    assert begun == ["teacher-s0", "peer-s7"] + [
        f"{name}-s{seed}" for name in ("alone", "kd", "aver", "classroom") for seed in (0, 1)
    ]
    assert sorted(stamps(out)) == sorted(begun)
    recipe = yaml.safe_load((out / "kd-s1" / "recipe.yaml").read_text())
    assert (recipe["name"], recipe["seed"], recipe["method"]["name"]) == ("kd-s1", 1, "kd")
    assert [mentor["run"] for mentor in recipe["mentors"]] == [
        str(out / "teacher-s0"), str(out / "peer-s7")
    ]  # fmt: skip


def test_the_table_is_that_of_the_run_folders(digits):
    suite, out, _ = digits
    rows = {row.run: row for row in compare(suite, out)}
    assert list(rows) == list(suite.runs)

    def top1(name, which):
        folders = [out / f"{name}-s{seed}" for seed in (0, 1)]
        return [json.loads((f / "summary.json").read_text())[which]["test_top1"] for f in folders]

    for name in ("alone", "kd", "aver", "classroom"):
        assert rows[name].seeds == (0, 1)
        assert list(rows[name].last.values) == top1(name, "last")
        assert list(rows[name].chosen.values) == top1(name, "best")
    for name in ("kd", "aver", "classroom"):
        expected = paired_difference(top1(name, "best"), top1("alone", "best"))
        assert list(rows[name].against) == ["alone"]
        assert rows[name].against["alone"].difference == expected
        assert expected.interval is not None
    assert rows["alone"].against == {}
    assert rows["teacher"].against == {}  # another network
    assert rows["peer"].against == {}  # another seed
    assert (rows["alone"].active, rows["kd"].active, rows["aver"].active) == (None, None, 1.0)
    lines = (out / "classroom-s0" / "classroom.csv").read_text().splitlines()
    other = (out / "classroom-s1" / "classroom.csv").read_text().splitlines()
    place = lines[0].split(",").index("active_share")
    shares = [float(line.split(",")[place]) for line in lines[-2:] + other[-2:]]
    assert rows["classroom"].active == pytest.approx(sum(shares) / 4)


def test_the_table_in_markdown_json_and_the_terminal(digits):
    from rich.console import Console

    suite, out, _ = digits
    rows = compare(suite, out)
    plain = json.loads(json.dumps(to_json(suite, rows)))
    assert (plain["suite"], plain["baseline"]) == ("digits", "alone")
    kd = plain["runs"][3]
    assert (kd["run"], kd["student"], kd["method"], kd["seeds"]) == ("kd", "resnet8", "kd", [0, 1])
    (beside,) = kd["against"]
    low, high = beside["interval"]
    assert (beside["against"], beside["pairs"]) == ("alone", 2)
    assert low < beside["difference"] < high
    assert kd["chosen"]["spread"] == rows[3].chosen.spread
    head, _, *lines = to_markdown(suite, rows).split("\n\n")[0].splitlines()
    assert head.count("|") == lines[3].count("|") == 10
    best = max(range(1, 6), key=lambda place: rows[place].chosen.mean)
    assert [row.best for row in rows] == [place == best for place in range(6)]
    for row, line in zip(rows, lines, strict=True):
        chosen = f"**{row.chosen}**" if row.best else str(row.chosen)
        assert line.split(" | ")[4:6] == [str(row.last), chosen]
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(to_table(suite, rows))
    text = console.export_text()
    console.file.close()
    assert str(rows[3].chosen) in text
    assert max(map(len, text.splitlines())) <= 80


def test_finished_runs_are_kept(digits):
    suite, out, _ = digits
    before, said = stamps(out), []
    assert run_suite(suite, out, say=said.append) == {}
    assert stamps(out) == before
    assert said == [f"10 runs, 10 of them done already, in {out}"]


def test_a_changed_recipe_is_refused_and_replaced_if_asked(write, tmp_path):
    runs = {"alone": {}, "teacher": TEACHER, "kd": KD}
    out = tmp_path / "out"
    run_suite(load_suite(write(runs)), out, say=quiet)
    before = stamps(out)
    changed = load_suite(write(runs | {"teacher": {"set": ["student.model=vgg8"]}}))
    with pytest.raises(ClassroomError, match=r"teacher-s0, .*kd-s0\. Replace .*--overwrite"):
        run_suite(changed, out, say=quiet)  # kd as well: it learnt from that teacher
    with pytest.raises(ClassroomError, match=r"kd-s0 needs teacher-s0.*--only teacher"):
        run_suite(changed, out, only=["kd"], overwrite=True, say=quiet)
    assert stamps(out) == before
    assert run_suite(changed, out, overwrite=True, say=quiet) == {}
    after = stamps(out)
    assert {name for name in after if after[name] != before[name]} == {"teacher-s0", "kd-s0"}


def test_runs_are_the_same_however_the_paths_to_their_mentors_are_written(
    write, tmp_path, monkeypatch
):
    suite, said = load_suite(write({"teacher": TEACHER, "kd": KD})), []
    run_suite(suite, tmp_path / "out", say=quiet)
    monkeypatch.chdir(tmp_path)
    assert run_suite(suite, Path("out"), say=said.append) == {}
    assert said == ["2 runs, 2 of them done already, in out"]
    assert changed_runs(suite, Path("out")) == []
    hotter = KD["set"] + ["method.temperature=3"]
    changed = load_suite(write({"teacher": TEACHER, "kd": {"set": hotter}}))
    assert changed_runs(changed, Path("out")) == ["kd-s0"]


def test_a_student_is_stale_once_its_mentor_was_trained_again(write, tmp_path):
    suite, out = load_suite(write({"teacher": TEACHER, "kd": KD})), tmp_path / "out"
    run_suite(suite, out, say=quiet)
    place = out / "teacher-s0" / "environment.json"
    later = json.loads(place.read_text()) | {"started": "2999-01-01T00:00:00+00:00"}
    place.write_text(json.dumps(later))
    with pytest.raises(ClassroomError, match=r"mentors that have changed: \S*kd-s0\."):
        run_suite(suite, out, say=quiet)


def test_an_interrupted_suite_goes_on_as_if_it_had_not_been(write, tmp_path):
    suite = load_suite(write({"alone": {}, "other": {"seeds": [3]}}), ["train.epochs=3"])

    def cut(line):
        if line.startswith("alone-s0: epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(ClassroomError, match="same command goes on"):
        run_suite(suite, tmp_path / "cut", say=cut)
    said = []
    assert run_suite(suite, tmp_path / "cut", say=said.append) == {}
    assert [line for line in said if "alone" in line][:2] == [
        "alone-s0 goes on", next(line for line in said if "epoch 2/3" in line)
    ]  # fmt: skip
    run_suite(suite, tmp_path / "whole", only=["alone"], say=quiet)
    one, other = (
        json.loads((tmp_path / name / "alone-s0" / "summary.json").read_text())
        for name in ("cut", "whole")
    )
    assert one == other


def test_a_failure_stops_only_what_needs_it(write, tmp_path):
    suite = load_suite(
        write({
            "teacher": {"set": ["train.optimizer.lr=1.0e+30"]},  # a loss that is not finite
            "kd": KD,
            "alone": {},
        })
    )  # fmt: skip
    said = []
    failures = run_suite(suite, tmp_path / "out", say=said.append)
    assert list(failures) == ["teacher-s0", "kd-s0"]
    assert failures["teacher-s0"].startswith("epoch 1: the loss is no longer finite")
    assert failures["kd-s0"] == "not begun, as teacher-s0 failed"
    assert list(stamps(tmp_path / "out")) == ["alone-s0"]
    assert any(line.startswith("alone-s0: epoch 1/1") for line in said)
    empty = compare(suite, tmp_path / "out")[1]
    assert (empty.seeds, cells(suite, empty)[3:6], empty.against) == ((), ("0", "–", "–"), {})


def test_side_by_side_goes_as_one_after_the_other(write, tmp_path):
    bad = {"set": ["train.optimizer.lr=1.0e+30"]}
    after = {"set": ["method.name=kd", MENTOR.replace("teacher}'", "bad}'")]}
    suite = load_suite(write({"teacher": TEACHER, "kd": KD, "bad": bad, "after": after}))
    out, said = tmp_path / "out", []
    failures = run_suite(suite, out, jobs=2, say=said.append)
    assert list(failures) == ["bad-s0", "after-s0"]
    assert failures["bad-s0"].startswith("epoch 1: the loss is no longer finite")
    assert failures["after-s0"] == "not begun, as bad-s0 failed"
    assert said.index("kd-s0 begins") > said.index(
        f"teacher-s0: report:  {out}/teacher-s0/report.html"
    )
    assert said.index("bad-s0 begins") < said.index("kd-s0 begins")
    environment = json.loads((out / "kd-s0" / "environment.json").read_text())
    assert environment["threads"] == 1
    assert run_suite(suite, out, only=["teacher", "kd"], say=said.append) == {}
    assert said[-1].startswith("2 runs, 2 of them done")


def test_an_unforeseen_error_stops_only_its_run(write, tmp_path, monkeypatch):
    import classroomkd.suite.runner as module

    real, said = module.train, []

    def train(recipe, *rest, **options):
        if recipe.name == "bad-s0":
            raise RuntimeError("out of memory")
        return real(recipe, *rest, **options)

    monkeypatch.setattr(module, "train", train)
    suite = load_suite(write({"bad": {}, "alone": {}}))
    failures = run_suite(suite, tmp_path / "out", say=said.append)
    assert failures == {"bad-s0": "RuntimeError: out of memory"}
    assert any("Traceback" in line for line in said)
    assert list(stamps(tmp_path / "out")) == ["alone-s0"]


def test_some_seeds_of_the_runs_that_have_them(digits):
    suite, out, _ = digits
    said = []
    assert run_suite(suite, out, seeds=[1], say=said.append) == {}
    assert said == [f"6 runs, 6 of them done already, in {out}"]  # teacher and peer have others
    lines = foresee(suite, out, only=["kd", "aver"], seeds=[1])
    assert [line.split("# ")[1] for line in lines[:-1]] == ["kd-s1 is done", "aver-s1 is done"]
    with pytest.raises(ClassroomError, match=r"no run has seed 2 \(seeds: 0, 1, 7\)"):
        run_suite(suite, out, seeds=[1, 2], say=quiet)


def test_what_will_be_trained_is_told_with_commands_and_epochs(write, tmp_path):
    import shlex

    from classroomkd.config import load_recipe

    suite = load_suite(write({"teacher": TEACHER, "kd": KD}, seeds=[0, 1]), ["train.epochs=3"])
    out = tmp_path / "out"
    lines = foresee(suite, out)
    assert not out.exists()
    assert [line for line in lines if "#" in line] == [
        "   3 epochs  # teacher-s0 begins", "   3 epochs  # kd-s0 begins", "   3 epochs  # kd-s1 begins"
    ]  # fmt: skip
    assert lines[-1] == "   9 epochs in all"
    program, verb, flag, folder, _, base, *overrides = shlex.split(lines[1])
    assert (program, verb, flag, folder) == ("classroomkd", "train", "--out", f"{out}/teacher-s0")
    assert load_recipe(base, overrides) == suite.planned(out)[0].recipe()

    def cut(line):
        if line.startswith("teacher-s0: epoch 2/"):
            raise KeyboardInterrupt

    with pytest.raises(ClassroomError, match="interrupted"):
        run_suite(suite, out, say=cut)
    lines = foresee(suite, out, only=["teacher"])
    assert lines[0] == "   1 epochs  # teacher-s0 goes on"
    assert "--resume" in shlex.split(lines[1])


def test_results_are_written_down_as_they_come(write, tmp_path):
    suite, out, said = load_suite(write({"alone": {}, "other": {}})), tmp_path / "out", []

    def say(line):
        if line == "other-s0 begins":
            said.append((out / "runs.csv").read_text())

    run_suite(suite, out, say=say)
    (before,) = csv.DictReader(said[0].splitlines())
    one, two = csv.DictReader((out / "runs.csv").read_text().splitlines())
    assert one == before
    summary = json.loads((out / "other-s0" / "summary.json").read_text())
    environment = json.loads((out / "other-s0" / "environment.json").read_text())
    assert (two["suite"], two["run"], two["seed"]) == ("suite", "other", "0")
    for name, key in (("last", "last"), ("selected", "best")):
        for result, value in summary[key].items():
            assert float(two[f"{name}_{result}"]) == value
    assert float(two["seconds"]) == environment["seconds"] > 0
    assert two["commit"] == (environment["commit"] or "")
    assert str(tmp_path) not in (out / "runs.csv").read_text()


def test_a_file_that_is_no_suite(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- alone\n")
    assert mistakes_of(path) == ["a suite is a mapping of names to values"]
    assert mistakes_of(tmp_path / "lisd.yaml") == ["no such file: did you mean 'list.yaml'?"]


def test_all_mistakes_of_all_recipes_are_told_with_their_runs(write):
    path = write({
        "alone": {"set": ["train.epoch=3"]},
        "kd": {"set": [*KD["set"], "method.temprature=3"]},
        "teacher": {"set": ["student.model=resnet21"]},
        "none": {"set": ["method.name=kd"]},
        "twice": {"set": ["train.epoch=3"]},
    }, baseline="alone")  # fmt: skip
    text = "\n".join(mistakes_of(path))
    assert "runs.alone: train.epoch: unknown key: did you mean 'epochs'?" in text
    assert "(and in twice)" in text
    assert "runs.kd: {teacher}: refer to a run that stands above this one" in text
    assert "runs.teacher: student.model: unknown model 'resnet21'" in text
    assert "runs.none: mentors: kd needs a mentor" in text
    path = write({"teacher": TEACHER, "kd": {"set": [*KD["set"], "method.temprature=3"]}})
    (only,) = mistakes_of(path)
    assert only.startswith("runs.kd: method.temprature: unknown option")
    assert load_suite(path, recipes=False).baseline == "teacher"


@pytest.mark.parametrize(
    ("kd", "expected"),
    [
        ({"set": ["mentors.0.run={teachr}"]}, "{teachr}: unknown run 'teachr': did you mean 'teacher'?"),
        ({"set": ["mentors.0.run={kd}"]}, "{kd}: refer to a run that stands above"),
        ({"set": ["mentors.0.run={teacher}"], "seeds": [0, 5]}, "{teacher}: has no seed 5 (seeds: 0, 1)"),
    ],
)  # fmt: skip
def test_references_are_checked_by_name_and_seed(write, kd, expected):
    (mistake,) = mistakes_of(write({"teacher": {"seeds": [0, 1]}, "kd": kd}))
    assert mistake.startswith(f"runs.kd: {expected}")


def test_a_reference_is_the_folder_of_the_same_seed_or_the_only_one(write, tmp_path):
    runs = {"teacher": TEACHER, "peer": {}, "kd": {"set": ["a={teacher}", "b={peer}"]}}
    suite = load_suite(write(runs, seeds=[0, 1]), recipes=False)
    last = suite.planned(tmp_path)[-1]
    assert last.folder == tmp_path / "kd-s1"
    assert last.needs == (tmp_path / "teacher-s0", tmp_path / "peer-s1")
    assert last.overrides[-4:-2] == (f"a={tmp_path}/teacher-s0", f"b={tmp_path}/peer-s1")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"against": ["alon"]}, "against: unknown run 'alon': did you mean 'alone'?"),
        ({"baseline": "alon"}, "baseline: unknown run 'alon': did you mean 'alone'?"),
        ({"sets": []}, "sets: unknown key: did you mean 'set'?"),
        ({"runs": {"alone": {"seed": [1]}}}, "runs.alone.seed: unknown key: did you mean 'seeds'?"),
        ({"runs": {"alone": None}}, "runs.alone: must be a mapping"),
        ({"runs": {"../x": {}}, "baseline": "../x"}, "runs.../x"),
        ({"runs": {}}, "runs: "),
        ({"seeds": [1, 1]}, "seeds: a seed is given twice"),
        ({"seeds": []}, "seeds: "),
        ({"seeds": 3}, "seeds: must be a list"),
        ({"set": ["seed=3"]}, "set[0]: seed: a suite names its runs itself"),
        ({"base": "digits-mento"}, "base: unknown recipe 'digits-mento': did you mean 'digits-mentor'?"),
        ({"base": "gone.yaml"}, "base: no such file"),
        ({"base": None}, "runs.alone.base: is missing, and so is the suite's own base"),
    ],
)  # fmt: skip
def test_mistakes_in_a_suite_name_their_place(write, changes, expected):
    (mistake, *_) = mistakes_of(write(**{"runs": {"alone": {}}, "baseline": "alone"} | changes))
    assert mistake.startswith(expected)


def test_a_base_is_looked_for_beside_the_suite(write, tmp_path):
    (tmp_path / "own.yaml").write_text(
        "data: {name: digits}\nstudent: {model: vgg8}\nmethod: {name: none}\n"
    )
    suite = load_suite(write({"alone": {}}, base="own.yaml", set=[]))
    assert suite.planned(tmp_path)[0].recipe().student.model == "vgg8"


def test_names_that_are_not_there(write, tmp_path):
    with pytest.raises(RecipeError, match="unknown suite 'digit': did you mean 'digits'"):
        load_suite("digit")
    with pytest.raises(RecipeError, match="no such file: did you mean 'suite.yaml'"):
        write({"alone": {}})
        load_suite(tmp_path / "suit.yaml")
    with pytest.raises(ClassroomError, match="unknown run 'alon': did you mean 'alone'"):
        run_suite(load_suite(write({"alone": {}})), tmp_path / "out", only=["alon"])


def test_the_suites_of_the_package_are_valid(tmp_path, monkeypatch):
    from pathlib import Path

    monkeypatch.chdir(tmp_path)
    mentors = {
        "cifar100": ("resnet32", "resnet8", "resnet14", "MobileNetV2"),
        "lspet": ("base", "small", "tiny", "simcc"),
    }
    for name in (f"{data}-{model}" for data, models in mentors.items() for model in models):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "student.safetensors").touch()
    example = Path(__file__).parents[2] / "examples" / "three_seeds.yaml"
    text = (example.parents[1] / "docs" / "suites.md").read_text()
    told = tmp_path / "told.yaml"
    told.write_text(text.partition("```yaml\n")[2].partition("```")[0])
    for source in (*list_suites(), example, told):
        suite = load_suite(source)
        assert suite.seeds_of(suite.baseline) == suite.seeds
    takd = {run.name: run for run in load_suite("takd").planned(tmp_path)}
    chain = ["takd", "assistant-small", "assistant", "teacher"]
    for name, above in zip(chain, chain[1:], strict=False):
        assert takd[name].needs == (takd[above].folder,)
    assert [need.name for need in takd["dgkd"].needs] == [
        "teacher-s0", "assistant-s0", "assistant-small-s0"
    ]  # fmt: skip
