"""What the mentors say about a batch: asked live, or recalled from the bank.

Shapes: ``M`` mentors, ``B`` samples, ``n`` samples of an epoch.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from classroomkd.core import Lesson
from classroomkd.engine.devices import SINGLE_PROCESS, DistContext
from classroomkd.engine.skip_schedule import SkipSchedule
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import (
    Encoded,
    MentorStore,
    Shard,
    ViewWriter,
    decode_outputs,
    encode_outputs,
    rows,
)
from classroomkd.methods import Method, Outputs

Bins = Callable[[Any], tuple[Tensor, ...]]
"""The true bins of a batch; see `classroomkd.tasks.base.Task.bins`."""
PENDING = 32  # batches whose encoded outputs wait on a GPU, so that the host does not wait at each


class MentorOutputs:
    """Asks every mentor, or reads what it said about the same view before.

    A mentor whose store holds all samples of a view is not run in that epoch. What another says is
    encoded and written to its store, batch by batch.

    Args:
        mentors: ``M`` of them.
        method: what they are asked for.
        example: what a network says about some samples in the student's output space.
        bins: of a batch, for the bank.
        stores: of the bank, one to a mentor; None for a mentor that is always asked.
        top: how many classes are stored beside the true one; None for all.
        skip_schedule: who is asked at which step; None for everybody at each.
        team: with others, a batch's inputs are this process's part of it, and all else is of all
            samples, as what the mentors say is.
        shared: whether each mentor is in one process of the team, which asks it for all.
    """

    def __init__(
        self,
        mentors: Sequence[Mentor],
        method: Method,
        example: Outputs,
        bins: Bins,
        stores: Sequence[MentorStore | None] = (),
        top: int | None = None,
        skip_schedule: SkipSchedule | None = None,
        team: DistContext = SINGLE_PROCESS,
        shared: bool = False,
    ) -> None:
        self.mentors, self.method, self.bins = mentors, method, bins
        self._example = Outputs(example.logits[:1], more=tuple(z[:1] for z in example.more))
        self._extras = {name: value[:1] for name, value in example.extras.items()}
        self.top, self.skip_schedule, self.team = top, skip_schedule, team
        self.shared = shared and team.size > 1 and len(mentors) > 0  # the same in every process
        self.stores = list(stores) or [None] * len(mentors)
        self._shards: dict[int, Shard] = {}
        self._writers: dict[int, ViewWriter] = {}
        self._pending: list[tuple[Tensor, dict[int, Encoded]]] = []
        self._context = ExitStack()

    @property
    def block_shapes(self) -> list[torch.Size]:
        """The shape of each block of a sample's logits: ``[C]``, or ``[U, K]``."""
        return [block.shape[1:] for block in self._example.blocks]

    @property
    def banked(self) -> list[Mentor]:
        """The mentors that are not run in this epoch."""
        return [self.mentors[place] for place in self._shards]

    def begin(self, view: int, index: Tensor, *, store: bool = True) -> None:
        """Look up what is stored for a view.

        Args:
            view: its number.
            index: ``[n]`` int64, the samples that this epoch will show; on the host.
            store: whether to write down what is not.
        """
        self._context.close()  # of an epoch that was not ended
        if self.skip_schedule:
            self.skip_schedule.begin()
        self._shards, self._writers, self._pending = {}, {}, []
        with ExitStack() as context:
            for place, (mentor, own) in enumerate(zip(self.mentors, self.stores, strict=True)):
                if own is None:
                    continue
                shard = own.load(view)
                if shard is not None and (shard.positions(index) >= 0).all():
                    self._shards[place] = shard.to(self._example.logits.device)
                    continue
                mentor.check_that_it_can_run(view)
                if store and self.team.first:
                    writer = context.enter_context(own.begin(view, index.sort().values))
                    if writer is not None:
                        self._writers[place] = writer
            self._context = context.pop_all()

    def end(self) -> None:
        """Put what was written in this epoch on the stores."""
        self._flush()
        self._context.close()
        if any(self.stores):
            self.team.barrier()  # so that all find the same on the stores

    def close(self) -> None:
        """Forget what was written of an epoch that did not end."""
        self._pending = []
        self._context.close()

    def __call__(self, batch: Any) -> list[Outputs]:
        """What each mentor says about a batch; to be called in the precision of the networks."""
        if self.shared:
            return self._masked(self._ask_by_turns(batch))
        recalled = self._recall(batch)
        asked = self.skip_schedule.call() if self.skip_schedule else [True] * len(self.mentors)
        said = [
            recalled.get(place)
            or (self._ask(place, batch) if asked[place] else self._silent(len(batch.index)))
            for place in range(len(self.mentors))
        ]
        if self._writers:
            self._note({place: said[place] for place in self._writers}, batch)
        return self._masked(said)

    def _masked(self, said: list[Outputs]) -> list[Outputs]:
        """With the units that each mentor speaks about, whoever told what it said."""
        pairs = zip(said, self.mentors, strict=True)
        return [replace(one, mask=mentor.adapter.mask) for one, mentor in pairs]

    def note(self, lesson: Lesson) -> None:
        """Tell who taught in the lesson that was made of the last answers."""
        if self.skip_schedule:
            self.skip_schedule.note(lesson)

    def _ask(self, place: int, batch: Any) -> Outputs:
        mentor, method = self.mentors[place], self.method
        with self.team.normalising() if mentor.learns else nullcontext():
            said = mentor.outputs(
                batch[0],
                features=method.needs_features,
                preactivations=method.needs_preactivations,
            )
        return said.map(partial(self.team.gather, views=method.views))

    def _silent(self, count: int) -> Outputs:
        """Of a mentor that is not asked: what is not finite never teaches."""

        def nothing(example: Tensor) -> Tensor:
            return example.new_full((count, *example.shape[1:]), torch.nan, dtype=torch.float32)

        return Outputs(
            nothing(self._example.logits),
            more=tuple(map(nothing, self._example.more)),
            extras={name: nothing(value) for name, value in self._extras.items()},
        )

    def _ask_by_turns(self, batch: Any) -> list[Outputs]:
        """What mentors say where each is in one process, which asks it about the whole batch."""
        whole = self.team.gather(batch[0], self.method.views)
        mine = [mentor.outputs(whole) for mentor in self.mentors if mentor.here]
        silent = self._silent(len(whole))
        turns = -(-len(self.mentors) // self.team.size)
        mine += [silent] * (turns - len(mine))

        def exchanged(*own: Tensor) -> Tensor:
            """``[M, B, ...]`` of all processes, of what this one's mentors gave."""
            given = torch.stack([part.to(whole.dtype) for part in own])
            parts = self.team.gather(given).unflatten(0, (self.team.size, -1))
            return parts.transpose(0, 1).flatten(0, 1)

        blocks = [exchanged(*parts) for parts in zip(*(one.blocks for one in mine), strict=True)]
        extras = {name: exchanged(*(one.extras[name] for one in mine)) for name in silent.extras}
        return [
            Outputs(first, more=tuple(more), extras={name: v[m] for name, v in extras.items()})
            for m, (first, *more) in enumerate(zip(*blocks, strict=True))
        ][: len(self.mentors)]

    @torch.no_grad()
    def _note(self, said: dict[int, Outputs], batch: Any) -> None:
        """Encode what was said; on a GPU, it is fetched some batches later."""
        with torch.autocast(batch.index.device.type, enabled=False):
            bins = self.bins(batch)
            encoded = {
                place: encode_outputs(one.map(Tensor.float), bins, self.top)
                for place, one in said.items()
            }
        self._pending.append((batch.index, encoded))
        if batch.index.device.type == "cpu" or len(self._pending) >= PENDING:
            self._flush()

    def _flush(self) -> None:
        for index, encoded in self._pending:
            for place, stored in encoded.items():
                on_host = {name: tensor.cpu() for name, tensor in stored.items()}
                self._writers[place].write(index.cpu(), on_host)
        self._pending = []

    def _recall(self, batch: Any) -> dict[int, Outputs]:
        """What the stored mentors said; decoded at once for all of them."""
        if not self._shards:
            return {}
        with torch.autocast(batch.index.device.type, enabled=False):  # decoding is exact
            found = [rows(s.stored, s.positions(batch.index)) for s in self._shards.values()]
            stacked = {name: torch.stack([one[name] for one in found]) for name in found[0]}
            classes = [shape[-1] for shape in self.block_shapes]
            said = decode_outputs(stacked, self.bins(batch), classes)
        return dict(zip(self._shards, said, strict=True))
