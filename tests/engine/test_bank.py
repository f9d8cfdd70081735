"""A recipe's bank: built or filled along the way, read instead of running mentors, and refused
where it does not fit."""

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from classroomkd.engine.bank import build_bank, verify_bank
from classroomkd.engine.build import build_classroom
from classroomkd.engine.run import train
from classroomkd.engine.step import training_step
from classroomkd.errors import ClassroomError
from classroomkd.mentors import Mentor
from classroomkd.mentors.bank import Bank


def quiet(_):
    pass


@pytest.fixture
def banked(digits_recipe, tmp_path):
    """A function from changes to a recipe with a bank; ``bank`` adds to the bank's options."""

    def make(**changes):
        bank = {"path": str(tmp_path / "bank"), **changes.pop("bank", {})}
        return digits_recipe(bank=bank, **changes)

    return make


@pytest.fixture
def calls(monkeypatch):
    """Counts how often mentors are asked."""
    asked = []
    original = Mentor.outputs

    def outputs(mentor, images, **wanted):
        asked.append(len(images))
        return original(mentor, images, **wanted)

    monkeypatch.setattr(Mentor, "outputs", outputs)
    return asked


def lessons(recipe, epoch=0):
    """The lessons of an epoch, the student as it is at first."""
    classroom = build_classroom(recipe)
    classroom.begin_epoch(epoch)
    with torch.no_grad():
        held = [training_step(classroom, batch) for batch in classroom.train]
    classroom.end_epoch()
    return held


def test_lessons_from_the_bank_are_those_of_live_mentors(banked, digits_recipe, calls):
    build_bank(banked(), say=quiet)
    calls.clear()
    for epoch in (0, 1):
        stored = lessons(banked(), epoch)
        del calls[:2]  # a new classroom shows its method two images
        assert not calls
        live = lessons(digits_recipe(), epoch)
        calls.clear()
        for one, other in zip(stored, live, strict=True):
            assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-3)
            torch.testing.assert_close(one.mentor_score, other.mentor_score, rtol=1e-4, atol=1e-6)
            assert (one.active == other.active).float().mean() > 0.999


def test_a_run_in_bfloat16_reads_its_bank(banked, digits_recipe, tmp_path):
    recipe = banked(train={"precision": "bf16"})
    build_bank(recipe, say=quiet)
    for one, other in zip(
        lessons(recipe), lessons(digits_recipe(train={"precision": "bf16"})), strict=True
    ):
        assert one.mentor_score.dtype == torch.float32
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-2)
    train(recipe, tmp_path / "run", progress=False, say=quiet)


def test_views_are_told_apart(banked):
    build_bank(banked(), say=quiet)
    bank = Bank(banked().bank.path, None)
    first, second = (bank.mentor("resnet8", None).load(view).stored["logits"] for view in (0, 1))
    assert first.shape == second.shape
    assert not torch.equal(first, second)


def test_a_missing_part_is_run_live_and_added(banked, calls):
    recipe = banked()
    train(recipe, recipe.bank.path.parent / "first", progress=False, say=quiet)
    assert calls
    bank = Bank(recipe.bank.path, None)
    assert [row.views for row in bank.info()] == [2, 2]
    calls.clear()
    second = recipe.model_copy(
        update={"student": recipe.student.model_copy(update={"model": "resnet14"})}
    )
    train(second, recipe.bank.path.parent / "second", progress=False, say=quiet)
    assert calls == [2, 2]  # to show their shapes, before training

    bank.mentor("resnet8", None)._path(1).unlink()
    calls.clear()
    train(recipe, recipe.bank.path.parent / "third", progress=False, say=quiet)
    assert sum(calls) == 4 + 1024  # one mentor, one epoch of 8 batches of 128
    assert [row.views for row in bank.info()] == [2, 2]


def test_the_student_of_a_bank_is_that_of_its_own_filling(banked, tmp_path):
    """What is written down live is what the builder computes, up to rounding."""
    recipe = banked()
    build_bank(recipe, say=quiet)
    from_bank = train(recipe, tmp_path / "from-bank", progress=False, say=quiet)
    again = train(recipe, tmp_path / "again", progress=False, say=quiet)
    assert from_bank == again
    live = train(
        recipe.model_copy(update={"bank": None}), tmp_path / "live", progress=False, say=quiet
    )
    for key in ("test_nll", "dev_top1"):
        assert from_bank["last"][key] == pytest.approx(live["last"][key], rel=0.1)


def test_top_keeps_scores_and_most_of_the_loss(banked, digits_recipe):
    recipe = banked(bank={"top": 4})
    build_bank(recipe, say=quiet)
    for one, other in zip(lessons(recipe), lessons(digits_recipe()), strict=True):
        torch.testing.assert_close(one.mentor_score, other.mentor_score, rtol=1e-4, atol=1e-6)
        assert torch.equal(one.active, other.active)
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=0.05)


def test_repeated_views_need_as_many_shards(banked):
    recipe = banked(data={"repeat": 1}, train={"epochs": 3})
    build_bank(recipe, say=quiet)
    assert [row.views for row in Bank(recipe.bank.path, None).info()] == [1, 1]
    classroom = build_classroom(recipe)
    images = []
    for epoch in (0, 2):
        classroom.begin_epoch(epoch)
        assert len(classroom.mentor_outputs.banked) == 2
        shown = {
            int(i): image
            for b in classroom.train
            for i, image in zip(b.index, b.images, strict=True)
        }
        images.append(shown)
    common = images[0].keys() & images[1].keys()
    assert all(torch.equal(images[0][i], images[1][i]) for i in common)


def test_seeds_share_a_bank_through_one_seed_of_views(banked, calls):
    build_bank(banked(data={"view_seed": 0}), say=quiet)
    for seed in (1, 2):
        classroom = build_classroom(banked(seed=seed, data={"view_seed": 0}))
        classroom.begin_epoch(1)
        assert [m.name for m in classroom.mentor_outputs.banked] == ["resnet8", "resnet14"]
    with pytest.raises(ClassroomError, match=r"the bank .* does not fit; seed: 0, here 1"):
        build_classroom(banked(seed=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"augment": []}}, r"views"),
        ({"data": {"dev": 0.1}}, r"data\.fingerprint"),
        ({"data": {"repeat": 1}}, r"repeat: None, here 1"),
        ({"bank": {"top": 3}}, r"top: None, here 3"),
        ({"train": {"precision": "bf16"}}, r"precision: fp32, here bf16"),
    ],
)
def test_a_foreign_bank_is_refused_naming_what_differs(banked, change, message):
    build_bank(banked(train={"epochs": 1}), say=quiet)
    with pytest.raises(ClassroomError, match=rf"does not fit; .*{message}.*classroomkd bank prune"):
        build_classroom(banked(**change))


def test_a_mentor_that_was_retrained_is_refused(banked):
    recipe = banked(train={"epochs": 1})
    build_bank(recipe, say=quiet)
    peer = recipe.mentors[1].run
    shutil.copy(recipe.mentors[0].run / "student.json", peer / "student.json")
    shutil.copy(recipe.mentors[0].run / "student.safetensors", peer / "student.safetensors")
    with pytest.raises(ClassroomError, match=r"mentor resnet14 .*architecture.*weights"):
        build_classroom(recipe)


def test_damage_is_found_and_computed_again(banked, calls):
    recipe = banked(train={"epochs": 1})
    build_bank(recipe, say=quiet)
    path = Bank(recipe.bank.path, None).mentor("resnet8", None)._path(0)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100] + b"?" + whole[-99:])
    said = []
    classroom = build_classroom(recipe, said.append)
    classroom.begin_epoch(0)
    assert "damaged" in said[0]
    assert [m.name for m in classroom.mentor_outputs.banked] == ["resnet14"]
    classroom.mentor_outputs.close()  # the epoch does not go on, and another may write the view
    build_bank(recipe, say=quiet)
    assert path.read_bytes() == whole


def test_an_interrupted_build_goes_on(banked, monkeypatch):
    recipe = banked(train={"epochs": 4})
    original, count = Mentor.outputs, 0

    def stop(self, images, **wanted):
        nonlocal count
        count += 1
        if count > 20:
            raise KeyboardInterrupt
        return original(self, images, **wanted)

    with monkeypatch.context() as patch:
        patch.setattr(Mentor, "outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            build_bank(recipe, say=quiet)
    stored = [row.views for row in Bank(recipe.bank.path, None).info()]
    assert stored == [2, 2]
    build_bank(recipe, say=quiet)
    assert [row.views for row in Bank(recipe.bank.path, None).info()] == [4, 4]
    assert not verify_bank(recipe, say=quiet)


def test_two_builders_share_the_work(banked):
    recipe = banked(train={"epochs": 6})
    code = (
        "import sys; from classroomkd.config import load_recipe;"
        "from classroomkd.engine.bank import build_bank; build_bank(load_recipe(sys.argv[1]))"
    )
    file = recipe.bank.path.parent / "shared.yaml"
    file.write_text(recipe.to_yaml())
    other = subprocess.Popen([sys.executable, "-c", code, str(file)], stdout=subprocess.DEVNULL)
    build_bank(recipe, say=quiet)
    assert other.wait(120) == 0
    assert [(r.views, r.damaged) for r in Bank(recipe.bank.path, None).info()] == [(6, 0), (6, 0)]
    assert not verify_bank(recipe, say=quiet)


def test_threads_may_build_and_read_at_once(banked):
    recipe = banked(train={"epochs": 3})
    failures = []

    def work():
        try:
            build_bank(recipe, say=quiet)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    lessons(recipe)
    for thread in threads:
        thread.join()
    assert not failures


def test_the_size_is_told_and_the_limit_kept_before_anything_is_computed(banked, calls):
    said = []
    recipe = banked(bank={"limit_gb": 1e-5})
    with pytest.raises(
        ClassroomError, match=r"more than its limit of 10\.0 kB.*bank\.limit_gb.*top"
    ):
        build_bank(recipe, say=said.append)
    assert "2 views x 2 mentors" in said[0]
    assert not calls


def test_verify_finds_outputs_of_another_network(banked):
    recipe = banked(train={"epochs": 1})
    build_bank(recipe, say=quiet)
    bank = Bank(recipe.bank.path, None)
    bank.mentor("resnet14", None).save(0, bank.mentor("resnet8", None).load(0))
    said = []
    assert verify_bank(recipe, say=said.append) == ["resnet14, view 0"]
    assert "resnet8, view 0: as computed here (0." in said[0]
    assert "DIFFERENT" in said[1]


def test_a_mentor_whose_outputs_alone_are_here(banked, digits_recipe, tmp_path):
    recipe = banked()
    build_bank(recipe, say=quiet)
    away = tmp_path / "from-elsewhere"
    shutil.move(recipe.bank.path, away)
    mentors = [
        {"outputs": str(away / "resnet8"), "role": "teacher"},
        {"outputs": str(away / "resnet14")},
    ]
    stored = digits_recipe(mentors=mentors)
    for one, other in zip(lessons(stored), lessons(digits_recipe()), strict=True):
        assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-3)
    summary = train(stored, tmp_path / "run", progress=False, say=quiet)
    assert summary["mentors"] == ["resnet8", "resnet14"]
    longer = digits_recipe(mentors=mentors, train={"epochs": 3})
    with pytest.raises(
        ClassroomError, match=r"resnet8 cannot run here.*not all of its outputs for view 2"
    ):
        train(longer, tmp_path / "longer", progress=False, say=quiet)


@pytest.mark.parametrize(
    ("method", "message"),
    [("at", "'at' reads features"), ("mlld", "'mlld' wants two views")],
)
def test_methods_that_a_bank_cannot_serve(banked, method, message):
    with pytest.raises(ClassroomError, match=f"{message}.*leave bank out"):
        build_classroom(banked(method={"name": method}))


def test_nothing_to_build(banked, digits_recipe):
    for recipe in (banked(method={"name": "none"}), digits_recipe()):
        with pytest.raises(ClassroomError, match="has no bank to look after"):
            build_bank(recipe, say=quiet)


def test_a_bank_knows_nothing_of_this_machine(banked):
    recipe = banked(train={"epochs": 1})
    build_bank(recipe, say=quiet)
    for path in recipe.bank.path.rglob("*.json"):
        text = json.dumps(json.loads(path.read_text()))
        assert str(recipe.bank.path.parent) not in text


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_what_is_written_live_takes_no_memory(tmp_path):
    """An epoch ten times as long needs no more memory: rows go to the file as they come."""
    from classroomkd.data import Batch
    from classroomkd.engine.mentor_outputs import MentorOutputs
    from classroomkd.mentors.bank import Bank, decode
    from classroomkd.methods import Outputs, create_method

    classes, size, batches = 1000, 256, 120
    logits = torch.randn(size, classes, generator=torch.Generator().manual_seed(0))

    class Says(torch.nn.Module):
        def forward(self, images):
            return logits + images.mean()

    mentor = Mentor(Says(), "says")
    store = Bank(tmp_path / "bank", {"views": "of this test"}).mentor("says", {"weights": "none"})
    outputs = MentorOutputs(
        [mentor],
        create_method("classroom"),
        Outputs(logits[:1]),
        lambda batch: (batch.target,),
        [store],
    )
    index = torch.randperm(size * batches, generator=torch.Generator().manual_seed(1))
    target = torch.zeros(size, dtype=torch.int64)

    def anonymous():
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("RssAnon"))

    outputs.begin(0, index)
    for number, rows in enumerate(index.split(size)):
        images = torch.full((size, 1), float(number))
        outputs(Batch(images, target, rows))
        if number == batches // 10:
            early = anonymous()
    grown = anonymous() - early
    outputs.end()
    shard = store.load(0)
    assert shard is not None
    assert len(shard) == size * batches
    rows = shard.positions(index[-size:])
    last = {name: tensor[rows] for name, tensor in shard.stored.items()}
    expected = (logits + batches - 1).softmax(1)
    torch.testing.assert_close(
        decode(last, target, classes).softmax(1), expected, rtol=1e-2, atol=1e-6
    )
    assert grown < 20, f"{grown:.0f} MB of {size * batches * classes * 2 / 1e6:.0f} MB written"
