import math

import pytest
import torch

from classroomkd.tasks.pose.metrics import oks, oks_divergence, oks_nms, person_oks
from tests.tasks.pose.scenes import make_persons


def test_formula_by_hand():
    """kappa = 2 sigma, s^2 = area: d = 6, area = 900, sigma = .1 gives exp(-36 / (2 900 .04))."""
    points, truth = torch.tensor([[[6.0, 0.0]]]), torch.zeros(1, 1, 2)
    given = (points, truth, torch.ones(1, 1), torch.tensor([900.0]), [0.1])
    assert oks(*given).item() == pytest.approx(math.exp(-0.5))
    assert oks_divergence(*given).item() == pytest.approx(0.5)


def test_as_pycocotools():
    from pycocotools.cocoeval import COCOeval

    persons = make_persons("coco", 2)
    guess = persons.points + torch.randn(persons.points.shape)
    visible = persons.visible.clone()
    visible[:, ::3] = 0

    def triples(points, flags):
        return torch.cat([points, flags[..., None].float()], -1).double().flatten(1).tolist()

    judge = COCOeval(iouType="keypoints")
    for n in range(2):
        keypoints, box = triples(persons.points, visible)[n], persons.box[n].tolist()
        judge._gts[n, 1] = [{"keypoints": keypoints, "bbox": box, "area": persons.area[n].item()}]
        judge._dts[n, 1] = [{"keypoints": triples(guess, visible)[n], "score": 1.0}]
    ours = person_oks(guess, persons.points, visible, persons.area, persons.joints.sigmas)
    theirs = [judge.computeOks(n, 1)[0, 0] for n in range(2)]
    assert ours.tolist() == pytest.approx(theirs, abs=1e-6)


def test_mentors_at_once_and_half_precision():
    persons = make_persons("lsp", 4)
    rest = (persons.points, persons.visible, persons.area, torch.tensor(persons.joints.sigmas))
    guesses = persons.points + torch.randn(3, *persons.points.shape)
    together = oks_divergence(guesses, *rest)
    assert together.shape == (3, 4, 14)
    assert torch.equal(together[1], oks_divergence(guesses[1], *rest))
    assert oks_divergence(guesses.bfloat16(), *rest).dtype == torch.float32
    assert person_oks(guesses, *rest).shape == (3, 4)


def test_unlabelled_joints_do_not_count_whatever_they_are():
    persons = make_persons("lsp", 3)
    visible = persons.visible.clone()
    visible[0, 3] = visible[2] = 0
    points = persons.points + 1
    rest = (visible, persons.area, persons.joints.sigmas)
    before = oks_divergence(points, persons.points, *rest), oks(points, persons.points, *rest)
    truth = persons.points.clone()
    truth[0, 3], truth[2] = torch.nan, torch.inf
    after = oks_divergence(points, truth, *rest), oks(points, truth, *rest)
    assert all(map(torch.equal, before, after))
    assert before[1][0, 3] == 0
    means = person_oks(points, truth, *rest)
    assert means[2].isnan()
    assert means[0] == pytest.approx(before[1][0].sum().item() / 13)


def test_no_area_is_no_nan():
    truth = torch.zeros(1, 1, 2)
    for points, expected in ((truth, 1.0), (truth + 1, 0.0)):
        given = (points, truth, torch.ones(1, 1), torch.zeros(1), [0.1])
        assert oks(*given).item() == expected
        assert oks_divergence(*given).isfinite().all()


def test_nms_keeps_the_best_of_each_person_in_each_image():
    one, other = torch.zeros(3, 2), torch.full((3, 2), 40.0)
    points = torch.stack([one, one + 0.1, other, one, one + 9])
    score = torch.tensor([0.5, 0.9, 0.2, 0.1, 0.3])
    image = torch.tensor([7, 7, 7, 8, 7])
    kept = oks_nms(points, score, torch.full((5,), 400.0), image, [0.1] * 3)
    assert kept.tolist() == [False, True, True, True, True]
    # what only a dropped person resembles is kept
    row = torch.tensor([0.0, 3.0, 6.0])[:, None, None].expand(3, 1, 2)
    area, same = torch.full((3,), 400.0), torch.zeros(3)
    chain = oks_nms(row, torch.tensor([0.9, 0.8, 0.7]), area, same, [0.1], threshold=0.5)
    assert chain.tolist() == [True, False, True]
    assert oks_nms(points[:0], score[:0], score[:0], image[:0], [0.1] * 3).tolist() == []
