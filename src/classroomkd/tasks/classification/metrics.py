"""Image classification: how well a network does on it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from classroomkd.data import Batch
from classroomkd.tasks.base import AllGather, alone


@torch.inference_mode()
def evaluate(
    network: nn.Module,
    batches: Iterable[Batch],
    num_classes: int,
    all_gather: AllGather = alone,
) -> dict[str, float]:
    """How well a network classifies, in eval mode and float32; its mode is restored.

    Args:
        network: images in [0, 1] to logits ``[B, C]``.
        batches: on the network's device; of several processes, each has some.
        num_classes: ``C``.
        all_gather: see `classroomkd.tasks.base.Task.evaluate`.

    Returns:
        ``top1`` and ``top5`` accuracy in percent (of all samples, not of classes), ``nll``, the
        mean negative log-likelihood in nats, and ``ece``, the expected calibration error in
        percent (15 bins).
    """
    device = next(network.parameters()).device
    own: Any = {"sync_on_compute": False}  # `all_gather` says who else has seen any
    top5 = min(5, num_classes)
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", **own),
            "top5": MulticlassAccuracy(num_classes, top_k=top5, average="micro", **own),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15, **own),
        }
    ).to(device)
    nll = torch.zeros((), dtype=torch.float64, device=device)
    count = 0
    training = network.training
    network.eval()
    for batch in batches:
        logits = network(batch.images).float()
        metrics.update(logits.softmax(-1), batch.target)
        nll += F.cross_entropy(logits, batch.target, reduction="sum")
        count += len(batch.target)
    network.train(training)
    (metrics, nll, count), *others = all_gather((metrics.cpu(), nll.item(), count))
    for found, other_nll, other_count in others:
        for name, metric in metrics.items():
            metric.merge_state(found[name])
        nll, count = nll + other_nll, count + other_count
    metrics["ece"].set_dtype(torch.float64)  # sums then do not depend on the order of batches
    percent = {name: 100 * value.item() for name, value in metrics.compute().items()}
    return {
        **{k: percent[k] for k in ("top1", "top5")},
        "nll": nll / count,
        "ece": percent["ece"],
    }


@torch.inference_mode()
def accuracy(predict: Callable[[Tensor], Tensor], batches: Iterable[Batch]) -> float:
    """The share of samples, in percent, whose largest logit is that of the target's class.

    Args:
        predict: images in [0, 1] to logits ``[B, C]``.
        batches: where ``predict`` wants them.
    """
    hits = [predict(batch.images).argmax(-1) == batch.target for batch in batches]
    return 100 * torch.cat(hits).float().mean().item()
