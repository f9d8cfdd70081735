"""Mentors of other libraries, with other joints than the student's."""

import pytest
import torch
import transformers
from torch import nn

from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.mentors import Mentor
from classroomkd.tasks.pose.data import joint_set
from classroomkd.tasks.pose.mentor import JointAdapter
from tests.tasks.pose.engine.conftest import pose_recipe


@pytest.fixture(scope="module")
def vitpose(tmp_path_factory):
    """A small random ViTPose of COCO's joints."""
    backbone = transformers.VitPoseBackboneConfig(
        image_size=(64, 48), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        part_features=4, out_indices=[1],
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("vitpose")
    torch.manual_seed(0)
    config = transformers.VitPoseConfig(backbone_config=backbone, num_labels=17)
    transformers.VitPoseForPoseEstimation(config).save_pretrained(folder)
    transformers.VitPoseImageProcessor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def recipe(persons, mentor_runs, vitpose):
    return pose_recipe(
        persons,
        mentors=[
            {"run": str(mentor_runs / "heatmap")},
            {"model": f"pose/hf/{vitpose}", "joints": "coco", "role": "teacher"},
        ],
        method={"name": "aver"},
    )


def test_a_mentor_of_other_joints_teaches_those_that_it_knows(recipe):
    classroom = build_classroom(recipe, lambda _: None)
    other = classroom.mentors[1]
    names = joint_set("lsp").names
    assert [
        n for n, known in zip(names, other.adapter.mask.tolist(), strict=True) if not known
    ] == [
        "neck",
        "head_top",
    ]
    assert classroom.task.loss.score == "oks"
    classroom.student.eval()
    batch = next(iter(classroom.train))
    classroom.mentors = classroom.mentor_outputs.mentors = [other]
    classroom.mentor_outputs.stores = [None]
    list(classroom.task.prepare(classroom.student, [other], classroom.train.dataset))
    lesson = training_step(classroom, batch._replace(visible=torch.ones_like(batch.visible)))
    assert lesson.active.all()
    task_free = [p for p in classroom.student.head.parameters() if p.shape[:1] == (14,)]
    classroom.method.choices = _without_task(classroom.method.choices)
    loss = training_step(classroom, batch._replace(visible=torch.ones_like(batch.visible))).loss
    for gradient in torch.autograd.grad(loss, task_free):
        assert (gradient[[12, 13]] == 0).all(), "neck and head top are not taught"
        assert (gradient[0] != 0).any()


def _without_task(choices):
    from dataclasses import replace

    return replace(choices, task_weight=lambda now: 0.0)


def test_an_opinion_of_other_bins_means_the_same_points(recipe):
    """A network that points at given places is understood so in the student's bins."""
    classroom = build_classroom(recipe, lambda _: None)
    other = classroom.mentors[1]
    coco, size = joint_set("coco"), other.network.input_size
    draw = torch.Generator().manual_seed(0)
    places = torch.rand(3, len(coco), 2, generator=draw) * 24 + 4  # of the student's 32 pixels

    class Pointing(nn.Module):
        codec, input_size, joint_names = other.network.codec, size, coco.names

        def forward(self, images):
            scale = torch.tensor([size[1] / 32, size[0] / 32])
            return self.codec.encode((places + 0.5) * scale - 0.5)

    adapter = JointAdapter(Pointing(), "pointing", classroom.student)
    adapter.decoded = True
    other = Mentor(Pointing(), "pointing", "teacher", adapter=adapter)
    opinion = other.outputs(torch.rand(3, 3, 32, 32))
    known = adapter.mask
    wanted = places[:, [max(coco.names.index(n), 0) for n in joint_set("lsp").names[:12]]]
    torch.testing.assert_close(opinion.extras["points"][:, known], wanted, atol=0.05, rtol=0)
    codec = classroom.student.codec
    share = opinion.logits.softmax(-1).unflatten(-1, (codec.y.bins, codec.x.bins))
    x = (share.sum(-2) * codec.x.to_pixels(torch.arange(codec.x.bins))).sum(-1)
    y = (share.sum(-1) * codec.y.to_pixels(torch.arange(codec.y.bins))).sum(-1)
    means = torch.stack([x, y], -1)[:, known]
    assert (means - wanted).abs().mean() < codec.x.step / 2


def test_such_a_classroom_trains(recipe, tmp_path):
    summary = train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    assert len(summary["mentors"]) == 2
    assert summary["last"]["test_OKS"] > 0
