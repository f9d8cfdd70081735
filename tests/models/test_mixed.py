"""ConvNets and transformers in one classroom: every method on features works, or is refused."""

from importlib.metadata import EntryPoint

import pytest
import torch
import transformers
from torch import nn

from classroomkd.data import Batch, ImageSet
from classroomkd.engine.build import _show_shapes, build_classroom
from classroomkd.engine.evaluate_run import evaluate_run
from classroomkd.engine.run import train
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.methods import create_method, list_methods, method_class
from classroomkd.models import build_model, deployable, load_student
from classroomkd.models.external import from_entry_point
from classroomkd.models.reused import ReusedExternal
from classroomkd.tasks.base import Place
from classroomkd.tasks.classification.task import Classification
from tests.steps import step

CNN, VIT = "timm/test_resnet", "timm/test_vit"
CLASSES = tuple("abcde")
FEATURE_METHODS = [
    name
    for name in list_methods()
    if method_class(name).needs_features and method_class(name).num_mentors != 0
]
PREACTIVATIONS = {name for name in FEATURE_METHODS if method_class(name).needs_preactivations}
POOLED_MAP = {"simkd", "ca_mkd", "mmkd"}  # methods that read the map that a network pools
POOLS_A_MAP = {"resnet8", CNN}
PAIRS = [
    (CNN, CNN), (CNN, "vit"), ("vit", "resnet8"), ("resnet8", "swin"), ("swin", CNN),
]  # fmt: skip


def show_shapes(method, student, mentors, images):
    task = Classification(None, Place(torch.device("cpu")))
    _show_shapes(task, method, student, mentors, images)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Small transformers, random, in folders of their own."""
    configs = {
        "vit": transformers.ViTConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=32,
            image_size=32, patch_size=8,
        ),
        "swin": transformers.SwinConfig(
            image_size=32, patch_size=2, embed_dim=8, depths=[1, 1, 2], num_heads=[1, 2, 4],
            window_size=4,
        ),
    }  # fmt: skip
    root = tmp_path_factory.mktemp("hf")
    for name, config in configs.items():
        torch.manual_seed(0)
        model = transformers.AutoModelForImageClassification.from_config(config)
        model.save_pretrained(root / name)
    return root


@pytest.fixture(scope="module")
def build(folders):
    def build(name):
        torch.manual_seed(0)
        network = build_model(f"hf/{folders / name}" if name in ("vit", "swin") else name, 5)
        if name == CNN:
            network.normalize.size = None  # quicker than at its own
        return network

    return build


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (6, 3, 32, 32), generator=generator, dtype=torch.uint8)
    target = torch.tensor([0, 1, 2, 3, 4, 1])
    return ImageSet(pixels, target, CLASSES, (0.5,) * 3, (0.25,) * 3, "noise")


def works(method, student, mentor):
    """Whether a pair shows what a method reads."""
    if method in PREACTIVATIONS:
        return {student, mentor} <= {"resnet8"}
    if method == "kdsvd":  # compares maps of equal widths alone
        return student == mentor
    if method == "srrl":  # the teacher's classifier reads the student's pooled map
        return student in POOLS_A_MAP
    if method == "shake":  # fuses three stages of the teacher
        return mentor != "swin"
    return method not in POOLED_MAP or {student, mentor} <= POOLS_A_MAP


@pytest.mark.parametrize("pair", PAIRS, ids="<-".join)
@pytest.mark.parametrize("name", FEATURE_METHODS)
def test_a_pair_works_or_is_refused_before_the_first_step(name, pair, build, images):
    student, network = (build(who) for who in pair)
    mentor = Mentor(network, "sage", "teacher")
    method = create_method(name)
    if not works(name, *pair):
        with pytest.raises(ClassroomError) as refusal:
            show_shapes(method, student, [mentor], images)
        text = str(refusal.value)
        for part in (f"'{name}'", student.name, network.name, "Take networks that show it"):
            assert part in text
        return
    show_shapes(method, student, [mentor], images)
    batch = Batch(images.images.float().div(255), images.target, images.index)
    lesson = step(student, [mentor], method, batch)
    lesson.loss.backward()
    gradients = [p.grad for p in student.parameters() if p.grad is not None]
    assert lesson.loss.isfinite()
    assert any(gradient.any() for gradient in gradients)
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert all(p.grad is None for p in network.parameters())


TOKENS = {"hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "grid"),
    [
        (transformers.ViTConfig(**TOKENS, image_size=(32, 64), patch_size=8), (4, 8)),
        (
            transformers.Dinov2WithRegistersConfig(
                **TOKENS, image_size=32, patch_size=16, num_register_tokens=4, layerscale_value=1e-3
            ),
            (2, 2),
        ),
    ],
)
def test_tokens_stand_where_their_patches_are(config, grid, tmp_path):
    """A change of one patch changes the map there: by rows, whatever stands before the patches."""
    torch.manual_seed(0)
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    network, patch = build_model(f"hf/{tmp_path}", 5).eval(), config.patch_size
    images = torch.rand(1, 3, grid[0] * patch, grid[1] * patch)
    for row, column in ((0, grid[1] - 1), (grid[0] - 1, 0), (1, 0)):
        changed = images.clone()
        rows, columns = (slice(at * patch, (at + 1) * patch) for at in (row, column))
        changed[:, :, rows, columns] = 1 - changed[:, :, rows, columns]
        with torch.no_grad():
            one, other = (network.forward_stages(view)["stage1"] for view in (images, changed))
        assert one.shape[2:] == grid
        most = (one - other).abs().sum((0, 1)).argmax().item()
        assert divmod(most, grid[1]) == (row, column)


def test_a_network_of_two_branches_has_no_maps():
    network = build_model("timm/crossvit_tiny_240", 5).eval()
    assert network.stage_names == ()
    with torch.no_grad():
        assert network.forward_stages(torch.rand(1, 3, 32, 32)).keys() == {"logits"}


def test_a_flow_needs_two_stages(build, images):
    student, network = build("swin"), build("resnet8")
    method = create_method("fsp", pairs=[("stage1", "stage1")])
    with pytest.raises(ClassroomError, match="'fsp' does not go with .* two pairs"):
        show_shapes(method, student, [Mentor(network, "m")], images)


def quick(digits_recipe, **changes):
    return digits_recipe(train={"epochs": 1, "batch_size": 64}, data={"dev": 1200}, **changes)


def test_a_refusal_ends_the_build_and_not_the_first_epoch(digits_recipe, tmp_path):
    recipe = quick(
        digits_recipe, student={"model": VIT}, method={"name": "simkd"},
        mentors=digits_recipe().model_dump(mode="json")["mentors"][:1],
    )  # fmt: skip
    with pytest.raises(ClassroomError, match=r"'simkd' does not go with the student timm/test_vit"):
        train(recipe, tmp_path / "run", say=lambda _: None)


# ------------------------------------------------------------------------- SimKD on other students


def reused(name, images):
    """A student of another library with a teacher's classifier, and the method that made it."""
    torch.manual_seed(0)
    student, method = build_model(name, 5), create_method("simkd")
    teacher = Mentor(build_model("resnet8", 5), "teacher", "teacher")
    show_shapes(method, student, [teacher], images)
    return student, method


@pytest.mark.parametrize("name", [CNN, "timm/test_efficientnet", "torchvision/shufflenet_v2_x0_5"])
def test_what_simkd_leaves_of_a_network_of_another_library(name, images):
    student, method = reused(name, images)
    student.eval()
    network = deployable(student, method).eval()
    assert isinstance(network, ReusedExternal)
    view = images.images.float().div(255)
    with torch.no_grad():
        own, shown = student.forward_stages(view), network.forward_stages(view)
        method.eval()
        expected = method.classifier(method.projector(own["head"]).mean((2, 3)))
    assert list(shown) == list(own)
    assert network.stage_names == student.stage_names
    for stage in own.keys() - {"head", "pooled", "logits"}:
        assert torch.equal(own[stage], shown[stage]), stage
    torch.testing.assert_close(shown["logits"], expected)
    torch.testing.assert_close(network(view), expected)
    assert torch.equal(student.classifier.weight, student.state_dict()[_last(student)])
    assert not any(key.endswith(_last(student)) for key in network.state_dict())


def _last(network):
    """The name of the classifier's weight."""
    weight = network.classifier.weight
    return next(name for name, p in network.named_parameters() if p is weight)


def tiny(num_classes):
    """A factory as another package may register."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, num_classes),
    )  # fmt: skip


def test_a_whole_run_of_simkd_with_a_student_from_elsewhere(digits_recipe, tmp_path, monkeypatch):
    entry = EntryPoint("tiny", f"{__name__}:tiny", "classroomkd.models")
    monkeypatch.setattr(from_entry_point, "entry_points", lambda group: [entry])
    recipe = quick(
        digits_recipe, student={"model": "entry/tiny"}, method={"name": "simkd"},
        mentors=digits_recipe().model_dump(mode="json")["mentors"][:1],
    )  # fmt: skip
    summary = train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    student, info = load_student(tmp_path / "run")
    assert isinstance(student, ReusedExternal)
    assert info.model == "entry/tiny"
    assert evaluate_run(tmp_path / "run")[1]["top1"] == pytest.approx(
        summary["best"]["test_top1"], abs=1e-3
    )
    mentors = [{"run": str(tmp_path / "run"), "role": "teacher"}]
    heard = build_classroom(quick(digits_recipe, mentors=mentors, method={"name": "at"}))
    assert heard.mentors[0].network.name == "entry/tiny"


def test_crd_remembers_by_networks_of_other_libraries(build, images):
    student, network = build(CNN), build("vit")
    method, mentor = create_method("crd", negatives=8, dim=4), Mentor(network, "m")
    show_shapes(method, student, [mentor], images)
    assert [layer.in_features for layer in method.embed] == [
        student.classifier.in_features, network.classifier.in_features,
    ]  # fmt: skip
    before = method.memory.clone()
    batch = Batch(images.images[:4].float().div(255), images.target[:4], images.index[:4])
    step(student, [mentor], method, batch).loss.backward()
    moved = (method.memory != before).any(2).any(0)
    assert moved.tolist() == [row in method.rows.row[:4] for row in range(6)]
