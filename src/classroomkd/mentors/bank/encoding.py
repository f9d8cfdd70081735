"""How a mentor's logits are stored: in float16, all of them or the largest ones.

A sample's logits are stored as distances to the largest logit among the classes that are not the
true one. Float16 is then finest where the probability is, whatever the scale of the logits. The
true class is stored on its own, in float32, so that its probability stays exact.

Shapes: ``M`` mentors, ``B`` samples of a batch, ``C`` classes, ``N`` samples, ``k`` classes kept.
Where samples have ``U`` units, each is stored as if it were a sample: ``[N, U]`` for ``[N]``.

========== ======== ===================== =================================================
``logits`` ``[N, C]`` float16             full: logits less ``peak`` (0 for the true class)
``value``  ``[N, k]`` float16             top-k: the k largest of them
``place``  ``[N, k]`` uint8, int16, int32 top-k: their classes
``rest``   ``[N]``    float32             top-k: logit less ``peak`` that any other class gets,
                                          such that the mass of them all is what it was
``peak``   ``[N]``    float32             the largest logit of the other classes
``odds``   ``[N]``    float32             the true class's logit less logsumexp of the others
========== ======== ===================== =================================================
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from classroomkd.errors import ClassroomError
from classroomkd.methods import Outputs

Encoded = dict[str, Tensor]


def encode(logits: Tensor, target: Tensor, top: int | None = None) -> Encoded:
    """What is stored of a mentor's logits; computed in float64. Nothing is read back to the host.

    Args:
        logits: ``[N, C]`` or ``[N, U, C]``. Those with a NaN or an infinity come back as NaN.
        target: ``[N]`` or ``[N, U]`` int64, the true classes.
        top: how many classes to keep beside the true one; None, or ``C - 1`` and more, for all.

    Raises:
        ValueError: for shapes that do not fit, fewer than 2 classes, or ``top`` below 1.

    >>> stored = encode(torch.tensor([[9.0, 2.0, 1.0, 1.0]]), torch.tensor([0]), top=1)
    >>> {name: tensor.tolist() for name, tensor in stored.items() if name in ("place", "peak")}
    {'peak': [2.0], 'place': [[1]]}
    >>> decode(stored, torch.tensor([0]), classes=4)
    tensor([[9., 2., 1., 1.]])
    """
    if logits.ndim not in (2, 3) or logits.shape[-1] < 2 or target.shape != logits.shape[:-1]:
        shapes = f"{list(logits.shape)} and {list(target.shape)}"
        raise ValueError(f"logits [N, C] with C of 2 or more and target [N] expected, not {shapes}")
    if top is not None and top < 1:
        raise ValueError(f"top must be 1 or more, not {top}")
    exact = logits.detach().double()
    exact = exact.masked_fill(~exact.isfinite().all(-1, keepdim=True), math.nan)
    true = target[..., None]
    others = exact.scatter(-1, true, -math.inf)
    peak = others.amax(-1, keepdim=True)
    odds = exact.gather(-1, true) - others.logsumexp(-1, keepdim=True)
    stored = {"odds": odds[..., 0].float(), "peak": peak[..., 0].float()}
    if _is_full(logits.shape[-1], top):
        stored["logits"] = (others - peak).scatter(-1, true, 0).half()
    else:
        stored |= _largest(others - peak, top or 0)
    return stored


def check_range(stored: Mapping[str, Tensor]) -> None:
    """See that what was encoded can be held by its types.

    Raises:
        ClassroomError: if a sample's logits lie further apart than float16 reaches.
    """
    parts = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    lost = torch.stack([part.reshape(len(part), -1).isinf().any(1) for part in parts]).any(0)
    if count := int(lost.sum()):
        raise ClassroomError(
            f"{count} of {len(lost)} samples have logits that lie more than 65504 apart, which "
            "float16 cannot hold: check this mentor's weights, mean and std, or leave it out of "
            "the bank, so that it runs live"
        )


def decode(stored: Mapping[str, Tensor], target: Tensor, classes: int) -> Tensor:
    """Logits ``[B, C]`` float32 of stored samples, or ``[M, B, C]`` of those of several mentors.

    With units, ``[B, U, C]`` and ``[M, B, U, C]``.

    The true class's probability is that of the encoded logits, to the resolution of float32.
    Nothing is read back to the host.

    Args:
        stored: `rows` of what `encode` gave; with a leading axis of mentors if stacked.
        target: ``[B]`` or ``[B, U]`` int64, the same as in `encode`.
        classes: ``C``.

    Raises:
        ValueError: if what is stored has another number of classes.
    """
    odds, peak = stored["odds"][..., None], stored["peak"][..., None]
    if "logits" not in stored:
        rest = stored["rest"][..., None].expand(*odds.shape[:-1], classes)
        others = rest.scatter(-1, stored["place"].long(), stored["value"].float())
    elif stored["logits"].shape[-1] == classes:
        others = stored["logits"].float()
    else:
        raise ValueError(f"{stored['logits'].shape[-1]} classes are stored, not {classes}")
    true = target[..., None].expand(odds.shape)
    others = others.scatter(-1, true, -math.inf)
    return others.scatter(-1, true, odds + others.logsumexp(-1, keepdim=True)) + peak


def rows(stored: Mapping[str, Tensor], positions: Tensor) -> Encoded:
    """The samples at ``positions`` ``[B]`` int64 of what is stored."""
    return {name: tensor.index_select(0, positions) for name, tensor in stored.items()}


def bytes_per_sample(classes: int, top: int | None = None) -> int:
    """Bytes that a sample of one view and mentor takes on disk, its number (8) included.

    >>> bytes_per_sample(100), bytes_per_sample(100, top=10), bytes_per_sample(50_000, top=10)
    (216, 50, 80)
    """
    number, odds, peak, rest, half = 8, 4, 4, 4, 2
    if _is_full(classes, top):
        return number + odds + peak + half * classes
    return number + odds + peak + rest + (half + _place_dtype(classes).itemsize) * (top or 0)


def _is_full(classes: int, top: int | None) -> bool:
    return top is None or top >= classes - 1


def _place_dtype(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 2**8 else torch.int16 if classes <= 2**15 else torch.int32


def _largest(others: Tensor, top: int) -> Encoded:
    """The ``top`` largest of ``others`` ``[N, C]`` (-inf for the true class), and the rest."""
    value, place = others.topk(top, dim=-1)
    remaining = others.scatter(-1, place, -math.inf).logsumexp(-1)
    rest = remaining - math.log(others.shape[-1] - 1 - top)
    place = place.to(_place_dtype(others.shape[-1]))
    return {"value": value.half(), "place": place, "rest": rest.float()}


def encode_outputs(said: Outputs, bins: Sequence[Tensor], top: int | None = None) -> Encoded:
    """What is stored of all that a mentor said: each block as by `encode`, and extras in float32.

    Args:
        said: about ``N`` samples; its features are not stored.
        bins: the true bin of every unit, ``[N]`` or ``[N, U]`` a block.
        top: as in `encode`.
    """
    stored = {
        f"{_prefix(number)}{name}": tensor
        for number, (block, target) in enumerate(zip(said.blocks, bins, strict=True))
        for name, tensor in encode(block, target, top).items()
    }
    return stored | {f"{_EXTRA}{name}": value.float() for name, value in said.extras.items()}


def decode_outputs(
    stored: Mapping[str, Tensor], bins: Sequence[Tensor], classes: Sequence[int]
) -> list[Outputs]:
    """What mentors said, from `rows` of what `encode_outputs` gave, stacked: ``[M, B, ...]``.

    Args:
        stored: of ``M`` mentors.
        bins: as in `encode_outputs`.
        classes: of every block.

    Raises:
        ValueError: if what is stored has other blocks or classes.
    """
    blocks = []
    for number, (target, count) in enumerate(zip(bins, classes, strict=True)):
        own = _prefix(number)
        names = ("odds", "peak", "rest", "value", "place", "logits")
        block = {name: stored[own + name] for name in names if own + name in stored}
        blocks.append(decode(block, target, count))
    extras = {name.removeprefix(_EXTRA): v for name, v in stored.items() if name.startswith(_EXTRA)}
    return [
        Outputs(first, more=tuple(more), extras={name: v[m] for name, v in extras.items()})
        for m, (first, *more) in enumerate(zip(*blocks, strict=True))
    ]


_EXTRA = "extra."


def _prefix(number: int) -> str:
    """Of the names of a block; none for the first, which is all that classification has."""
    return f"{number}." if number else ""
