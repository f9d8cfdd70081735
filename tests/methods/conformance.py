"""What every registered method must keep to, whatever it learns: one function a requirement.

Each takes a method's name and builds it with its default options. A method that cannot keep to one
by its nature is listed in `EXEMPT`, with the reason. Shapes: ``M`` mentors, ``B`` samples, ``C``
classes.
"""

import inspect
from dataclasses import fields

import pytest
import torch

from classroomkd.core import Lesson
from classroomkd.methods import Outputs, create_method, method_class, method_options
from classroomkd.models import build_model, deployable

B, C = 6, 10
SAMPLES = torch.arange(0, 80, 2)  # their numbers: a training set has gaps, less its dev split
COUNTS = {0: [0, 1, 2], 1: [1], "many": [1, 2, 5]}
STATISTICS = [field.name for field in fields(Lesson) if field.name != "loss"]
REQUIREMENTS = {}

# {method: options}, where the usual ones are slow and show nothing more
CHEAPER: dict[str, dict[str, object]] = {"diffkd": {"channels": 16}}

# {requirement: {method: why it cannot}}
EXEMPT: dict[str, dict[str, str]] = {
    "adapters_are_never_in_the_exported_student": {
        "simkd": "its projector and the teacher's classifier are what the student ends in"
    },
    "every_device_gives_the_same": {
        "crd": "draws its negatives on the device, and each has a generator of its own",
        "diffkd": "draws its noise on the device, and each has a generator of its own",
    },
    "nothing_is_taught_where_all_agree": {
        "nkd": "its terms are cross-entropies, not divergences: see test_nkd",
        "rld": "who agrees with a mentor that errs is still drawn to the label: see test_mixtures",
    },
    "teaches_in_a_classroom_by_its_weights": {
        "crd": "remembers a batch, so that a second call gives another term: see test_contrastive",
    },
    "gradients_reach_the_student_and_the_method_alone": {
        "okddip": "its maps are trained by the mentors' own loss: see test_online",
    },
}


def requirement(check):
    REQUIREMENTS[check.__name__] = check
    return check


def usual_count(name):
    """How many mentors a method is tested with."""
    return {0: 2, 1: 1, "many": 3}[method_class(name).num_mentors]


def heard_count(name, given):
    return 0 if method_class(name).num_mentors == 0 else given


def make(name, seed=0, count=None, **options):
    """The method as a run has it: set up by what the networks say about two images."""
    torch.manual_seed(seed)
    method = create_method(name, **{**CHEAPER.get(name, {}), **options})
    student, mentors, _, _ = scene(name, batch=2, count=count)
    method.on_train_set(SAMPLES, SAMPLES % C)
    with torch.no_grad():
        method.setup(student, mentors)
    return method


def scene(name, *, batch=B, count=None, scale=2.0, dtype=torch.float32, device="cpu", seed=0):
    """Student and mentors with leaf logits (and features, where read), target, samples' numbers."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, 16, 16, generator=generator)

    def speak(model):
        logits = scale * torch.randn(batch, C, generator=generator)
        cls = method_class(name)
        features, last = stages(model, images, cls) if cls.needs_features else ({}, None)
        return leaves(Outputs(logits, features, last), dtype, device)

    student = speak("resnet8")
    mentors = [speak("wrn_16_1") for _ in range(usual_count(name) if count is None else count)]
    index = SAMPLES[torch.randperm(len(SAMPLES), generator=generator)[:batch]]
    return student, mentors, (index % C).to(device), index.to(device)


def stages(model, images, method):
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(7)
        network = build_model(model, C).requires_grad_(False)
        features = network.forward_stages(images, preactivations=method.needs_preactivations)
    del features["logits"]
    return features, network.classifier


def leaves(outputs, dtype=torch.float32, device="cpu"):
    """The same outputs, as tensors that collect gradients."""

    def leaf(value):
        return value.detach().clone().to(device, dtype).requires_grad_()

    last = outputs.classifier and outputs.classifier.to(device)
    return Outputs(leaf(outputs.logits), {k: leaf(v) for k, v in outputs.features.items()}, last)


def tensors(outputs):
    return [outputs.logits, *outputs.features.values()]


def assert_equal_lessons(one, other, **tolerance):
    for field in fields(Lesson):
        a, b = getattr(one, field.name).detach().cpu(), getattr(other, field.name).detach().cpu()
        torch.testing.assert_close(a, b, msg=lambda m, n=field.name: f"{n}: {m}", **tolerance)


def assert_finite(lesson):
    for field in fields(Lesson):
        assert getattr(lesson, field.name).isfinite().all(), field.name


@requirement
def finite_on_extreme_logits(name):
    for scale in (0.0, 1e4):
        student, mentors, target, index = scene(name, scale=scale)
        lesson = make(name)(student, mentors, target, index)
        assert_finite(lesson)
        lesson.loss.backward()
        grads = [t.grad for t in tensors(student) if t.grad is not None]
        assert grads
        assert all(grad.isfinite().all() for grad in grads)
    # The truth has probability 0 to everybody: no score is left.
    student, mentors, target, index = scene(name)
    far = torch.where(torch.nn.functional.one_hot(target, C) == 1, -1e4, 0.0)
    student = Outputs(far.clone().requires_grad_(), student.features)
    lesson = make(name)(student, [Outputs(far.clone(), m.features) for m in mentors], target, index)
    assert_finite(lesson)
    lesson.loss.backward()
    assert all(t.grad.isfinite().all() for t in tensors(student) if t.grad is not None)


@requirement
def gradients_reach_the_student_and_the_method_alone(name):
    student, mentors, target, index = scene(name)
    method = make(name)
    lesson = method(student, mentors, target, index)
    lesson.loss.backward()
    assert any(t.grad is not None and t.grad.any() for t in tensors(student))
    assert all(t.grad is None for mentor in mentors for t in tensors(mentor))
    still = [n for n, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not still, f"parameters that nothing trains: {still}"


@requirement
def statistics_are_detached_and_shaped(name):
    lesson = make(name)(*scene(name))
    count = heard_count(name, usual_count(name))
    assert lesson.loss.requires_grad
    assert lesson.loss.shape == ()
    assert not [n for n in STATISTICS if getattr(lesson, n).requires_grad]
    assert lesson.task_loss.shape == lesson.student_score.shape == (B,)
    assert lesson.mentor_loss.shape in ((count, B), (count,))
    for field in ("mentor_score", "weight", "active", "gap", "temperature"):
        assert getattr(lesson, field).shape == (count, B), field
    assert lesson.active.dtype == torch.bool
    assert ((lesson.mentor_score >= 0) & (lesson.mentor_score <= 1)).all()
    assert (lesson.temperature > 0).all()
    assert (lesson.weight >= 0).all()


@requirement
def targets_may_be_probabilities(name):
    """As of mixed samples and smoothed labels; certain ones are the classes themselves."""
    if not make(name).soft_targets:
        pytest.skip("its recipes are refused where targets are probabilities")
    student, mentors, target, index = scene(name)
    certain = torch.nn.functional.one_hot(target, C).float()
    lessons = [make(name)(student, mentors, given, index) for given in (target, certain)]
    assert_equal_lessons(*lessons, rtol=1e-5, atol=1e-5)
    mixed = 0.9 * (0.7 * certain + 0.3 * certain.roll(1, 0)) + 0.1 / C
    lesson = make(name)(student, mentors, mixed, index)
    assert_finite(lesson)
    assert not torch.allclose(lesson.student_score, lessons[0].student_score)
    lesson.loss.backward()
    grads = [t.grad for t in tensors(student) if t.grad is not None]
    assert any(grad.any() for grad in grads)
    assert all(grad.isfinite().all() for grad in grads)
    if make(name).mutual:
        losses = [make(name).peer_loss(student, mentors, [0, 2], t) for t in (target, certain)]
        torch.testing.assert_close(*losses)
        assert make(name).peer_loss(student, mentors, [0, 2], mixed).isfinite()


@requirement
def values_of_samples_average_to_the_loss(name):
    lesson = make(name)(*scene(name))
    if lesson.mentor_loss.ndim == 2:
        whole = (lesson.task_loss + lesson.mentor_loss.sum(0)).mean()
        assert (lesson.mentor_loss[~lesson.active] == 0).all()
    else:  # a method that relates samples to each other
        whole = lesson.task_loss.mean() + lesson.mentor_loss.sum()
    torch.testing.assert_close(whole, lesson.loss.detach())


@requirement
def nothing_is_taught_where_all_agree(name):
    if method_class(name).kind not in ("alone", "logit"):
        pytest.skip("features and relations pass through adapters that need not agree")
    student, mentors, target, index = scene(name)
    same = [Outputs(student.logits.detach().clone(), student.features) for _ in mentors]
    lesson = make(name)(student, same, target, index)
    assert lesson.mentor_loss.abs().max() < 1e-5 if lesson.mentor_loss.numel() else True
    (gradient,) = torch.autograd.grad(lesson.loss, student.logits)
    logits = student.logits.detach().requires_grad_()
    cross_entropy = torch.nn.functional.cross_entropy(logits, target, reduction="none")
    weight = lesson.task_loss / cross_entropy.detach()
    (expected,) = torch.autograd.grad((weight * cross_entropy).mean(), logits)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@requirement
def half_precision_gives_float32_statistics(name):
    for dtype in (torch.bfloat16, torch.float16):
        student, mentors, target, index = scene(name, dtype=dtype)
        lesson = make(name)(student, mentors, target, index)
        assert_finite(lesson)
        for field in ("loss", *STATISTICS):
            if field != "active":
                assert getattr(lesson, field).dtype == torch.float32, field
        lesson.loss.backward()
        assert any(t.grad is not None and t.grad.any() for t in tensors(student))
        exact = make(name)(leaves(student), [leaves(mentor) for mentor in mentors], target, index)
        assert_equal_lessons(lesson, exact, rtol=1e-2, atol=1e-3)


@requirement
def double_precision_is_kept(name):
    student, mentors, target, index = scene(name, dtype=torch.float64)
    lesson = make(name).double()(student, mentors, target, index)
    assert lesson.loss.dtype == lesson.mentor_score.dtype == torch.float64
    single = make(name)(leaves(student), [leaves(mentor) for mentor in mentors], target, index)
    assert lesson.loss.item() == pytest.approx(single.loss.item(), rel=1e-4)


@requirement
def a_batch_of_one_works_or_says_why_not(name):
    student, mentors, target, index = scene(name, batch=1)
    try:
        lesson = make(name)(student, mentors, target, index)
    except ValueError as error:
        assert "batch" in str(error) or "sample" in str(error)  # noqa: PT017
        return
    assert_finite(lesson)
    lesson.loss.backward()


@requirement
def state_survives_a_round_trip(name):
    trained, fresh = make(name, seed=0), make(name, seed=1)
    optimizer = torch.optim.SGD([*trained.parameters(), torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    for seed in (1, 2):
        optimizer.zero_grad()
        trained(*scene(name, seed=seed)).loss.backward()
        optimizer.step()
    fresh(*scene(name, seed=3))  # what is made at the first batch is there
    fresh.load_state_dict(trained.state_dict())
    lessons = []
    for method in (trained, fresh):
        torch.manual_seed(0)
        lessons.append(method(*scene(name)))
    assert_equal_lessons(*lessons, rtol=0, atol=0)


@requirement
def default_options_are_those_of_the_options_model(name):
    defaults = {**method_options(name)().model_dump(), **CHEAPER.get(name, {})}
    assert_equal_lessons(make(name)(*scene(name)), make(name, **defaults)(*scene(name)))


@requirement
def options_are_keywords_with_annotations_and_defaults(name):
    for option in inspect.signature(method_class(name)).parameters.values():
        assert option.kind is option.KEYWORD_ONLY, option.name
        assert option.annotation is not option.empty, option.name
        assert option.default is not option.empty, option.name


@requirement
def says_what_it_is(name):
    cls = method_class(name)
    assert cls.title
    assert cls.name == name == cls.name.lower()
    assert cls.num_mentors in COUNTS
    assert cls.year is None or 2000 < cls.year < 2100
    assert cls.views in (1, 2)
    assert cls.needs_features or not cls.needs_preactivations
    assert cls.__doc__


@requirement
def equal_seeds_give_equal_lessons(name):
    lessons, gradients = [], []
    for _ in range(2):
        student, mentors, target, index = scene(name)
        lessons.append(make(name)(student, mentors, target, index))
        lessons[-1].loss.backward()
        gradients.append([t.grad for t in tensors(student) if t.grad is not None])
    assert_equal_lessons(*lessons, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@requirement
def inputs_are_left_as_they_are(name):
    student, mentors, target, index = scene(name)
    before = [t.detach().clone() for o in (student, *mentors) for t in tensors(o)]
    make(name)(student, mentors, target, index).loss.backward()
    after = [t for o in (student, *mentors) for t in tensors(o)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@requirement
def adapters_are_never_in_the_exported_student(name):
    network = build_model("resnet8", C)
    exported = deployable(network, make(name))
    assert exported is network
    assert exported.state_dict().keys() == build_model("resnet8", C).state_dict().keys()


@requirement
def plain_tensors_are_logits(name):
    if method_class(name).needs_features:
        pytest.skip("needs features")
    student, mentors, target, _ = scene(name)
    lesson = make(name)(student, mentors, target)
    plain = [mentor.logits for mentor in mentors]
    assert_equal_lessons(make(name)(student.logits, plain, target), lesson)
    assert_equal_lessons(make(name)(student.logits, torch.stack(plain), target), lesson)
    assert_equal_lessons(make(name)(student.logits, tuple(mentors), target), lesson)


@requirement
def listens_to_as_many_as_it_says(name):
    num_mentors = method_class(name).num_mentors
    for count in COUNTS[num_mentors]:
        lesson = make(name, count=count)(*scene(name, count=count))
        assert len(lesson.mentor_loss) == len(lesson.weight) == heard_count(name, count)
    if num_mentors == 1:
        for count in (0, 2):
            with pytest.raises(ValueError, match=f"{name} learns from one mentor, not from"):
                make(name)(*scene(name, count=count))
    if num_mentors == 0:
        student, mentors, target, _ = scene(name, count=3)
        alone, company = make(name)(student, [], target), make(name)(student, mentors, target)
        assert_equal_lessons(alone, company, rtol=0, atol=0)


@requirement
def every_device_gives_the_same(name):
    here = make(name)(*scene(name))
    names = [kind for kind in ("cuda", "mps", "xpu") if getattr(torch, kind).is_available()]
    for device in ["cpu", *names]:
        method = make(name).to(device)
        lesson = method(*scene(name, device=device))
        assert all(getattr(lesson, n).device.type == device for n in ("loss", *STATISTICS))
        lesson.loss.backward()
        assert_equal_lessons(lesson, here, rtol=1e-4, atol=1e-5)


@requirement
def mentors_that_train_along_learn_alone(name):
    if not method_class(name).mutual:
        pytest.skip("no mentor trains along")
    student, mentors, target, _ = scene(name)
    method = make(name)
    loss = method.peer_loss(student, mentors, [0, 2], target)
    assert loss.shape == ()
    assert loss.isfinite()
    loss.backward()
    assert mentors[0].logits.grad.any()
    assert mentors[2].logits.grad.any()
    assert student.logits.grad is None
    assert mentors[1].logits.grad is None


@requirement
def teaches_in_a_classroom_by_its_weights(name):
    if method_class(name).num_mentors != 1:
        pytest.skip("no method of one mentor")
    student, mentors, target, index = scene(name, count=3)
    torch.manual_seed(0)
    also = {"name": name, **CHEAPER.get(name, {})}
    classroom = create_method("classroom", divergence="none", task_weight=1.0, also=also)
    classroom.on_train_set(SAMPLES, SAMPLES % C)
    with torch.no_grad():
        classroom.setup(*scene(name, batch=2, count=3)[:2])
    torch.manual_seed(1)
    lesson = classroom(student, mentors, target, index)
    lesson.loss.backward()
    assert all(t.grad is None for mentor in mentors for t in tensors(mentor))
    whole = (lesson.task_loss + lesson.mentor_loss.sum(0)).mean()
    torch.testing.assert_close(whole, lesson.loss.detach())
    assert (lesson.mentor_loss[~lesson.active] == 0).all()
    assert lesson.active.any()
    torch.manual_seed(1)
    share = lesson.active * lesson.weight
    for place, single in enumerate(classroom.second.copies):
        term = single.term(student, mentors[place], target, index).detach()
        torch.testing.assert_close(lesson.mentor_loss[place], share[place] * term)


@requirement
def nothing_is_read_back_from_the_device(name):
    """On the meta device there is nothing to read: whoever tries, fails."""
    method = make(name)
    method(*scene(name))  # what is made at the first batch is there
    method.to("meta")
    student, mentors, target, index = scene(name, device="meta")
    lesson = method(student, mentors, target, index)
    lesson.loss.backward()
    assert lesson.loss.device.type == "meta"
