"""Pose estimation as the engine sees it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from classroomkd.core import Signals
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.methods import Outputs, method_class
from classroomkd.methods.base import read_outputs
from classroomkd.tasks.base import AllGather, Finding, Place, Saved, Task, alone
from classroomkd.tasks.pose.data import (
    PersonSet,
    PoseBatch,
    PoseLoader,
    PoseViews,
    development_persons,
    load_persons,
)
from classroomkd.tasks.pose.mentor import JointAdapter, open_pose_mentor
from classroomkd.tasks.pose.metrics import evaluate_pose, headline
from classroomkd.tasks.pose.models import (
    PoseNetwork,
    PoseStudentFile,
    build_pose_model,
    load_pose_student,
    save_pose_student,
)
from classroomkd.tasks.pose.models.codec import codec_to_dict
from classroomkd.tasks.pose.models.files import load_pose_weights
from classroomkd.tasks.pose.recipe import PoseMentorRecipe, PoseRecipe
from classroomkd.tasks.pose.signals import PoseLoss, pose_signals

EVALUATION_BATCH = 128


class Pose(Task):
    """Persons in crops: each joint is a classification over the bins of the student's head.

    Attributes:
        loss: what scores, units and the task are; from `prepare` on.
    """

    name = "pose"
    samples = "persons"
    outputs = "joints"
    loss: PoseLoss

    def __init__(self, recipe: PoseRecipe, place: Place) -> None:
        super().__init__(recipe, place)
        self._student: PoseNetwork | None = None

    def _persons(self, split: str) -> PersonSet:
        data = self.recipe.data
        options = {name: getattr(data, name) for name in ("category", "joints", "heads")}
        if split == "test":
            options["boxes"] = data.boxes
        given = {key: value for key, value in options.items() if value is not None}
        persons = load_persons(data.name, split, data.path, bad=data.bad, **given)
        self.headline = headline(persons)
        return persons

    def training_sets(self) -> tuple[PersonSet, PersonSet | None]:
        """The training set less its development split, and the latter (None if its size is 0)."""
        whole, data = self._persons("train"), self.recipe.data
        if not data.dev:
            return whole, None
        return development_persons(whole, data.dev, data.dev_seed)

    def test_set(self) -> PersonSet:
        """The persons that students are judged by at the end."""
        return self._persons("test")

    def training_loader(
        self, dataset: PersonSet, *, views: int = 1, batch_size: int | None = None
    ) -> PoseLoader:
        """Persons in the recipe's views; see `Task.training_loader`."""
        recipe = self.recipe
        return PoseLoader(
            dataset,
            batch_size or recipe.train.batch_size,
            size=recipe.student.input,
            seed=recipe.seed,
            view_seed=recipe.data.view_seed,
            repeat=recipe.data.repeat,
            augment=PoseViews(**recipe.data.views),
            padding=recipe.data.padding,
            shuffle=batch_size is None,
            drop_last=batch_size is None and len(dataset) >= recipe.train.batch_size,
            device=self.place.device,
            workers=self._workers(),
            part=self.place.part,
        )

    def plain_loader(self, dataset: PersonSet) -> PoseLoader:
        """Plain crops of all persons, in their own order."""
        return PoseLoader(
            dataset,
            EVALUATION_BATCH,
            size=self.recipe.student.input,
            padding=self.recipe.data.padding,
            device=self.place.device,
            workers=self._workers(),
        )

    def _workers(self) -> int:
        """As the recipe says, or this process's share of the machine."""
        own = self.recipe.data.workers
        share = max(1, (os.cpu_count() or 1) // self.place.sharing)
        return min(8, share) if own is None else own

    def example(self, dataset: PersonSet, count: int) -> Tensor:
        """Black crops: shapes do not depend on what is seen."""
        return torch.zeros(count, 3, *self.recipe.student.input, device=self.place.device)

    def build_student(self, dataset: PersonSet) -> PoseNetwork:
        """The recipe's student for the persons' joints, with its first weights."""
        entry, joints = self.recipe.student, dataset.joints
        try:
            student = build_pose_model(
                entry.model,
                joints.names,
                joints.pairs,
                entry.input,
                pretrained=entry.pretrained,
                **entry.options,
            )
        except (ValueError, TypeError) as error:
            raise ClassroomError(f"student: {error}") from error
        if entry.checkpoint is not None:
            load_pose_weights(student, entry.checkpoint)
        return student

    def open_mentor(
        self, entry: PoseMentorRecipe, name: str, student: PoseNetwork, dataset: PersonSet
    ) -> Mentor:
        """A mentor that speaks in the student's joints and bins."""
        return open_pose_mentor(entry, name, student)

    def prepare(
        self, student: PoseNetwork, mentors: Sequence[Mentor], dataset: PersonSet
    ) -> Iterator[str]:
        """Settle by what everybody is ranked."""
        loss, adapters = self.recipe.loss, [_joints(mentor) for mentor in mentors]
        score = loss.score
        if score == "auto":
            alike = all(adapter.shares_bins for adapter in adapters)
            score = "likelihood" if alike else "oks"
        for adapter in adapters:
            adapter.decoded = score == "oks"
        self._student = student
        sigmas = torch.tensor(dataset.joints.sigmas, device=self.place.device)
        self.loss = PoseLoss(score, loss.task, loss.unlabelled, sigmas)
        if mentors:
            yield f"mentors are ranked by {'OKS' if score == 'oks' else 'likelihood'}"
        if method_class(self.recipe.method.name).own_task:
            yield f"the task is {loss.task}, as {self.recipe.method.name} has it"

    def student_outputs(
        self,
        student: PoseNetwork,
        inputs: Tensor,
        *,
        features: bool = False,
        preactivations: bool = False,
    ) -> Outputs:
        """Logits in its bins, and the points that it is ranked by, where that is by OKS."""
        said = read_outputs(student, inputs, features=features, preactivations=preactivations)
        given = tuple(block.float() for block in said.logits)  # a network gives its blocks
        first, *more = student.codec.logits(given)
        extras = {"points": student.codec.decode(given)[0]} if self.loss.score == "oks" else {}
        return Outputs(first, said.features, None, tuple(more), extras)

    def signals(self, student: Outputs, mentors: Sequence[Outputs], batch: PoseBatch) -> Signals:
        """See `pose_signals`."""
        assert self._student is not None  # see prepare
        return pose_signals(self._student.codec, student, mentors, batch, self.loss)

    def bins(self, batch: PoseBatch) -> tuple[Tensor, ...]:
        """The bin that each joint is in, ``[B, U]`` a block."""
        assert self._student is not None
        codec = self._student.codec
        return tuple(block.argmax(-1) for block in codec.logits(codec.encode(batch.points)))

    def view_key(self, dataset: PersonSet) -> dict[str, Any]:
        """All that crops of a view, and the student's bins, follow from."""
        assert self._student is not None
        recipe, data = self.recipe, self.recipe.data
        return {
            "data": {"name": data.name, "fingerprint": dataset.fingerprint},
            "joints": list(dataset.joints.names),
            "input": list(recipe.student.input),
            "padding": data.padding,
            "bins": codec_to_dict(self._student.codec),
            "views": asdict(PoseViews(**data.views)),
            "seed": recipe.seed if data.view_seed is None else data.view_seed,
            "repeat": data.repeat,
            "top": recipe.bank.top if recipe.bank else None,
        }

    def evaluate(
        self, network: PoseNetwork, loader: PoseLoader, all_gather: AllGather = alone
    ) -> dict[str, float]:
        """How well a student finds joints in plain crops; see `evaluate_pose`."""
        flip = self.recipe.loss.flip_test
        return evaluate_pose(network, loader, loader.persons, flip=flip, all_gather=all_gather)[0]

    def save(
        self,
        student: PoseNetwork,
        folder: Path,
        dataset: PersonSet,
        epoch: int,
        result: float | None,
    ) -> None:
        """Write ``student.safetensors`` and ``student.json``."""
        info = PoseStudentFile(
            dataset.joints.name, self.recipe.data.name, epoch, self.headline, result
        )
        save_pose_student(student, info, folder)

    def load(self, folder: Path) -> Saved:
        """A student from its files, with its headline."""
        student, info = load_pose_student(folder)
        return Saved(student, info.epoch, info.score, tuple(student.joint_names))

    def output_names(self, dataset: PersonSet) -> tuple[str, ...]:
        """The joints."""
        return dataset.joints.names

    def illustrate(self, classroom: Any, student: PoseNetwork, folder: Path) -> None:
        """Keep in the run folder what `figures` draws; see `keep_pictures`."""
        from classroomkd.tasks.pose.pictures import keep_pictures

        keep_pictures(classroom, student, folder)

    def examine(
        self, classroom: Any, views: PoseBatch, taught: Sequence[Outputs]
    ) -> Iterable[Finding]:
        """What the doctor says about persons and mentors; see `checks`."""
        from classroomkd.tasks.pose.checks import examine

        return examine(classroom)

    @staticmethod
    def figures(folder: Path, prefix: str) -> list[str]:
        """Skeletons of some persons, who taught which joint, and heatmaps of all networks."""
        from classroomkd.tasks.pose.album import pose_pictures

        return pose_pictures(folder, prefix)


def _joints(mentor: Mentor) -> JointAdapter:
    assert isinstance(mentor.adapter, JointAdapter)  # all are opened by this task
    return mentor.adapter
