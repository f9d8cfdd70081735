"""DiffKD: the schedule and the DDIM step in NumPy and by hand, its terms, and a run on digits."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.methods import Outputs, create_method, diffkd
from classroomkd.methods.diffkd import MapDiffusion, ddim_step, denoise, signal_shares
from tests.methods.scenes import lesson_of, random, says
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


def conv(state, name, x):
    """A convolution by the sum over its window; of odd sizes, with zeros around."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    size, (height, width) = weight.shape[2], x.shape[2:]
    padded = torch.nn.functional.pad(x, [size // 2] * 4)
    return bias[None, :, None, None] + sum(
        torch.einsum(
            "oi,bihw->bohw", weight[:, :, i, j], padded[:, :, i:, j:][..., :height, :width]
        )
        for i in range(size)
        for j in range(size)
    )


def norm(state, name, x):
    weight, bias = (state[f"{name}.{k}"].view(1, -1, 1, 1) for k in ("weight", "bias"))
    centred = x - x.mean((0, 2, 3), keepdim=True)
    return weight * centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt() + bias


def through(state, name, x, kinds):
    """A chain of layers: (c)onvolution, batch (n)ormalisation, (r)eLU, (b)ottleneck."""
    for place, kind in enumerate(kinds):
        layer = f"{name}.{place}"
        if kind == "b":
            x = bottleneck(state, layer, x)
        else:
            x = x.clamp_min(0) if kind == "r" else {"c": conv, "n": norm}[kind](state, layer, x)
    return x


def bottleneck(state, name, x):
    return x + through(state, f"{name}.block", x, "cnrcnrcn")


def denoised(state, name, x, noise, predict, mix):
    """The student's part: brought to the channels, mixed with noise, five steps, projected."""
    shares = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    x = conv(state, f"{name}align", x)
    chosen = mix(x).mean((2, 3)) @ state[f"{name}mixer.choose.weight"].T
    kept = (chosen + state[f"{name}mixer.choose.bias"]).exp()
    kept = (kept[:, 0] / kept.sum(1)).view(-1, 1, 1, 1)
    x = kept * x + (1 - kept) * noise
    for time, after in ((400, 300), (300, 200), (200, 100), (100, 0), (0, None)):
        share, later = shares[time], 1.0 if after is None else shares[after]
        drawn = predict(x, torch.full((len(x),), time))
        clean = (x - (1 - share) ** 0.5 * drawn) / share**0.5
        x = later**0.5 * clean + (1 - later) ** 0.5 * drawn
    return through(state, f"{name}projection", x, "cn")


def errors(method, student, mentor, noise, time):
    """The terms of maps and of logits, from the paper and the networks of the public code."""
    shares = torch.tensor(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)))[time].view(-1, 1, 1, 1)
    mse = lambda x, y: (x - y).square().mean()
    maps, logits = "adapters.0.denoiser.", "logit_denoiser."
    state = dict(method.named_parameters())

    def predictor(name, kinds):
        def predict(x, t):
            x = x + state[f"{name}predictor.embedding.weight"][t].view(*x.shape[:2], 1, 1)
            return through(state, f"{name}predictor.network", x, kinds)

        return predict

    predict = predictor(maps, "bbcn")
    there = mentor.features["head"]
    code = through(state, "adapters.0.encoder", there, "cn")
    latent = code.detach()
    clean = denoised(
        state, maps, student.features["head"], noise["maps"], predict,
        lambda x: bottleneck(state, f"{maps}mixer.block", x),
    )  # fmt: skip
    noisy = shares.sqrt() * latent + (1 - shares).sqrt() * noise["maps"]
    of_maps = mse(clean, latent) + mse(predict(noisy, time), noise["maps"])
    of_maps = of_maps + mse(conv(state, "adapters.0.decoder", code), there)

    predict = predictor(logits, "cnrcncnrc")
    there = mentor.logits[..., None, None]
    clean = denoised(
        state, logits, student.logits[..., None, None], noise["logits"], predict,
        lambda x: through(state, f"{logits}mixer.block", x, "cnrcn"),
    )  # fmt: skip
    noisy = shares.sqrt() * there + (1 - shares).sqrt() * noise["logits"]
    return of_maps, clean[..., 0, 0], mse(predict(noisy, time), noise["logits"])


def seen(*shapes, seed=0):
    """As a network: the map that it pools is not its last stage."""
    outputs = says(*shapes, seed=seed)
    head = 2 * outputs.features["stage2"] - 1
    leaf = lambda x: x.detach().requires_grad_()
    features = {name: leaf(x) for name, x in {**outputs.features, "head": head}.items()}
    return Outputs(leaf(outputs.logits), features)


EVEN = (8, 8, 8), (9, 4, 4), (12, 2, 2)


def test_the_lesson_is_the_papers(monkeypatch):
    """Values and gradients, against networks written down anew."""
    student, mentor = seen(*SMALL), seen(*EVEN, seed=9)
    noise = {"maps": random(3, 16, 2, 2, seed=2), "logits": random(3, 4, 1, 1, seed=3)}
    time = torch.tensor([0, 500, 999])
    given = {value.shape: value for value in noise.values()}
    monkeypatch.setattr(diffkd, "noise_like", lambda x: given[x.shape])
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: time)
    options = {"weight": 3.0, "kd_weight": 0.5, "temperature": 2.0, "channels": 16}
    small = [Outputs(o.logits, {**o.features, "head": half(o)}) for o in (student, mentor)]
    method, lesson = lesson_of("diffkd", *small, **options)
    maps, refined, error = errors(method, *small, noise, time)
    task = torch.nn.functional.cross_entropy(student.logits, torch.tensor([0, 3, 1]))
    expected = task + 3 * maps + 0.5 * (kl(refined, mentor.logits.detach(), 2.0) + error)
    torch.testing.assert_close(lesson.loss, expected, rtol=1e-5, atol=0)  # a float32 schedule
    wanted = [student.logits, student.features["head"], *method.parameters()]
    for own, other in zip(
        torch.autograd.grad(lesson.loss, wanted, retain_graph=True),
        torch.autograd.grad(expected, wanted),
        strict=True,
    ):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


def half(outputs):
    """Its pooled map at 2x2 pixels."""
    head = outputs.features["head"]
    return head if head.shape[2] == 2 else torch.nn.functional.avg_pool2d(head, 2)


def test_defaults_are_those_of_the_public_code():
    method = create_method("diffkd")
    assert (method.weight, method.kd_weight, method.temperature) == (1, 1, 1)
    assert (method.steps, method.channels, diffkd.TIMES) == (5, 1024, 1000)


def test_the_map_that_is_pooled_is_learnt():
    student, mentor = seen(*SMALL), seen(*LARGE, seed=9)
    method = create_method("diffkd")
    assert method.names(student, mentor) == [("head", "head")]
    bare = says(*LARGE, seed=9)  # a network that pools no map, such as a transformer with a token
    assert method.names(student, bare) == [("head", "stage2")]
    named = create_method("diffkd", pairs=[("stage1", "stage2")])
    assert named.names(student, mentor) == [("stage1", "stage2")]


def test_maps_of_two_sizes_meet_at_the_smaller():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = lesson_of("diffkd", student, mentor, kd_weight=0.0, channels=8)
    target = torch.tensor([0, 3, 1])
    torch.manual_seed(1)
    lesson = method(student, [mentor], target)
    here = torch.nn.functional.avg_pool2d(student.features["stage2"], 2)
    torch.manual_seed(1)
    expected = method.adapters[0](here, mentor.features["stage2"]).mean()
    torch.testing.assert_close(lesson.mentor_loss.sum(0).mean(), expected.detach())


def test_the_latent_map_has_its_own_width():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    for channels in (4, 40):
        method, _ = lesson_of("diffkd", student, mentor, channels=channels)
        assert method.adapters[0].encoder[0].weight.shape[:2] == (channels, 12)


def test_one_sample_is_refused():
    student, mentor = says(*SMALL), says(*LARGE, seed=9)
    method, _ = lesson_of("diffkd", student, mentor, channels=4)
    one = [
        Outputs(o.logits[:1], {k: v[:1] for k, v in o.features.items()}) for o in (student, mentor)
    ]
    with pytest.raises(ValueError, match="diffkd normalises .* it needs two samples"):
        method(one[0], [one[1]], torch.tensor([0]))


def test_who_learns_from_which_term():
    """The latent map is a target: the student's error does not move the teacher's encoder."""
    part = MapDiffusion(7, 12, 8, steps=2)
    student, mentor = random(3, 7, 2, 2).float(), random(3, 12, 2, 2, seed=1).float()
    denoiser = part.denoiser
    denoiser.diffusion_error(part.encoder(mentor).detach()).sum().backward()
    assert part.encoder[0].weight.grad is None
    assert denoiser.align.weight.grad is None
    assert denoiser.predictor.embedding.weight.grad.any()
    part.zero_grad()
    denoiser(student).square().sum().backward()
    assert part.encoder[0].weight.grad is None
    for weight in (
        denoiser.align.weight,
        denoiser.mixer.choose.weight,
        denoiser.predictor.embedding.weight,
    ):
        assert weight.grad.any()


def test_the_diffusion_model_learns():
    torch.manual_seed(0)
    student, mentor = random(16, 7, 4, 4).float(), random(16, 12, 4, 4, seed=1).float()
    part = MapDiffusion(7, 12, 8, steps=5)
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
    method, _ = lesson_of("diffkd", student, mentor, channels=8)
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
    recipe = digits_recipe(method={"name": "diffkd", "channels": 32, "kd_weight": 0.0})
    train(recipe, tmp_path / "run", progress=False, say=lambda _: None)
    rows = RunFolder(tmp_path / "run").read_csv("metrics.csv")
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["dev_top1"] > 25
