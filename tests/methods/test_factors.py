"""FT against torchdistill, against loops in float64 written from the formulas, and its schedule."""

import warnings

import numpy as np
import pytest
import torch

from classroomkd.methods import Outputs, create_method
from classroomkd.methods.factors import factor_map
from tests.methods.scenes import io, random, term, torchdistill_losses
from tests.methods.test_activations import (
    FAMILIES,
    TARGET,
    B,
    assert_teaches_all_families,
    lesson_of,
    one_epoch,
    says,
    teach_in_epoch,
)

SMALL = (5, 4, 4), (6, 4, 4)
LARGE = (8, 8, 8), (10, 2, 2)


def torchdistill_modules():
    torchdistill_losses()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("torchdistill.models.wrapper")


def unit_map(factor):
    """The channels' mean energy at each pixel of a factor ``[K, H, W]``, of length 1, by loops."""
    channels, height, width = factor.shape
    energy = [
        sum(factor[k, i, j] ** 2 for k in range(channels)) / channels
        for i in range(height)
        for j in range(width)
    ]
    return np.array(energy) / np.sqrt(sum(e**2 for e in energy))


def terms_by_loops(method, student, mentor):
    """Reconstruction and factor term of each sample."""
    (parts,) = method.adapters
    s, t = student.features["stage2"], mentor.features["stage2"]
    with torch.no_grad():
        paraphrase = parts.paraphraser(t)
        decoded, factor = parts.decoder(paraphrase).numpy(), paraphrase.numpy()
        # The student's factor has 4 x 4 pixels, the teacher's 2 x 2.
        translation = parts.translator(s).unflatten(3, (2, 2)).unflatten(2, (2, 2)).mean((3, 5))
    reconstruction = [np.mean((decoded[b] - t[b].numpy()) ** 2) for b in range(B)]
    differences = [
        np.mean(np.abs(unit_map(translation[b].numpy()) - unit_map(factor[b]))) for b in range(B)
    ]
    return np.array(reconstruction), np.array(differences)


@pytest.mark.parametrize("student", FAMILIES)
def test_pairs_of_different_architectures(student):
    assert_teaches_all_families("ft", student)


@pytest.mark.parametrize("weight", [200.0, 3.0])
def test_ft_by_loops(weight):
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, both = lesson_of("ft", student, mentor, weight=weight)
    assert method.names(student, mentor) == [("stage2", "stage2")]
    reconstruction, differences = terms_by_loops(method, student, mentor)
    np.testing.assert_allclose(both.mentor_loss[0].numpy(), reconstruction + weight * differences)
    first, later = (teach_in_epoch(method, student, mentor, epoch, 8) for epoch in (0, 1))
    np.testing.assert_allclose(first.mentor_loss[0].numpy(), reconstruction)
    np.testing.assert_allclose(later.mentor_loss[0].numpy(), weight * differences)


def test_a_factor_map_by_hand():
    factor = torch.tensor([[[[1.0, 2.0]], [[-1.0, 2.0]]]])  # energies 1 and 4
    torch.testing.assert_close(factor_map(factor), torch.tensor([[1.0, 4.0]]) / 17**0.5)


def test_ft_is_torchdistills():
    """Its loss compares factors themselves: here it is given their energies, a factor's ``A``."""
    student, mentor = says((5, 4, 4)), says((8, 4, 4), seed=9)
    method, _ = lesson_of("ft", student, mentor)
    lesson = teach_in_epoch(method, student, mentor, 7, 8)
    (parts,) = method.adapters
    energies = {
        "translator": parts.translator(student.features["stage1"]).square().mean(1),
        "paraphraser": parts.paraphraser(mentor.features["stage1"]).square().mean(1),
    }
    oracle = torchdistill_losses().FTLoss(p=1, reduction="mean")
    expected = 200 * oracle(io(energies), io(energies))
    torch.testing.assert_close(term(lesson), expected)


def test_paraphraser_and_translator_are_torchdistills():
    modules = torchdistill_modules()
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    (parts,) = lesson_of("ft", student, mentor, rate=0.35)[
        0
    ].adapters  # int(0.35 * 10) = 3 channels
    paraphraser = modules.Paraphraser4FactorTransfer(0.35, 10, uses_bn=False).double()
    paraphraser.encoder.load_state_dict(parts.paraphraser.state_dict())
    paraphraser.decoder.load_state_dict(parts.decoder.state_dict())
    x = random(B, 10, 4, 4, seed=3)
    torch.testing.assert_close(parts.decoder(parts.paraphraser(x)), paraphraser(x))
    translator = modules.Translator4FactorTransfer(6, 3).double()
    translator.load_state_dict(parts.translator.state_dict())
    x = random(B, 6, 4, 4, seed=4)
    torch.testing.assert_close(parts.translator(x), translator(x))


def learning(method):
    """Which parts have gradients."""
    (parts,) = method.adapters
    return {
        name
        for name, part in parts.named_children()
        if any(p.grad is not None and p.grad.any() for p in part.parameters())
    }


def test_each_part_learns_in_its_epochs():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    here = student.features["stage2"].requires_grad_()
    method, both = lesson_of("ft", student, mentor)
    both.loss.backward()
    assert learning(method) == {"paraphraser", "decoder", "translator"}
    assert here.grad.any()
    for epoch in range(16):
        method.zero_grad()
        here.grad = None
        lesson = teach_in_epoch(method, student, mentor, epoch, 16)
        (lesson.loss + 0 * here.sum()).backward()
        parts = {"paraphraser", "decoder"} if epoch < 2 else {"translator"}
        assert learning(method) == parts
        assert here.grad.any() == (epoch >= 2)
        assert lesson.task_loss.all()


def test_the_paraphraser_is_not_taught_by_the_students_term():
    """Its gradient is that of the reconstruction alone, where both are learnt at once."""
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, both = lesson_of("ft", student, mentor)
    both.loss.backward()
    at_once = [p.grad.clone() for p in method.adapters[0].paraphraser.parameters()]
    method.zero_grad()
    teach_in_epoch(method, student, mentor, 0, 8).loss.backward()
    alone = [p.grad for p in method.adapters[0].paraphraser.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(at_once, alone, strict=True))


def test_weight_decay_leaves_the_paraphraser_alone():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = lesson_of("ft", student, mentor)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    states = []
    for epoch in (0, 1, 2):
        optimizer.zero_grad()
        teach_in_epoch(method, student, mentor, epoch, 8).loss.backward()
        optimizer.step()
        states.append([p.detach().clone() for p in method.adapters[0].paraphraser.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True))
    assert all(torch.equal(a, b) for a, b in zip(states[0], states[2], strict=True))


def test_pairs_by_hand_are_summed():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    pairs = [("stage1", "stage1"), ("stage2", "stage2")]
    method, lesson = lesson_of("ft", student, mentor, pairs=pairs)
    assert len(method.adapters) == 2
    one = create_method("ft", pairs=pairs[1:])
    one.adapters.append(method.adapters[1])
    other = create_method("ft", pairs=pairs[:1])
    other.adapters.append(method.adapters[0])
    alone = [m(student, [mentor], TARGET).mentor_loss for m in (one, other)]
    torch.testing.assert_close(lesson.mentor_loss, sum(alone))


def test_a_narrow_teacher_has_a_factor_of_one_channel():
    student, mentor = says((5, 4, 4)), says((1, 4, 4), seed=9)
    method, lesson = lesson_of("ft", student, mentor)
    assert lesson.loss.isfinite()
    assert method.adapters[0].paraphraser(mentor.features["stage1"]).shape[1] == 1


def test_setup_comes_first():
    bare = create_method("ft")
    student = says(*SMALL)
    with pytest.raises(RuntimeError, match=r"ft has no adapters yet: call method\.setup"):
        bare(Outputs(student.logits, student.features), [says(*LARGE, seed=9)], TARGET)


def test_a_run_on_digits(digits_recipe, tmp_path):
    one_epoch({"name": "ft"}, digits_recipe, tmp_path, epochs=2)
