"""Image classification: how well a network does on it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError

from classroomkd.data import Batch


@torch.inference_mode()
def evaluate(network: nn.Module, batches: Iterable[Batch], num_classes: int) -> dict[str, float]:
    """How well a network classifies, in eval mode and float32; its mode is restored.

    Args:
        network: images in [0, 1] to logits ``[B, C]``.
        batches: on the network's device.
        num_classes: ``C``.

    Returns:
        ``top1`` and ``top5`` accuracy in percent (of all samples, not of classes), ``nll``, the
        mean negative log-likelihood in nats, and ``ece``, the expected calibration error in
        percent (15 bins).
    """
    device = next(network.parameters()).device
    alone: Any = {"sync_on_compute": False}  # in a training of several processes, one judges
    top5 = min(5, num_classes)
    metrics = MetricCollection(
        {
            "top1": MulticlassAccuracy(num_classes, average="micro", **alone),
            "top5": MulticlassAccuracy(num_classes, top_k=top5, average="micro", **alone),
            "ece": MulticlassCalibrationError(num_classes, n_bins=15, **alone),
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
    percent = {name: 100 * value.item() for name, value in metrics.compute().items()}
    return {
        **{k: percent[k] for k in ("top1", "top5")},
        "nll": nll.item() / count,
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
