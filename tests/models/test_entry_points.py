"""Factories of other packages: what they may give, and what is said of those that do not."""

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import nn

from classroomkd.errors import ClassroomError
from classroomkd.models import build_model, load_weights
from classroomkd.models.external import from_entry_point
from classroomkd.tasks.classification.mentor import open_mentor
from classroomkd.tasks.classification.recipe import MentorRecipe

LETTERS = tuple("abcdefg")


class Tiny(nn.Module):
    """A network as another package may have it, with attributes that say what it takes."""

    def __init__(self, num_classes, **said):
        super().__init__()
        self.model = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes),
        )  # fmt: skip
        vars(self).update(said)

    def forward(self, x):
        return self.model(x)


def failing(num_classes):
    raise RuntimeError("no such device")


def tupled(num_classes):
    model = Tiny(num_classes)
    model.forward = lambda x: (model.model(x), x)
    return model


def weights(num_classes=7, pretrained=False):
    torch.manual_seed(5 if pretrained else 6)
    return Tiny(num_classes, classes=LETTERS if num_classes == 7 else None)


def misnamed(num_classes=7, pretrained=False):
    return Tiny(num_classes, classes=("a", "b"))


def anything(**options):
    return Tiny(options.get("num_classes", 7))


FACTORIES = {
    "plain": lambda num_classes: Tiny(num_classes, mean=(0.5, 0.5, 0.5)),
    "tensors": lambda num_classes: Tiny(
        num_classes, mean=torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1), std=[1, 2, 3]
    ),
    "side": lambda num_classes: Tiny(num_classes, input_size=48),
    "shape": lambda num_classes: Tiny(num_classes, input_size=(3, 40, 48)),
    "weights": weights,
    "anything": anything,
    "misnamed": misnamed,
    "failing": failing,
    "tupled": tupled,
    "nobody": lambda num_classes: "a network",
    "stubborn": lambda num_classes: Tiny(3),
    "no_numbers": lambda num_classes: Tiny(num_classes, mean="imagenet"),
    "no_scale": lambda num_classes: Tiny(num_classes, std=(0, 1, 1)),
    "no_size": lambda num_classes: Tiny(num_classes, input_size="large"),
    "one_size": lambda num_classes: nn.Sequential(nn.Flatten(), nn.Linear(3 * 32**2, num_classes)),
    "needs_count": lambda num_classes, pretrained=False: Tiny(num_classes),
}


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    class Registered(EntryPoint):
        def load(self):
            if self.name == "lost":
                raise ImportError("No module named 'nowhere'")
            return FACTORIES[self.name]

    entries = [Registered(name, "m:f", "classroomkd.models") for name in [*FACTORIES, "lost"]]
    monkeypatch.setattr(from_entry_point, "entry_points", lambda group: entries)


def images(size=32):
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def test_a_factory_becomes_a_network():
    network = build_model("entry/plain", 7).eval()
    assert network.name == "entry/plain"
    assert network.normalize.mean.flatten().tolist() == [0.5] * 3
    features = network.forward_stages(images())
    assert list(features) == ["stem", "stage1", "head", "pooled", "logits"]


def test_what_a_module_says_of_its_pixels():
    normalize = build_model("entry/tensors", 7).normalize
    torch.testing.assert_close(normalize.mean.flatten(), torch.tensor([0.1, 0.2, 0.3]))
    assert normalize.std.flatten().tolist() == [1, 2, 3]
    assert build_model("entry/side", 7).normalize(images()).shape[2:] == (48, 48)
    assert build_model("entry/shape", 7).normalize(images()).shape[2:] == (40, 48)


def test_a_factory_with_weights_is_a_mentor_with_its_own_classes():
    recipe = MentorRecipe(model="entry/weights", pretrained=True)
    mentor = open_mentor(recipe, "m", ("c", "a"))
    own = weights(pretrained=True).eval()
    with torch.no_grad():
        expected = own(build_model("entry/weights", 7).normalize(images()))[:, [2, 0]]
        torch.testing.assert_close(mentor(images()), expected)
    assert build_model("entry/weights", 3, pretrained=True).classes is None
    assert build_model("entry/anything", None, pretrained=True).num_classes == 7


@pytest.mark.parametrize("wrapped", [False, True])
def test_weights_whose_names_begin_as_prefixes_do(tmp_path, wrapped):
    own = Tiny(7)
    state = own.state_dict()
    assert all(name.startswith("model.") for name in state)
    if wrapped:
        state = {"state_dict": {f"module.{name}": value for name, value in state.items()}}
    torch.save(state, tmp_path / "own.pt")
    network = build_model("entry/plain", 7)
    load_weights(network, tmp_path / "own.pt")
    assert torch.equal(network.model.model[0].weight, own.model[0].weight)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lost", "entry/lost cannot be imported: No module named 'nowhere'"),
        ("failing", "cannot be built: RuntimeError: no such device"),
        ("nobody", "gave no torch module, but str"),
        ("tupled", r"must give logits \[B, C\], and gives tuple"),
        ("stubborn", "asked for 7 classes and gives 3 logits"),
        ("no_numbers", "its mean must be three numbers, and is imagenet"),
        ("no_scale", "its std must be three positive numbers"),
        ("no_size", r"its input_size must be \(H, W\), and is large"),
        ("one_size", "does not run on images of 64 x 64 pixels, which an attribute input_size"),
    ],
)
def test_what_is_said_of_a_factory_that_does_otherwise(name, message):
    with pytest.raises(ClassroomError, match=message):
        build_model(f"entry/{name}", 7)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("plain", "offers no weights: leave pretrained out"),
        ("needs_count", "give num_classes of its factory a default"),
        ("misnamed", "gives 7 logits, but its classes name 2"),
    ],
)
def test_what_is_said_of_weights_that_are_not_there(name, message):
    with pytest.raises(ClassroomError, match=message):
        build_model(f"entry/{name}", None, pretrained=True)
