"""Pose runs from recipe to run folder, with mentors of both heads."""

import json

import pytest
import torch
import yaml

from classroomkd.config import parse_recipe
from classroomkd.core import classroom_loss
from classroomkd.engine.build import build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError, RecipeError
from classroomkd.methods import create_method
from classroomkd.report import write_report
from tests.tasks.pose.engine.conftest import pose_recipe


def quiet(_):
    """Nobody listens."""


def build(recipe):
    return build_classroom(recipe, quiet)


@pytest.fixture(scope="module")
def taught(persons, mentor_runs, tmp_path_factory):
    """A student of both mentors, its recipe and its folder."""
    recipe = pose_recipe(
        persons,
        mentors=[{"run": str(mentor_runs / name)} for name in ("heatmap", "simcc")],
        method={"name": "classroom", "task_weight": 1},
    )
    folder = tmp_path_factory.mktemp("taught") / "run"
    lines = []
    summary = train(recipe, folder, progress=False, say=lines.append)
    return recipe, folder, summary, lines


def test_a_run_folder_explains_itself(taught):
    recipe, folder, summary, lines = taught
    assert summary["headline"] == "PCK@0.2"
    assert summary["test_samples"] == 16
    for which in ("last", "best"):
        assert 0 <= summary[which]["test_PCK@0.2"] <= 100
    assert any("ranked by OKS" in line for line in lines)
    assert any("dev PCK@0.2" in line for line in lines)
    assert RunFolder(folder).recipe() == recipe
    said = json.loads((folder / "student.json").read_text())
    assert said["task"] == "pose"
    rows = RunFolder(folder).read_csv("classroom.csv")
    assert [row["mentor"] for row in rows] == ["heatmap", "simcc"] * 2
    assert all(0 <= row["active_share"] <= 1 for row in rows)


def test_a_student_is_judged_again_from_its_folder(taught):
    _, folder, summary, _ = taught
    info, scores = evaluate_run(folder)
    assert scores["PCK@0.2"] == pytest.approx(summary["best"]["test_PCK@0.2"], abs=1e-3)
    assert info.epoch == summary["best"]["epoch"]


def test_the_report_speaks_of_the_tasks_result_and_shows_persons(taught, tmp_path):
    page = write_report([taught[1]], tmp_path / "report.html").read_text()
    assert "PCK@0.2" in page
    assert "top-1" not in page
    for picture in ("album0-poses", "album0-taught", "album0-maps"):
        assert picture in page
    assert write_report([taught[1]], tmp_path / "again.html").read_text() == page


def test_who_taught_is_counted_on_labelled_joints(taught):
    from safetensors.torch import load_file

    recipe, folder, _, _ = taught
    kept = load_file(folder / "pictures.safetensors")
    assert kept["taught"].shape == (2, 14)
    assert ((kept["taught"] >= 0) & (kept["taught"] <= 1)).all()
    classroom = build(recipe)
    everybody = pose_recipe(
        recipe.data.path,
        mentors=[entry.model_dump() for entry in recipe.mentors],
        method={"name": "aver"},
    )
    from classroomkd.tasks.pose.pictures import _taught

    classroom = build(everybody)
    share = _taught(classroom, classroom.student.eval(), classroom.mentors, classroom.dev)
    torch.testing.assert_close(share, torch.ones(2, 14, dtype=torch.float64))


def test_the_same_recipe_trains_the_same_student(taught, tmp_path):
    recipe, folder, summary, _ = taught
    again = train(recipe, tmp_path / "again", progress=False, say=quiet)
    assert again == summary
    one, other = ((f / "student.safetensors").read_bytes() for f in (folder, tmp_path / "again"))
    assert one == other


def test_a_resumed_run_ends_as_an_uninterrupted_one(taught, tmp_path, monkeypatch):
    recipe, folder, summary, _ = taught

    def stop(line):
        if line.startswith("epoch 1/"):
            monkeypatch.setattr("classroomkd.engine.classroom.Classroom.begin_epoch", interrupt)

    def interrupt(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run", progress=False, say=stop)
    monkeypatch.undo()
    assert train(recipe, tmp_path / "run", resume=True, progress=False, say=quiet) == summary
    assert (tmp_path / "run" / "student.safetensors").read_bytes() == (
        folder / "student.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(("group", "shape"), [("joint", (2, 16, 14)), ("batch", (2, 16))])
def test_what_is_ranked_together(taught, group, shape):
    recipe = taught[0]
    raw = recipe.model_dump(mode="json")
    classroom = build(parse_recipe({**raw, "method": {"name": "classroom", "group": group}}))
    classroom.begin_epoch(0)
    lesson = training_step(classroom, next(iter(classroom.train)))
    assert lesson.active.shape == shape
    assert lesson.loss.isfinite()


def test_mentors_do_not_change(taught):
    classroom = build(taught[0])
    before = [
        {key: value.clone() for key, value in mentor.network.state_dict().items()}
        for mentor in classroom.mentors
    ]
    for mentor in classroom.mentors:
        mentor.network.train()  # as a careless loop would
    optimizer = torch.optim.SGD(classroom.student.parameters(), lr=0.1)
    classroom.begin_epoch(0)
    for batch in classroom.train:
        training_step(classroom, batch).loss.backward()
        optimizer.step()
    for mentor, weights in zip(classroom.mentors, before, strict=True):
        assert not mentor.network.training
        for key, value in mentor.network.state_dict().items():
            assert torch.equal(value, weights[key]), key


def test_mentors_see_joints_where_the_student_sees_them(taught):
    """One of another head and size, asked in the student's bins, means the same points."""
    classroom = build(taught[0])
    batch = next(iter(classroom.dev))
    for mentor in classroom.mentors:
        mentor.adapter.decoded = True
        opinion = mentor.outputs(batch.images)
        codec = classroom.student.codec
        heat = opinion.logits.unflatten(-1, (codec.y.bins, codec.x.bins))
        found, _ = (
            codec.decode((heat.softmax(-1),)) if False else codec.decode((heat / codec.beta,))
        )
        sure = (found - opinion.extras["points"]).norm(dim=-1).median()
        assert sure < 2 * codec.x.step


@pytest.mark.parametrize("unlabelled", ["leave", "teach"])
def test_invisible_joints_reach_the_terms_that_they_should(persons, mentor_runs, unlabelled):
    recipe = pose_recipe(
        persons,
        mentors=[{"run": str(mentor_runs / "heatmap")}],
        method={"name": "classroom", "filtering": False, "task_weight": 1},
        loss={"unlabelled": unlabelled},
    )
    classroom = build(recipe)
    classroom.student.eval()  # batch normalisation would relate joints through the statistics
    batch = next(iter(classroom.train))
    hidden = batch.visible.clone()
    hidden[:, 3] = 0
    batch = batch._replace(visible=hidden)
    moved = batch.points.clone()
    moved[:, 3] += 7
    losses = [training_step(classroom, b).loss for b in (batch, batch._replace(points=moved))]
    torch.testing.assert_close(*losses, rtol=0, atol=0)
    head = [p for p in classroom.student.head.parameters() if p.shape[:1] == (14,)]
    gradients = torch.autograd.grad(losses[0], head)
    reached = any(bool((g[3] != 0).any()) for g in gradients)
    assert reached is (unlabelled == "teach")


def test_classification_is_the_special_case_of_one_joint():
    """A joint of bins, labelled and one-hot, is an image of classes: the same lesson."""
    from classroomkd.methods import Outputs
    from classroomkd.tasks.pose.signals import PoseLoss, pose_signals

    class OneJoint:
        """Outputs are logits, and points are the places of the true bins."""

        @staticmethod
        def encode(points):
            hot = torch.nn.functional.one_hot(points[..., 0].long(), 10).double()
            return (hot * 1e3 - 1e2,)  # of mean 0, as the student's logits are

        @staticmethod
        def logits(outputs):
            return outputs

    draw = torch.Generator().manual_seed(0)
    student = torch.randn(6, 10, generator=draw, dtype=torch.float64)
    student = student - student.mean(-1, keepdim=True)
    mentors = 2 * torch.randn(3, 6, 10, generator=draw, dtype=torch.float64)
    label = torch.randint(10, (6,), generator=draw)

    class Batch:
        points = label[:, None, None].double().expand(6, 1, 2)
        visible = torch.ones(6, 1)
        area = torch.ones(6)
        index = torch.arange(6)

    signals = pose_signals(
        OneJoint,
        Outputs(student[:, None]),
        [Outputs(m[:, None]) for m in mentors],
        Batch,
        PoseLoss("likelihood", "ce", "leave", torch.ones(1)),
    )
    lesson = create_method("classroom")(signals)
    expected = classroom_loss(student, mentors, label)
    torch.testing.assert_close(lesson.loss, expected.loss)
    for name in ("active", "weight", "temperature", "student_score"):
        torch.testing.assert_close(getattr(lesson, name), getattr(expected, name))


@pytest.mark.parametrize("method", ["kd", "aver", "fpd", "dwpose", "okdhp", "dkd", "ebkd"])
def test_every_method_of_choices_teaches_poses(persons, mentor_runs, method):
    recipe = pose_recipe(
        persons,
        mentors=[{"run": str(mentor_runs / "heatmap"), "role": "teacher"}],
        method={"name": method},
    )
    classroom = build(recipe)
    classroom.begin_epoch(0)
    lesson = training_step(classroom, next(iter(classroom.train)))
    lesson.loss.backward()
    assert lesson.loss.isfinite()
    assert all(p.grad is None or p.grad.isfinite().all() for p in classroom.student.parameters())


def test_fpd_brings_its_task_and_says_so(persons, mentor_runs):
    mentors = [{"run": str(mentor_runs / "heatmap"), "role": "teacher"}]
    assert pose_recipe(persons, method={"name": "kd"}, mentors=mentors).loss.task == "ce"
    recipe = pose_recipe(persons, method={"name": "fpd"}, mentors=mentors)
    assert recipe.loss.task == "mse"
    said = []
    assert build_classroom(recipe, said.append).task.loss.task == "mse"
    assert "the task is mse, as fpd has it" in said
    again = parse_recipe(yaml.safe_load(recipe.to_yaml()))
    assert again == recipe


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"method": {"name": "crd"}, "mentors": [{"model": "pose/hf/somebody/vitpose"}]}, "reads more than logits"),
        ({"mentors": [{}]}, r"mentors\[0\].*give one of run"),
        ({"student": {"model": "pose/resnet19/heatmap"}}, "student.model"),
        ({"student": {"modle": "x"}}, "student.modle: unknown key.*model"),
        ({"data": {"name": "coko"}}, "data.name: unknown pose data set 'coko'.*coco"),
        ({"data": {"views": {"flipp": 1}}}, "data.views.*flipp.*known: flip"),
        ({"data": {"views": {"flip": 2}}}, "data.views.*flip"),
        ({"loss": {"score": "okss"}}, "loss.score"),
        ({"method": {"name": "fpd"}, "loss": {"task": "ce"}, "mentors": [{"model": "pose/hf/somebody/vitpose"}]}, "loss.task: fpd is made for mse.*leave loss.task out"),
        ({"bank": {"pathh": "x"}}, "bank.pathh: unknown key.*path"),
    ],
)  # fmt: skip
def test_mistakes_in_a_recipe_are_named(persons, sections, message):
    with pytest.raises(RecipeError, match=message):
        pose_recipe(persons, **sections)


def test_sizes_that_a_network_cannot_have_are_named(persons):
    with pytest.raises(ClassroomError, match=r"student: .*multiples of"):
        build(pose_recipe(persons, student={"input": [30, 32]}))


def test_a_mentor_without_any_of_the_joints_is_refused(persons, mentor_runs):
    from classroomkd.tasks.pose.mentor import pose_mentor
    from classroomkd.tasks.pose.models import build_pose_model

    student = build_pose_model("pose/tiny/heatmap", ["nose"], input_size=(32, 32))
    other = build_pose_model("pose/tiny/heatmap", ["left_ankle"], input_size=(32, 32))
    with pytest.raises(ClassroomError, match="knows none of the student's joints"):
        pose_mentor(other, "other", "peer", student)
