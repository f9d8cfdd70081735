"""CRD against torchdistill over several steps, against NumPy in float64 from the formula; its
memory in steps, in a classroom, in runs and after they were interrupted."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from classroomkd.engine.run import train
from classroomkd.engine.runs import RunFolder
from classroomkd.methods import Outputs, create_method
from classroomkd.methods.contrastive import Rows, contrast, noise_contrast, products, renewed
from tests.methods.scenes import random, torchdistill_losses

B, C, N, K, D = 4, 4, 16, 5, 6
NUMBERS = torch.arange(N) * 3 + 2
LABELS = torch.arange(N) % C
SMALL = {"negatives": K, "dim": D}


def says(width, seed=0, batch=B):
    return Outputs(random(batch, C, seed=seed), {"pooled": random(batch, width, seed=seed)})


def crd(numbers=NUMBERS, labels=LABELS, seed=0, **options):
    """The method as a run has it, in float64."""
    torch.manual_seed(seed)
    method = create_method("crd", **(SMALL | options))
    method.on_train_set(numbers, labels)
    method.setup(says(6), [says(9)])
    return method.double()


def batch(step=0):
    """Student, mentor, labels and numbers of a batch of different samples."""
    generator = torch.Generator().manual_seed(step)
    rows = torch.randperm(N, generator=generator)[:B]
    return says(6, 2 * step), [says(9, 2 * step + 1)], LABELS[rows], NUMBERS[rows]


def unit(*shape, seed=0):
    return F.normalize(random(*shape, seed=seed), dim=-1)


# ------------------------------------------------------------------------------------- the loss


@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_three_steps_are_torchdistills(temperature):
    oracle = torchdistill_losses().CRDLoss(
        "v", "index", "v", D, N, K, N, temperature=temperature, momentum=0.5
    )
    oracle.double()
    oracle.params[1] = temperature  # it was rounded to float32
    memory = torch.stack([oracle.memory_v1, oracle.memory_v2])
    log_z = torch.full((2,), torch.nan, dtype=torch.float64)
    rows = Rows(NUMBERS, LABELS)
    for step in range(3):
        torch.manual_seed(step)
        row = torch.randperm(N)[:B]
        chosen = torch.cat([row[:, None], rows.negatives(row, K)], 1)
        ours, theirs = (unit(2, B, D, seed=step).requires_grad_() for _ in range(2))
        loss, log_z = contrast(ours, memory, chosen, log_z, temperature)
        loss.mean().backward()
        memory = renewed(memory, row, ours.detach(), 0.5)
        student = {"v": {"output": theirs[0]}, "index": {"input": {"pos_idx": row}}}
        student["index"]["input"]["contrast_idx"] = chosen
        expected = oracle(student, {"v": {"output": theirs[1]}})
        expected.sum().backward()
        exact = {"rtol": 1e-9, "atol": 1e-9}
        torch.testing.assert_close(loss.mean(), expected.squeeze(), **exact)
        torch.testing.assert_close(ours.grad, theirs.grad, **exact)
        kept = torch.stack([oracle.memory_v1, oracle.memory_v2])
        torch.testing.assert_close(memory, kept, **exact)
        # Its first constant belongs to the student's embedding, hence to the mentor's memory.
        torch.testing.assert_close(log_z.exp(), oracle.params[2:4].flip(0).detach(), **exact)


def numpy_term(v, memory, chosen, z, temperature, weight):
    """The term of every sample by loops, from the formula; ``z`` is estimated where it is None."""
    student, mentor = v
    student_memory, mentor_memory = memory

    def exponentials(embedding, kept):
        return np.array(
            [[math.exp(kept[j] @ embedding[i] / temperature) for j in chosen[i]] for i in range(B)]
        )

    sides = exponentials(student, mentor_memory), exponentials(mentor, student_memory)
    z = [N * side.mean() for side in sides] if z is None else z
    terms = np.zeros(B)
    for side, constant in zip(sides, z, strict=True):
        for i, (own, *others) in enumerate(side / constant):
            terms[i] -= math.log(own / (own + K / N + 1e-7))
            terms[i] -= sum(math.log((K / N) / (p + K / N + 1e-7)) for p in others)
    return weight * terms, z


@pytest.mark.parametrize(
    "options", [{}, {"weight": 2.0, "temperature": 0.3, "momentum": 0.9}, {"momentum": 0.0}]
)
def test_steps_are_those_of_the_formula(options):
    method = crd(**options)
    memory, z = method.memory.numpy().copy(), None
    momentum = options.get("momentum", 0.5)
    for step in range(3):
        student, mentors, target, index = batch(step)
        torch.manual_seed(step)
        lesson = method(student, mentors, target, index)
        row = method.rows.row[index]
        torch.manual_seed(step)
        negatives = method.rows.negatives(row, K)
        v = []
        for embedding, outputs in zip(method.embed, (student, *mentors), strict=True):
            w, b = (p.detach().numpy() for p in (embedding.weight, embedding.bias))
            x = outputs.features["pooled"].numpy() @ w.T + b
            v.append(x / np.sqrt((x**2).sum(1, keepdims=True)))
        chosen = np.concatenate([row[:, None].numpy(), negatives.numpy()], 1)
        terms, z = numpy_term(
            v, memory, chosen, z, options.get("temperature", 0.07), options.get("weight", 0.8)
        )
        np.testing.assert_allclose(lesson.mentor_loss[0].numpy(), terms, rtol=1e-10)
        for side in range(2):
            for i, j in enumerate(row.tolist()):
                moved = momentum * memory[side, j] + (1 - momentum) * v[side][i]
                memory[side, j] = moved / np.sqrt((moved**2).sum())
        np.testing.assert_allclose(method.memory.numpy(), memory, rtol=1e-10)


def test_both_ways_to_the_products_agree():
    chosen = torch.randint(N, (B, K + 1), generator=torch.Generator().manual_seed(0))
    results = []
    for count in (N, 10 * N):  # fewer rows than (K + 1) D, and more
        memory = unit(2, 10 * N, D)[:, :count]
        assert (count <= (K + 1) * D) == (count == N)
        embedded = unit(2, B, D, seed=1).requires_grad_()
        value = products(embedded, memory, chosen)
        value.square().sum().backward()
        results.append((value, embedded.grad))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_small_temperatures_do_not_overflow():
    embedded, chosen = unit(2, B, D).float(), torch.arange(B * 3).reshape(B, 3)
    memory = unit(2, N, D, seed=1).float()
    unknown = torch.full((2,), torch.nan)
    loss, log_z = contrast(embedded.requires_grad_(), memory, chosen, unknown, 1e-3)
    loss.sum().backward()
    assert log_z.max() > 100  # e^100 is no float32
    assert loss.isfinite().all()
    assert embedded.grad.isfinite().all()


def test_indifference_by_hand():
    """All exponentials alike: P = 1/N, each of K logits is -log K."""
    loss = noise_contrast(torch.full((1, K + 1), -math.log(N)), N, eps=0.0)
    assert loss.item() == pytest.approx(math.log(1 + K) + K * math.log(1 + 1 / K), rel=1e-6)


def test_training_brings_student_and_memory_together():
    method = crd(negatives=64)
    student, mentors, target, index = batch()
    student.features["pooled"].requires_grad_()
    pupil = torch.optim.SGD([student.features["pooled"], *method.parameters()], lr=0.5)
    losses = []
    for _ in range(30):
        pupil.zero_grad()
        term = method(student, mentors, target, index).mentor_loss
        losses.append(term.mean().item())
        method(student, mentors, target, index).loss.backward()
        pupil.step()
    assert losses[-1] < 0.7 * losses[0]


# --------------------------------------------------------------------------------------- the rows


def test_negatives_are_all_of_other_classes():
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([3] * 5 + [0] + [8] * 2 + [5] * 4)[
        torch.randperm(12, generator=generator)
    ]
    numbers = torch.randperm(100, generator=generator)[:12]
    rows = Rows(numbers, labels)
    row = rows.row[numbers]
    assert row.sort().values.tolist() == list(range(12))
    assert (rows.row == -1).sum() == len(rows.row) - 12
    label_of_row = torch.empty(12, dtype=torch.long).scatter(0, row, labels)
    torch.manual_seed(0)
    drawn = rows.negatives(row, 20_000)
    for own, negatives in zip(row, drawn, strict=True):
        others = (label_of_row != label_of_row[own]).nonzero().squeeze(1)
        seen, times = negatives.unique(return_counts=True)
        assert torch.equal(seen, others)
        share = times / 20_000
        assert (share * len(others) - 1).abs().max() < 0.15  # five standard deviations


def test_a_training_set_of_one_class_is_refused():
    with pytest.raises(ValueError, match="samples of other classes.* and has 1"):
        create_method("crd").on_train_set(NUMBERS, torch.full((N,), 3))


def test_numbers_and_their_order_do_not_matter():
    lessons = []
    for numbers in (torch.arange(N), NUMBERS, NUMBERS.flip(0) * 1000):
        method = crd(numbers=numbers)
        student, mentors, target, _ = batch()
        torch.manual_seed(1)
        rows = torch.tensor([3, 8, 9, 14])
        lessons.append(method(student, mentors, target, numbers[rows]).mentor_loss)
    assert all(torch.equal(lessons[0], other) for other in lessons[1:])
    shuffled = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    one, other = Rows(NUMBERS, LABELS), Rows(NUMBERS[shuffled], LABELS[shuffled])
    assert torch.equal(one.first[one.row[NUMBERS]], other.first[other.row[NUMBERS]])


# ------------------------------------------------------------------------------------- the memory


def test_the_batchs_memories_alone_move():
    method = crd()
    student, mentors, target, index = batch()
    before = method.memory
    method(student, mentors, target, index)
    moved = (method.memory != before).any(2)
    row = method.rows.row[index]
    assert moved[:, row].all()
    assert moved.sum() == 2 * B
    torch.testing.assert_close(method.memory[:, row].norm(dim=2), random(2, B).fill_(1))
    assert not method.memory.requires_grad


def test_a_sample_twice_in_a_batch_keeps_one_embedding():
    method = crd(momentum=0.0)
    student, mentors, target, index = batch()
    index = torch.cat([index[:2], index[:2]])
    method(student, mentors, target, index)
    kept = method.memory[0, method.rows.row[index[:2]]]
    embedded = method.embed[0](student.features["pooled"])
    torch.testing.assert_close(kept, embedded[2:].detach())


def test_nothing_is_remembered_in_eval_mode():
    method = crd().eval()
    before = {name: value.clone() for name, value in method.state_dict().items()}
    assert method(*batch()).loss.isfinite()
    for name, value in method.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def test_the_constants_are_those_of_the_first_batch():
    method = crd()
    assert method.log_z.isnan().all()
    method(*batch(0))
    first = method.log_z.clone()
    method(*batch(1))
    assert torch.equal(method.log_z, first)
    assert first.isfinite().all()


def test_the_step_reads_nothing_back():
    """On the meta device, what a step reads of a value is an error."""
    method = crd().to("meta")
    student, mentors, target, index = batch()
    on = [Outputs(o.logits.to("meta"), {"pooled": o.features["pooled"].to("meta")})
          for o in (student, *mentors)]  # fmt: skip
    lesson = method(on[0], on[1:], target.to("meta"), index.to("meta"))
    lesson.loss.backward()
    assert lesson.mentor_loss.shape == (1, B)


def test_it_says_what_is_missing():
    student, mentors, target, index = batch()
    with pytest.raises(RuntimeError, match=r"call method\.on_train_set.* before method\.setup"):
        create_method("crd").setup(student, mentors)
    bare = create_method("crd")
    bare.on_train_set(NUMBERS, LABELS)
    with pytest.raises(RuntimeError, match="crd has no memory yet"):
        bare(student, mentors, target, index)
    with pytest.raises(ValueError, match="give method.* the samples' numbers"):
        crd()(student, mentors, target)
    with pytest.raises(ValueError, match="forward_stages"):
        crd()(student.logits, [mentors[0].logits], target, index)


def test_each_mentor_of_a_classroom_has_its_own_memory():
    torch.manual_seed(0)
    also = {"name": "crd", **SMALL}
    classroom = create_method("classroom", divergence="none", task_weight=1.0, also=also)
    student, _, target, index = batch()
    mentors = [says(9, seed=1), says(5, seed=2)]
    mentors = [Outputs(m.logits + 9 * F.one_hot(target, C), m.features) for m in mentors]
    classroom.on_train_set(NUMBERS, LABELS)
    classroom.setup(student, mentors)
    classroom.double()
    before = copy.deepcopy(classroom.second.copies)
    torch.manual_seed(1)
    lesson = classroom(student, mentors, target, index)
    assert lesson.active.any()
    torch.manual_seed(1)
    for place, alone in enumerate(before):
        term = alone.term(student, mentors[place], target, index).detach()
        share = lesson.active[place] * lesson.weight[place]
        torch.testing.assert_close(lesson.mentor_loss[place], share * term)
        assert torch.equal(alone.memory, classroom.second.copies[place].memory)
    one, other = (method.memory for method in classroom.second.copies)
    assert not torch.equal(one, other)


# --------------------------------------------------------------------------------------- in a run


def method_state(folder):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return {name: value for name, value in state.items() if name.startswith("method.")}


def test_an_interrupted_run_has_the_same_memory(digits_recipe, tmp_path):
    recipe = digits_recipe(method={"name": "crd", "negatives": 256}, train={"epochs": 2})
    summary = train(recipe, tmp_path / "whole", progress=False, say=lambda _: None)
    losses = [row["loss"] for row in RunFolder(tmp_path / "whole").read_csv("metrics.csv")]
    assert all(math.isfinite(loss) for loss in losses)

    def cut(line):
        if line.startswith("epoch 2/"):
            raise KeyboardInterrupt  # after the epoch was written, before its state was saved

    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", progress=False, say=cut)
    after_one = method_state(tmp_path / "cut")
    resumed = train(recipe, tmp_path / "cut", resume=True, progress=False, say=lambda _: None)
    assert resumed == summary
    whole, cut_state = method_state(tmp_path / "whole"), method_state(tmp_path / "cut")
    assert {"method.memory", "method.log_z", "method.embed.1.weight"} <= whole.keys()
    assert whole.keys() == cut_state.keys()
    assert all(torch.equal(whole[name], cut_state[name]) for name in whole)
    assert torch.equal(after_one["method.log_z"], whole["method.log_z"])
    assert not torch.equal(after_one["method.memory"], whole["method.memory"])
