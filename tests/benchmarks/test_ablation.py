"""The ablation: a row for each way, and the networks that are timed answer alike."""

import torch

from benchmarks import ablation
from benchmarks.ablation import FASTEST, RECIPE, WAYS, Lineup, Running, Way
from benchmarks.variants import Settings
from classroomkd.models import build_model

TINY = Settings(
    "resnet8", ("resnet8", "ShuffleNetV2"), batch_size=4, classes=5, rounds=3, tuned=False
)


def test_a_row_for_each_way(monkeypatch):
    ways = [way for way in WAYS if not way.compiled]
    monkeypatch.setattr(ablation, "WAYS", ways)
    lineup = Lineup(TINY)
    ran = []
    forward = Running.forward
    monkeypatch.setattr(Running, "forward", lambda self, x: ran.append(self) or forward(self, x))
    rows = {row["mentors_run"]: row for row in lineup.measure()}
    assert list(rows) == [*map(str, ways), FASTEST]
    assert float(rows[str(RECIPE)]["over_recipe"]) == float(rows["nothing"]["over_nothing"]) == 1
    assert all(float(row["milliseconds"]) > 0 for row in rows.values())
    for name, networks in lineup.networks.items():  # alone, in their turns, and as the fastest
        for network in networks:
            alone, turns, chosen = TINY.rounds, TINY.rounds + 1, TINY.rounds + 1
            assert ran.count(network) in (alone + turns, alone + turns + chosen), name


def test_every_way_answers_alike():
    torch.manual_seed(0)
    network, images = build_model("resnet8", 5).eval(), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        wanted = network(images)
        for way in WAYS:
            if not way.compiled:
                given = Running(network, way, images)(images)
                torch.testing.assert_close(given.float(), wanted, rtol=0.05, atol=0.05)
                assert given.dtype == (
                    torch.bfloat16 if way.bf16 or way.autocast else torch.float32
                )
    assert str(Way(bf16=True, folded=True)) == "bf16, folded"
