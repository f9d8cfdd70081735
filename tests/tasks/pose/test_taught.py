import torch

from classroomkd.tasks.pose.metrics import TaughtJoints, taught_joints


def test_batches_add_up():
    random = torch.Generator().manual_seed(0)
    active = torch.rand(3, 8, generator=random) < 0.5
    visible = torch.randint(0, 3, (8, 5), generator=random)
    visible[:, 4] = 0
    known = torch.ones(3, 5, dtype=torch.bool)
    known[2, 0] = False
    whole = taught_joints(active, visible, known)
    halves = [
        taught_joints(active[:, part], visible[part], known) for part in (slice(3), slice(3, 8))
    ]
    added = TaughtJoints(*(a + b for a, b in zip(*halves, strict=True)))
    assert all(map(torch.equal, whole, added))
    for m in range(3):
        for u in range(5):
            seen = [i for i in range(8) if visible[i, u] > 0 and known[m, u]]
            assert whole.labelled[m, u] == len(seen)
            assert whole.taught[m, u] == sum(bool(active[m, i]) for i in seen)
    assert whole.share()[:, 4].isnan().all()
    assert whole.share()[2, 0].isnan()


def test_joints_ranked_by_themselves():
    active = torch.tensor([[[True, False], [True, True]]])
    counts = taught_joints(active, torch.ones(2, 2))
    assert counts.taught.tolist() == [[2, 1]]
    assert counts.labelled.tolist() == [[2, 2]]
