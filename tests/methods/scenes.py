"""What tests of feature methods share: maps with random numbers, and torchdistill, the oracle."""

import warnings

import pytest
import torch

from classroomkd.methods import Outputs, create_method

B, C = 3, 4
TARGET = torch.tensor([0, 3, 1])


def torchdistill_losses():
    """torchdistill's losses, or a skipped test where it is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what another package warns of at import is not ours
        return pytest.importorskip(
            "torchdistill.losses.mid_level", reason="torchdistill is the oracle of this test"
        )


def io(features):
    return {name: {"output": value} for name, value in features.items()}


def at(path):
    return {"io": "output", "path": path}


def random(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def says(*shapes, seed=0):
    """Logits, and maps ``[B, *shape]`` named stem, stage1, ... like a network's."""
    names = ["stem", *(f"stage{i}" for i in range(1, len(shapes)))]
    maps = {n: random(B, *s, seed=seed + i) for i, (n, s) in enumerate(zip(names, shapes))}  # noqa: B905
    return Outputs(random(B, C, seed=seed), maps)


def whole(outputs):
    """The same, with pre-activations, a map that is pooled and a classifier, as of a network."""
    last = outputs.features.get("head", list(outputs.features.values())[-1])
    before = {f"{n}_preact": v - 0.1 for n, v in outputs.features.items() if n.startswith("stage")}
    before = {n: v for n, v in before.items() if not n.endswith("_preact_preact")}
    features = {**before, **outputs.features, "head": last, "pooled": last.mean((2, 3))}
    classifier = torch.nn.Linear(last.shape[1], outputs.logits.shape[1], device=last.device)
    return Outputs(outputs.logits, features, classifier.to(last.dtype))


def lesson_of(name, student, mentor, **options):
    """A method set up in float64, and its lesson."""
    torch.manual_seed(0)
    method = create_method(name, **options)
    method.setup(student, [mentor])
    method.double()
    return method, method(student, [mentor], TARGET)


def term(lesson):
    """The mentor's term of a loss: a number."""
    return lesson.loss - lesson.task_loss.mean()


SMALL = (5, 4, 4), (6, 4, 4), (7, 2, 2)
EQUAL = (8, 4, 4), (9, 4, 4), (10, 2, 2)
LARGE = (8, 8, 8), (9, 4, 4), (3, 4, 4)
