"""What the mentors say about a batch: asked live, or recalled from the bank.

Shapes: ``M`` mentors, ``B`` samples, ``C`` classes.
"""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from classroomkd.core import Lesson
from classroomkd.data import Batch
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.skip_schedule import SkipSchedule, silence
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import MentorStore, Shard, decode, encode, rows
from classroomkd.methods import Method, Outputs


def outputs(
    network: nn.Module | Mentor, images: Tensor, method: Method, team: DistContext = SINGLE_PROCESS
) -> Outputs:
    """What a network or mentor says about images: all that a method needs.

    In a team, ``images`` are this process's part of a batch, and what is said is about all of it.
    """
    trains = not isinstance(network, Mentor) or network.learns
    with team.normalising() if trains else nullcontext():
        if not method.needs_features:
            return Outputs(team.gather(network(images), method.views))
        options = {"preactivations": True} if method.needs_preactivations else {}
        stages = dict(network.forward_stages(images, **options))  # type: ignore[operator]
    whole = {name: team.gather(stage, method.views) for name, stage in stages.items()}
    return Outputs(whole.pop("logits"), whole, getattr(network, "classifier", None))


def shared_outputs(
    mentors: Sequence[Mentor], images: Tensor, views: int, classes: int, team: DistContext
) -> list[Outputs]:
    """What mentors say about a batch where each is in one process, by turns.

    Args:
        mentors: ``M`` of them, here or away.
        images: this process's part of the batch.
        views: how many of each sample are in it.
        classes: ``C``.
        team: ``W`` processes.
    """
    whole = team.gather(images, views)
    own = whole.new_zeros(-(-len(mentors) // team.size), len(whole), classes)
    for place, mentor in enumerate(mentor for mentor in mentors if mentor.here):
        own[place] = mentor(whole)
    said = team.gather(own).unflatten(0, (team.size, -1)).transpose(0, 1).flatten(0, 1)
    return [Outputs(logits) for logits in said[: len(mentors)]]


class MentorOutputs:
    """Asks every mentor, or reads what it said about the same view before.

    A mentor whose store holds all samples of a view is not run in that epoch. What another says is
    written down, and put on its store when the epoch ends.

    Args:
        mentors: ``M`` of them.
        method: what they are asked for.
        device: where batches are.
        classes: ``C``.
        stores: of the bank, one to a mentor; None for a mentor that is always asked.
        top: how many classes are stored beside the true one; None for all.
        skip_schedule: who is asked at which step; None for everybody at each.
        team: with others, a batch's images are this process's part of it, its targets and numbers
            are those of all samples, and so is what the mentors say.
        shared: whether each mentor is in one process of the team, which asks it for all.
    """

    def __init__(
        self,
        mentors: Sequence[Mentor],
        method: Method,
        device: torch.device,
        classes: int,
        stores: Sequence[MentorStore | None] = (),
        top: int | None = None,
        skip_schedule: SkipSchedule | None = None,
        team: DistContext = SINGLE_PROCESS,
        shared: bool = False,
    ) -> None:
        self.mentors, self.method, self.device = mentors, method, device
        self.classes, self.top = classes, top
        self.skip_schedule, self.team = skip_schedule, team
        self.shared = shared and team.size > 1 and len(mentors) > 0  # the same in every process
        self.stores = list(stores) or [None] * len(mentors)
        self._shards: dict[int, Shard] = {}
        self._written: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}
        self._view = 0

    @property
    def banked(self) -> list[Mentor]:
        """The mentors that are not run in this epoch."""
        return [self.mentors[place] for place in self._shards]

    def begin(self, view: int, index: Tensor) -> None:
        """Look up what is stored for a view.

        Args:
            view: its number.
            index: ``[n]`` int64, the samples that this epoch will show; on the host.
        """
        if self.skip_schedule:
            self.skip_schedule.begin()
        self._view, self._shards, self._written = view, {}, {}
        for place, (mentor, store) in enumerate(zip(self.mentors, self.stores, strict=True)):
            if store is None:
                continue
            shard = store.load(view)
            if shard is not None and (shard.positions(index) >= 0).all():
                self._shards[place] = shard.to(self.device)
            else:
                mentor.check_that_it_can_run(view)
                self._written[place] = []

    def end(self) -> None:
        """Put what was written down in this epoch on the stores."""
        for place, notes in self._written.items():
            store = self.stores[place]
            if store is not None and notes and self.team.first:
                index, target, logits = (torch.cat(part).cpu() for part in zip(*notes, strict=True))
                order = index.argsort()
                encoded = encode(logits[order], target[order], self.top)
                store.save(self._view, Shard(index[order], encoded))
        if self._written:
            self.team.barrier()  # so that all find the same on the stores
        self._written = {}

    def __call__(self, batch: Batch) -> list[Outputs]:
        """What each mentor says about a batch; to be called in the precision of the networks."""
        if self.shared:
            views = self.method.views
            return shared_outputs(self.mentors, batch.images, views, self.classes, self.team)
        recalled = self._recall(batch)
        asked = self.skip_schedule.call() if self.skip_schedule else [True] * len(self.mentors)
        return [
            recalled.get(place)
            or (self._ask(place, batch) if asked[place] else self._silent(batch))
            for place in range(len(self.mentors))
        ]

    def note(self, lesson: Lesson) -> None:
        """Tell who taught in the lesson that was made of the last answers."""
        if self.skip_schedule:
            self.skip_schedule.note(lesson)

    def _silent(self, batch: Batch) -> Outputs:
        return Outputs(silence(len(batch.target), self.classes, batch.images.device))

    def _ask(self, place: int, batch: Batch) -> Outputs:
        said = outputs(self.mentors[place], batch.images, self.method, self.team)
        if place in self._written:
            self._written[place].append((batch.index, batch.label, said.logits.float()))
        return said

    def _recall(self, batch: Batch) -> dict[int, Outputs]:
        """What the stored mentors said; decoded at once for all of them."""
        if not self._shards:
            return {}
        with torch.autocast(batch.index.device.type, enabled=False):  # decoding is exact
            found = [rows(s.stored, s.positions(batch.index)) for s in self._shards.values()]
            stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
            logits = decode(stacked, batch.label, self.classes)
        return dict(zip(self._shards, map(Outputs, logits), strict=True))
