"""A mentor is never trained by accident, and answers in the data's class order."""

import pytest
import torch
from torch import nn

from classroomkd.errors import ClassroomError
from classroomkd.mentors import LearningMentor, Mentor, class_map
from classroomkd.methods import create_method, list_methods, method_class
from classroomkd.models import build_model


def network(classes=10, seed=0):
    torch.manual_seed(seed)
    built = build_model("resnet8", classes)
    with torch.no_grad():
        built(images(16))  # running statistics of its own
    return built


def images(count=4, seed=1):
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def snapshot(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_unmoved(module, before):
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_frozen():
    mentor = Mentor(network(), "m")
    assert not any(module.training for module in mentor.network.modules())
    assert not any(p.requires_grad for p in mentor.network.parameters())
    before = snapshot(mentor.network)
    for seed in range(5):
        assert not mentor(images(seed=seed)).requires_grad
        assert not any(f.requires_grad for f in mentor.forward_stages(images()).values())
    assert_unmoved(mentor.network, before)


def test_running_statistics_stay_when_somebody_calls_train():
    built = network()
    mentor = Mentor(built, "m")
    before, answer = snapshot(built), mentor(images())
    for _ in range(3):
        built.train()
        assert torch.equal(mentor(images()), answer)
        built.train()
        assert torch.equal(mentor.forward_stages(images())["logits"], answer)
    assert_unmoved(built, before)


def test_images_with_gradients_reach_no_mentor():
    mentor = Mentor(network(), "m")
    pixels = images().requires_grad_()
    assert not mentor(pixels).requires_grad
    with torch.enable_grad():
        assert not mentor(pixels).requires_grad


class Holder(nn.Module):
    """What a user's training module looks like."""

    def __init__(self, student, mentors):
        super().__init__()
        self.student = student
        self.mentor = mentors[0]
        self.mentors = mentors


def test_a_module_that_holds_mentors_does_not_contain_them():
    mentor = Mentor(network(), "m")
    assert not isinstance(mentor, nn.Module)
    holder = Holder(network(seed=1), [mentor])
    own = {id(p) for p in holder.student.parameters()}
    assert {id(p) for p in holder.parameters()} == own
    assert all(name.startswith("student.") for name in holder.state_dict())
    assert not any(module is mentor.network for module in holder.modules())
    holder.train()
    assert not mentor.network.training


def test_training_moves_the_student_alone():
    mentor = Mentor(network(), "m")
    holder = Holder(network(seed=1), [mentor])
    theirs, ours = snapshot(mentor.network), snapshot(holder.student)
    optimizer = torch.optim.SGD(holder.parameters(), lr=0.1, weight_decay=0.1)
    method = create_method("classroom")
    for seed in range(3):
        batch = images(8, seed)
        lesson = method(holder.student(batch), [mentor(batch)], torch.arange(8))
        optimizer.zero_grad()
        lesson.loss.backward()
        optimizer.step()
    assert_unmoved(mentor.network, theirs)
    assert not torch.equal(holder.student.state_dict()["conv1.weight"], ours["conv1.weight"])


def test_to_moves_the_network_and_the_map():
    mentor = Mentor(network(3), "m", class_map=torch.tensor([2, 0, 1]))
    answer = mentor(images())
    assert mentor.to("cpu", torch.channels_last) is mentor
    weight = mentor.network.get_submodule("layer1")[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(mentor(images()), answer)


NAMES = tuple("abcdefghij")


def shuffled(seed=3):
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    return order, tuple(NAMES[i] for i in order)


def reordered(source, order):
    """The same network, with its logits in another order."""
    copy = network(10)
    state = snapshot(source)
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][order]
    copy.load_state_dict(state)
    return copy


@pytest.mark.parametrize("name", [n for n in list_methods() if not method_class(n).needs_features])
def test_a_permuted_mentor_gives_the_same_lesson(name):
    order, names = shuffled()
    straight = Mentor(network(), "m")
    permuted = Mentor(reordered(straight.network, order), "m", "peer", class_map(names, NAMES))
    assert not torch.equal(permuted.network(images()), straight(images()))
    student, target = network(seed=1).eval()(images()), torch.tensor([0, 3, 9, 3])
    lessons = [
        create_method(name)(student, [mentor(images())], target) for mentor in (straight, permuted)
    ]
    for a, b in zip(vars(lessons[0]).values(), vars(lessons[1]).values(), strict=True):
        torch.testing.assert_close(a, b)


def test_stages_are_in_the_datas_order_too():
    order, names = shuffled()
    straight = Mentor(network(), "m")
    permuted = Mentor(reordered(straight.network, order), "m", "peer", class_map(names, NAMES))
    one, other = straight.forward_stages(images()), permuted.forward_stages(images())
    assert list(one) == list(other)
    for stage in one:
        torch.testing.assert_close(one[stage], other[stage])
    torch.testing.assert_close(other["logits"], permuted(images()))


def test_class_map():
    assert class_map(NAMES, NAMES) is None
    order, names = shuffled()
    found = class_map(names, NAMES)
    assert found.dtype == torch.int64
    assert torch.equal(found, order.argsort())
    assert tuple(names[i] for i in found) == NAMES


def test_a_mentor_may_know_more_classes():
    known = class_map(NAMES, ("j", "a", "c"))
    assert known.tolist() == [9, 0, 2]
    mentor = Mentor(network(), "m", "teacher", known)
    assert torch.equal(mentor(images()), mentor.network(images())[:, [9, 0, 2]])
    assert class_map(NAMES, NAMES[:4]).tolist() == [0, 1, 2, 3]


def test_a_mentor_must_know_every_class():
    with pytest.raises(ClassroomError, match="ann was not trained on 1 of the data's 2 classes: z"):
        class_map(NAMES, ("a", "z"), "ann")
    with pytest.raises(ClassroomError, match=r"7 of the data's 8 classes: t, u, v, w, x, \.\.\."):
        class_map(NAMES, ("a", *"tuvwxyz"))


def test_half_precision_networks_answer():
    mentor = Mentor(network(3).bfloat16(), "m", class_map=torch.tensor([2, 0, 1]))
    assert mentor(images().bfloat16()).dtype == torch.bfloat16


def test_the_classifier_is_a_frozen_copy_in_the_data_s_order():
    network = build_model("resnet8", 4)
    order = torch.tensor([2, 0, 3])
    mentor = Mentor(network, "mentor", class_map=order)
    pooled = network.eval().forward_stages(images())["pooled"]
    expected = network.classifier(pooled)[:, order]
    last = mentor.classifier
    torch.testing.assert_close(last(pooled), expected)
    assert not any(p.requires_grad for p in last.parameters())
    assert last.weight.data_ptr() != network.classifier.weight.data_ptr()
    assert Mentor(nn.Flatten(), "no classifier").classifier is None


def test_a_learning_mentor_trains():
    network = build_model("resnet8", 4)
    mentor = LearningMentor(network, "peer", class_map=torch.tensor([1, 0, 2, 3]))
    assert mentor.learns
    before = network.bn1.running_mean.clone()
    mentor(images()).sum().backward()
    assert network.conv1.weight.grad.any()
    assert not torch.equal(network.bn1.running_mean, before)
    assert mentor.forward_stages(images())["logits"].requires_grad
