"""DiffKD: the schedule and the DDIM step in NumPy and by hand, its terms, and a run on digits."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.methods import create_method
from classroomkd.methods.contrib import diffkd
from classroomkd.methods.contrib.diffkd import Diffusion, ddim_step, denoise, signal_shares
from tests.methods.scenes import random, says, teach
from tests.methods.test_logits import kl

SMALL = (5, 4, 4), (6, 4, 4), (7, 4, 4)
LARGE = (8, 8, 8), (9, 4, 4), (12, 2, 2)


class Perfect(nn.Module):
    """Knows the clean maps, and so the noise."""

    def __init__(self, clean):
        super().__init__()
        self.clean, self.times = clean, []

    def forward(self, noisy, time):
        assert (time == time[0]).all()
        self.times.append(int(time[0]))
        share = signal_shares()[self.times[-1]]
        return (noisy - math.sqrt(share) * self.clean) / math.sqrt(1 - share)


def test_the_schedule_is_numpys():
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    assert np.allclose(signal_shares(), expected, rtol=1e-12, atol=0)


def test_a_step_by_hand():
    noisy, noise = torch.tensor([1.7]), torch.tensor([1.5])
    # 0.6 * 2 + 0.8 * 1.5 = 2.4 = sqrt(.36) clean + sqrt(.64) noise, and after it .8 * 2 + .6 * 1.5
    assert ddim_step(torch.tensor([2.4]), noise, 0.36, 0.64).item() == pytest.approx(2.5)
    assert ddim_step(torch.tensor([2.4]), noise, 0.36, 1.0).item() == pytest.approx(2.0)
    assert ddim_step(noisy, noise, 0.36, 0.36).item() == pytest.approx(1.7)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_a_perfect_predictor_recovers_the_map(steps):
    clean, noise = random(3, 2, 4, 4), random(3, 2, 4, 4, seed=1)
    perfect = Perfect(clean)
    share = signal_shares()[(steps - 1) * (1000 // (2 * steps))]
    noisy = math.sqrt(share) * clean + math.sqrt(1 - share) * noise
    torch.testing.assert_close(denoise(noisy, perfect, steps), clean)
    assert len(perfect.times) == steps


def test_the_times_are_the_lower_half():
    perfect = Perfect(random(1, 1, 1, 1))
    denoise(random(1, 1, 1, 1, seed=1), perfect, 5)
    assert perfect.times == [400, 300, 200, 100, 0]


def test_a_wrong_predictor_does_not():
    clean = random(3, 2, 4, 4)
    noisy = clean + random(3, 2, 4, 4, seed=1)
    silent = lambda x, time: torch.zeros_like(x)
    share = signal_shares()[400]
    torch.testing.assert_close(denoise(noisy, silent, 5), noisy / math.sqrt(share))


def test_the_terms(monkeypatch):
    """With drawn numbers fixed, every term by its formula."""
    student, mentor = random(3, 7, 2, 2), random(3, 12, 2, 2, seed=1)
    noise, time = random(3, 8, 2, 2, seed=2), torch.tensor([0, 500, 999])
    monkeypatch.setattr(diffkd, "noise_like", lambda x: noise)
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: time)
    torch.manual_seed(0)
    part = Diffusion(7, 12, 8, steps=5).double()
    code = part.encoder(mentor)
    share = torch.tensor(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[time].view(3, 1, 1, 1)
    predicted = part.predictor(share.sqrt() * code + (1 - share).sqrt() * noise, time)
    aligned = part.align(student)
    kept = part.mixer(aligned)
    assert kept.shape == (3, 1, 1, 1)
    assert ((kept > 0) & (kept < 1)).all()
    clean = denoise(kept * aligned + (1 - kept) * noise, part.predictor, 5)
    expected = [
        (part.projection(clean) - code).square().flatten(1).mean(1),
        (predicted - noise).square().flatten(1).mean(1),
        (part.decoder(code) - mentor).square().flatten(1).mean(1),
    ]
    torch.testing.assert_close(part(student, mentor), sum(expected), rtol=1e-5, atol=1e-7)


def test_the_lesson():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = teach("diffkd", student, mentor, weight=3.0, kd_weight=0.5, temperature=2.0)
    (part,) = method.adapters
    assert part.projection.weight.shape[:2] == (12, 12)
    torch.manual_seed(1)
    lesson = method(student, [mentor], torch.tensor([0, 3, 1]))
    torch.manual_seed(1)
    here = torch.nn.functional.avg_pool2d(student.features["stage2"], 2)
    errors = 3 * part(here, mentor.features["stage2"]).mean()
    expected = errors + 0.5 * kl(student.logits, mentor.logits, 2.0)
    torch.testing.assert_close(lesson.mentor_loss.sum(0).mean(), expected.detach())


def test_the_latent_map_may_be_narrower():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = teach("diffkd", student, mentor, channels=4)
    assert method.adapters[0].encoder[0].weight.shape[:2] == (4, 12)


def test_who_learns_from_which_term():
    """The latent map is a target: the student's error does not move the teacher's encoder."""
    part = Diffusion(7, 12, 8, steps=2)
    student, mentor = random(3, 7, 2, 2).float(), random(3, 12, 2, 2, seed=1).float()
    part.diffusion_error(part.encoder(mentor).detach()).sum().backward()
    assert part.encoder[0].weight.grad is None
    assert part.align.weight.grad is None
    assert part.predictor.embedding.weight.grad.any()
    part.zero_grad()
    part.refine(part.align(student)).square().sum().backward()
    assert part.encoder[0].weight.grad is None
    for weight in (part.align.weight, part.mixer.choose.weight, part.predictor.embedding.weight):
        assert weight.grad.any()


def test_the_diffusion_model_learns():
    torch.manual_seed(0)
    student, mentor = random(16, 7, 4, 4).float(), random(16, 12, 4, 4, seed=1).float()
    part = Diffusion(7, 12, 8, steps=5)
    optimizer = torch.optim.Adam(part.parameters(), lr=1e-2)
    errors = []
    for _ in range(50):
        error = part(student, mentor).mean()
        errors.append(error.item())
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
    assert np.mean(errors[-10:]) < 0.6 * np.mean(errors[:10])


def test_draws_follow_the_seed():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = teach("diffkd", student, mentor)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(method(student, [mentor], torch.tensor([0, 3, 1])).loss.item())
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("option", [{"steps": 0}, {"steps": 501}, {"channels": 0}, {"weight": -1}])
def test_options_out_of_range(option):
    with pytest.raises(ValueError, match=next(iter(option))):
        create_method("diffkd", **option)


def test_digits_are_learnt(digits_recipe, tmp_path):
    recipe = digits_recipe(method={"name": "diffkd", "kd_weight": 0.0})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    rows = RunFolder(tmp_path / "run").read_csv("metrics.csv")
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["dev_top1"] > 25
