"""A whole run: what it leaves behind, and how it protects what is there."""

import json

import pytest
import torch
from safetensors.torch import load_file

from classroomkd.config import load_recipe
from classroomkd.engine.build import build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.errors import ClassroomError
from classroomkd.models import build_model, load_student


@pytest.fixture
def run(digits_recipe, tmp_path):
    recipe = digits_recipe()
    summary = train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    return recipe, tmp_path / "run", summary


def test_a_run_folder_explains_itself(run):
    recipe, folder, summary = run
    assert load_recipe(folder / "recipe.yaml") == recipe
    environment = json.loads((folder / "environment.json").read_text())
    for key in ("packages", "device", "hardware", "seed", "learning_rate", "batch_size"):
        assert key in environment
    metrics = RunFolder(folder).read_csv("metrics.csv")
    assert [row["epoch"] for row in metrics] == [0, 1]
    classroom = RunFolder(folder).read_csv("classroom.csv")
    assert [(r["epoch"], r["mentor"]) for r in classroom] == [
        (0, "resnet8"), (0, "resnet14"), (1, "resnet8"), (1, "resnet14"),
    ]  # fmt: skip
    assert {"active_share", "weight", "gap", "temperature"} <= set(classroom[0])
    assert json.loads((folder / "summary.json").read_text()) == summary
    best = max(metrics, key=lambda row: row["dev_top1"])
    assert summary["best"]["epoch"] == best["epoch"]
    assert summary["last"]["epoch"] == 1


def test_published_options_and_a_missing_split_are_said_at_the_start(digits_recipe, tmp_path):
    recipe = digits_recipe(
        method={"name": "kd", "standardize": True}, data={"dev": 0}, train={"epochs": 1}
    )
    said: list[str] = []
    summary = train(recipe, tmp_path / "run", progress=False, say=said.append)
    assert said[:2] == [
        "kd, published options: temperature 2.0, weight 9.0, task_weight 0.1 (LSKD)",
        "no development split (data.dev is 0): the student that counts is the last epoch's",
    ]
    written = (tmp_path / "run" / "recipe.yaml").read_text()
    assert "temperature: 2.0" in written
    assert "weight: 9.0" in written
    assert summary["best"] == summary["last"]
    assert RunFolder(tmp_path / "run").changes(recipe) == []


def test_the_student_stands_alone(run):
    _, folder, summary = run
    weights = load_file(folder / "student.safetensors")
    assert weights.keys() == build_model("resnet8", 10).state_dict().keys()
    student, info = load_student(folder)
    assert info.classes == tuple("0123456789")
    assert not student.training
    assert evaluate_run(folder)[1]["top1"] == pytest.approx(summary["best"]["test_top1"], abs=1e-3)
    assert evaluate_run(folder, last=True)[1]["top1"] == pytest.approx(
        summary["last"]["test_top1"], abs=1e-3
    )
    assert evaluate_run(folder, "dev")[1]["top1"] == pytest.approx(
        summary["best"]["dev_top1"], abs=1e-2
    )


def test_nothing_is_overwritten_without_being_asked(run, digits_recipe, tmp_path):
    recipe, folder, summary = run
    with pytest.raises(ClassroomError, match=r"--resume.*--overwrite"):
        train(recipe, folder, progress=False)
    again = train(recipe, folder, overwrite=True, progress=False, say=lambda _: None)
    assert again == summary
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    (tmp_path / "mine" / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ClassroomError, match=r"such as thesis\.tex: it is not a run folder"):
        train(recipe, tmp_path / "mine", overwrite=True, progress=False)
    assert sorted(p.name for p in (tmp_path / "mine").iterdir()) == ["recipe.yaml", "thesis.tex"]
    (tmp_path / "file").write_text("a file")
    with pytest.raises(ClassroomError, match="cannot be made"):
        train(recipe, tmp_path / "file" / "run", progress=False)


def test_without_the_test_set_it_is_never_looked_at(digits_recipe, tmp_path, monkeypatch, run):
    from classroomkd.report import read_runs
    from classroomkd.tasks.classification.task import Classification

    def test_set(*_):
        raise AssertionError("the test set was opened")

    monkeypatch.setattr(Classification, "test_set", test_set)
    recipe = digits_recipe(train={"test": False})
    summary = train(recipe, tmp_path / "dev", progress=False, say=lambda _: None)
    assert summary["test_samples"] == 0
    for which in ("last", "best"):
        assert summary[which] == {
            key: value for key, value in run[2][which].items() if not key.startswith("test_")
        }
    with pytest.raises(ClassroomError, match="without a look at the test set"):
        read_runs([tmp_path / "dev"])


def test_a_resumed_run_adds_to_its_time(digits_recipe, tmp_path):
    def stop(line):
        if line.startswith("epoch 2"):
            raise KeyboardInterrupt

    recipe, run = digits_recipe(), RunFolder(tmp_path / "run")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, run.path, progress=False, say=stop)
    before = run.read_json("environment.json")
    assert before["seconds"] > 0
    run.write_json("environment.json", before | {"seconds": 1000.0})
    train(recipe, run.path, progress=False, resume=True, say=lambda _: None)
    after = run.read_json("environment.json")
    assert after["seconds"] > 1000
    assert after | {"seconds": 0} == before | {"seconds": 0}


def test_two_runs_of_a_recipe_are_bit_identical(run, tmp_path):
    recipe, folder, _ = run
    train(recipe, tmp_path / "again", progress=False, say=lambda _: None)
    for name in ("student.safetensors", "metrics.csv", "classroom.csv", "summary.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_only_one_training_writes_into_a_folder(digits_recipe, tmp_path):
    with RunFolder(tmp_path / "run").claim(), pytest.raises(ClassroomError, match="another train"):
        train(digits_recipe(), tmp_path / "run", progress=False)


def test_a_run_that_died_in_its_first_epoch_can_be_started_again(digits_recipe, tmp_path):
    def die(lesson):
        raise KeyboardInterrupt

    recipe = digits_recipe()
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, say=die)
    with pytest.raises(ClassroomError, match="start again without --resume"):
        train(recipe, tmp_path / "run", progress=False, resume=True)
    (tmp_path / "run" / "metrics.csv.part").write_text("half a")
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)


def test_a_loss_that_is_not_finite_ends_the_run(digits_recipe, tmp_path):
    recipe = digits_recipe(train={"optimizer": {"name": "sgd", "lr": 1e12}})
    with pytest.raises(ClassroomError, match=r"epoch 1: the loss is no longer finite.*train\.clip"):
        train(recipe, tmp_path / "run", progress=False)


def test_a_checkpoint_of_other_networks_is_named(run):
    recipe, folder, _ = run
    checkpoint = folder / "checkpoints" / "last.ckpt"
    whole = checkpoint.read_bytes()
    saved = torch.load(checkpoint, weights_only=True)
    saved["state_dict"]["student.old.weight"] = torch.zeros(1)
    torch.save(saved, checkpoint)
    with pytest.raises(ClassroomError, match=r"differ in their weights, such as student\.old\.w"):
        train(recipe, folder, resume=True, progress=False)
    checkpoint.write_bytes(whole)


def test_a_truncated_checkpoint_is_named(run):
    recipe, folder, _ = run
    checkpoint = folder / "checkpoints" / "last.ckpt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.raises(ClassroomError, match=r"last\.ckpt is damaged.*--overwrite"):
        train(recipe, folder, resume=True, progress=False)


def test_ties_on_the_development_split_go_to_the_earlier_epoch(
    digits_recipe, tmp_path, monkeypatch
):
    import classroomkd.tasks.classification.task as module

    scores = {"top1": 100 / 3, "top5": 50.0, "nll": 1.0, "ece": 1.0}
    monkeypatch.setattr(module, "evaluate", lambda *_: dict(scores))
    summary = train(digits_recipe(), tmp_path / "run", progress=False, say=lambda _: None)
    assert summary["best"]["epoch"] == 0
    assert summary["last"]["epoch"] == 1


def test_names_of_mentors_stay_text(tmp_path):
    folder = RunFolder(tmp_path)
    for epoch in (0, 1):
        folder.append("classroom.csv", epoch, [{"mentor": "007", "gap": 0.1}])
    assert [row["mentor"] for row in folder.read_csv("classroom.csv")] == ["007", "007"]
    assert folder.read_csv("classroom.csv")[1]["gap"] == 0.1


def test_resume_continues_the_same_run_only(run, digits_recipe, tmp_path):
    recipe, folder, summary = run
    with pytest.raises(ClassroomError, match=r"another recipe; what differs: seed"):
        train(digits_recipe(seed=4), folder, resume=True, progress=False)
    with pytest.raises(ClassroomError, match="nothing to resume"):
        train(recipe, tmp_path / "new", resume=True, progress=False)
    lines = []
    assert train(recipe, folder, resume=True, progress=False, say=lines.append) == summary
    assert lines == []


def test_an_interrupted_run_ends_as_if_it_had_not_been(digits_recipe, tmp_path, monkeypatch):
    recipe = digits_recipe(train={"epochs": 3})
    whole = train(recipe, tmp_path / "whole", progress=False, say=lambda _: None)

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt  # after the epoch was written, before its state was saved

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    resumed = train(recipe, tmp_path / "cut", resume=True, progress=False, say=lambda _: None)
    assert resumed == whole
    for name in ("metrics.csv", "classroom.csv"):
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    one, other = (load_file(tmp_path / n / "student.safetensors") for n in ("cut", "whole"))
    assert all(torch.equal(one[k], other[k]) for k in one)


def test_without_a_development_split_the_last_epoch_counts(digits_recipe, tmp_path):
    summary = train(
        digits_recipe(data={"dev": 0}, method={"name": "none"}, mentors=[]),
        tmp_path / "run", progress=False, say=lambda _: None,
    )  # fmt: skip
    assert summary["best"] == summary["last"]
    assert summary["last"]["dev_top1"] is None
    with pytest.raises(ClassroomError, match="without a development split"):
        evaluate_run(tmp_path / "run", "dev")


def test_the_student_starts_the_same_whatever_the_mentors(digits_recipe):
    from classroomkd.engine.build import build_classroom

    one = build_classroom(digits_recipe()).student.state_dict()
    other = build_classroom(digits_recipe(method={"name": "none"}, mentors=[])).student.state_dict()
    different = build_classroom(digits_recipe(seed=1)).student.state_dict()
    assert all(torch.equal(one[k], other[k]) for k in one)
    assert not torch.equal(one["classifier.weight"], different["classifier.weight"])


def test_a_mentor_with_another_class_order_gives_the_same_lesson(digits_recipe, tmp_path):
    from classroomkd.engine.build import build_classroom
    from classroomkd.engine.step import training_step
    from classroomkd.models import StudentFile, save_student

    straight, _ = load_student(digits_recipe().mentors[0].run)
    order = [7, 2, 9, 0, 1, 3, 8, 4, 6, 5]
    shuffled, _ = load_student(digits_recipe().mentors[0].run)
    shuffled.classifier.weight.data = straight.classifier.weight.data[order].clone()
    shuffled.classifier.bias.data = straight.classifier.bias.data[order].clone()
    (tmp_path / "shuffled").mkdir()
    info = StudentFile("resnet8", tuple(str(k) for k in order), "digits", 0, None)
    save_student(shuffled, info, tmp_path / "shuffled")

    def loss(folder):
        classroom = build_classroom(digits_recipe(mentors=[{"run": str(folder)}]))
        batch = next(iter(classroom.train))
        return training_step(classroom, batch).loss

    assert torch.equal(loss(tmp_path / "shuffled"), loss(digits_recipe().mentors[0].run))


@pytest.mark.parametrize("method", ["fitnets", "at", "rkd", "ctkd", "dgkd", "dist"])
def test_methods_train_from_a_recipe_and_stay_out_of_the_student(digits_recipe, tmp_path, method):
    recipe = digits_recipe(method={"name": method}, train={"epochs": 1, "precision": "bf16"})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    weights = load_file(tmp_path / "run" / "student.safetensors")
    assert weights.keys() == build_model("resnet8", 10).state_dict().keys()
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    own = [name for name in state["state_dict"] if name.startswith("method.")]
    assert bool(own) == (method in ("fitnets", "ctkd"))
    assert len(RunFolder(tmp_path / "run").read_csv("classroom.csv")) in (1, 2)


def test_data_that_are_gone_are_named(run):
    _, folder, _ = run
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("path: null", "path: /no/such/folder"))
    with pytest.raises(ClassroomError, match=r"recipe\.yaml: data\.path: no such file or folder"):
        evaluate_run(folder)


def test_who_sees_images_enlarged_is_told(digits_recipe):
    said = []
    build_classroom(digits_recipe(), said.append)
    assert said == []
    build_classroom(digits_recipe(student={"model": "timm/test_vit.r160_in1k"}), said.append)
    assert said == [
        "the student timm/test_vit.r160_in1k sees images of 8 x 8 pixels enlarged to 160 x 160,"
        " which it is made for"
    ]
