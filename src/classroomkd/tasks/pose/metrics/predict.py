"""Where a network sees the joints of persons, in pixels of their images.

Shapes: ``N`` persons, ``B`` persons in a batch, ``U`` joints.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from classroomkd.errors import ClassroomError
from classroomkd.tasks.base import AllGather, alone
from classroomkd.tasks.pose.data.crop import apply_affine
from classroomkd.tasks.pose.data.loader import PoseBatch, PoseLoader
from classroomkd.tasks.pose.data.persons import PersonSet
from classroomkd.tasks.pose.models.flip import flip_test
from classroomkd.tasks.pose.models.network import PoseNetwork


class Predictions(NamedTuple):
    """Where a network sees the joints of persons; on the host.

    ``points`` ``[N, U, 2]`` float32 in image pixels; ``confidence`` ``[N, U]`` in [0, 1];
    ``index`` ``[N]`` int64, the persons' own numbers.
    """

    points: Tensor
    confidence: Tensor
    index: Tensor

    def ordered(self, persons: PersonSet) -> "Predictions":
        """Those of a set's persons, in its order.

        Raises:
            ValueError: if one of them is missing, as a loader that drops its last batch has it.
        """
        place = {number: row for row, number in enumerate(self.index.tolist())}
        missing = [number for number in persons.index.tolist() if number not in place]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(persons)} persons were not predicted, such as"
                f" {missing[0]}: the loader must show all of them"
            )
        rows = torch.tensor([place[n] for n in persons.index.tolist()], dtype=torch.int64)
        return Predictions(self.points[rows], self.confidence[rows], self.index[rows])


@torch.inference_mode()
def predictions(
    network: PoseNetwork,
    batches: Iterable[PoseBatch],
    *,
    flip: bool = True,
    all_gather: AllGather = alone,
) -> Predictions:
    """Where a network sees joints, in eval mode and float32; its mode is restored.

    Args:
        network: the joints' finder.
        batches: `PoseBatch`es of plain views, on the network's device.
        flip: average its outputs on each crop and on the mirrored one (the flip test).
        all_gather: see `classroomkd.tasks.base.Task.evaluate`; all processes' persons are returned.

    Raises:
        ValueError: if a loader's views are not plain.
        ClassroomError: if there are no batches, or the network gives what is not finite.
    """
    if isinstance(batches, PoseLoader) and batches.augment is not None:
        raise ValueError("a network is judged on plain views: make the loader without augment")
    parts = []
    with in_eval_mode(network):
        for batch in batches:
            outputs = flip_test(network, batch.images) if flip else network(batch.images)
            points, confidence = network.codec.decode(tuple(block.float() for block in outputs))
            points = _resized(points, network.input_size, batch.images.shape[-2:])
            parts.append((apply_affine(batch.inverse, points), confidence.float(), batch.index))
    own = tuple(torch.cat(part).cpu() for part in zip(*parts, strict=True))
    shares = [share for share in all_gather(own) if share]
    if not shares:
        raise ClassroomError("there is nobody to judge the network by: the set is empty")
    points, confidence, index = (torch.cat(share) for share in zip(*shares, strict=True))
    if not (points.isfinite().all() and confidence.isfinite().all()):
        raise ClassroomError(
            "the network's outputs are not finite: the run diverged; lower the learning rate"
        )
    return Predictions(points, confidence, index)


@contextmanager
def in_eval_mode(network: nn.Module) -> Iterator[None]:
    """Every part of a network in eval mode; afterwards each is in the mode that it was in."""
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _resized(points: Tensor, size: tuple[int, int], shown: tuple[int, int] | torch.Size) -> Tensor:
    """Points in pixels of a network's input ``(H, W)``, in pixels of the crop that it resized."""
    if tuple(size) == tuple(shown):
        return points
    ratio = torch.tensor(
        [shown[1] / size[1], shown[0] / size[0]], dtype=points.dtype, device=points.device
    )
    return (points + 0.5) * ratio - 0.5
