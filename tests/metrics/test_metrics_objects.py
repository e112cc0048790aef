"""ARI against counting all pairs of pixels, mIoU against trying all matchings, and the rules for what is missing."""

import itertools
import math

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.metrics import adjusted_rand_index, labels_from_masks, labels_from_objects, mean_iou


def labels(seed, b=2, t=3, high=4, side=4):
    return torch.randint(0, high, (b, t, side, side), generator=torch.Generator().manual_seed(seed))


def ari_by_pairs(truth, prediction):
    """Rand index over all pairs of points, corrected for chance: agreement of "same segment" of both."""
    points = list(zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True))
    both = a = b = pairs = 0
    for (t1, p1), (t2, p2) in itertools.combinations(points, 2):
        pairs += 1
        a, b, both = a + (t1 == t2), b + (p1 == p2), both + (t1 == t2 and p1 == p2)
    expected = a * b / pairs if pairs else 0
    return 1.0 if (a + b) / 2 == expected else (both - expected) / ((a + b) / 2 - expected)


@pytest.mark.parametrize("seed", range(3))
def test_ari_counts_pairs(seed):
    truth, prediction = labels(seed), labels(seed + 10, high=5)
    images, videos = adjusted_rand_index(truth, prediction), adjusted_rand_index(truth, prediction, level="video")
    assert images.shape == (2, 3) and videos.shape == (2,)
    for b in range(2):
        assert videos[b].item() == pytest.approx(ari_by_pairs(truth[b], prediction[b]), abs=1e-12)
        for t in range(3):
            assert images[b, t].item() == pytest.approx(ari_by_pairs(truth[b, t], prediction[b, t]), abs=1e-12)


def test_foreground_ari_counts_only_object_pixels():
    truth, prediction = labels(0), labels(1)
    score = adjusted_rand_index(truth, prediction, foreground=True)
    inside = truth[0, 0] != 0
    assert score[0, 0].item() == pytest.approx(ari_by_pairs(truth[0, 0][inside], prediction[0, 0][inside]), abs=1e-12)


def test_foreground_ari_does_not_see_spill_but_mean_iou_does():
    truth = torch.zeros(1, 1, 4, 4, dtype=torch.int64)
    truth[..., 0, :2], truth[..., 3, 2:] = 1, 2
    spilled = torch.ones_like(truth)
    spilled[..., 2:, :] = 2
    assert adjusted_rand_index(truth, spilled, foreground=True).item() == 1
    assert mean_iou(truth, spilled).item() == 0.25


def test_numbers_mean_nothing_and_absent_ones_count_nothing():
    truth, prediction = labels(0, high=3), labels(1, high=3)
    renamed = torch.tensor([0, 900, 7])[truth]
    shuffled = torch.tensor([41, 3, 1000])[prediction]
    for score in (adjusted_rand_index, mean_iou):
        torch.testing.assert_close(score(renamed, shuffled), score(truth, prediction))


def test_identity_must_last_at_video_level():
    truth = torch.zeros(1, 2, 2, 2, dtype=torch.int64)
    truth[..., 0, :], truth[..., 1, :] = 1, 2
    swapped = truth.clone()
    swapped[:, 1] = 3 - truth[:, 1]
    assert adjusted_rand_index(truth, swapped).tolist() == [[1, 1]]
    assert adjusted_rand_index(truth, swapped, level="video").item() < 0.1
    assert mean_iou(truth, swapped).tolist() == [[1, 1]] and mean_iou(truth, swapped, level="video").item() < 0.5


@pytest.mark.parametrize("foreground", [False, True])
def test_nothing_to_tell_apart_is_one(foreground):
    empty = torch.zeros(1, 1, 3, 3, dtype=torch.int64)
    assert adjusted_rand_index(empty, empty, foreground=foreground).item() == 1
    one = torch.ones_like(empty)
    assert adjusted_rand_index(one, empty, foreground=foreground).item() == 1


def iou_by_trying(truth, prediction):
    objects, segments = sorted(set(truth.flatten().tolist()) - {0}), sorted(set(prediction.flatten().tolist()))
    segments += [None] * len(objects)
    best = 0.0
    for chosen in itertools.permutations(segments, len(objects)):
        total = 0.0
        for obj, seg in zip(objects, chosen, strict=True):
            a, b = truth == obj, (prediction == seg) if seg is not None else torch.zeros_like(truth, dtype=torch.bool)
            total += ((a & b).sum() / (a | b).sum()).item()
        best = max(best, total)
    return best / len(objects)


@pytest.mark.parametrize("seed, high", [(0, 4), (1, 2), (2, 1)])
def test_mean_iou_is_the_best_matching(seed, high):
    truth, prediction = labels(seed, high=4), labels(seed + 10, high=high)  # fewer segments than objects, too
    found = mean_iou(truth, prediction)
    for b, t in itertools.product(range(2), range(3)):
        assert found[b, t].item() == pytest.approx(iou_by_trying(truth[b, t], prediction[b, t]), abs=1e-6)


def test_objects_that_are_missing_count_zero_and_frames_without_objects_are_left_out():
    truth = torch.tensor([[[[0, 1, 2, 2]], [[0, 0, 0, 0]]]])
    score = mean_iou(truth, torch.tensor([[[[0, 1, 1, 1]], [[0, 1, 1, 1]]]]))
    assert score[0, 0].item() == pytest.approx((2 / 3 + 0) / 2) and math.isnan(score[0, 1])


def test_slotformers_rule_gives_uncertain_pixels_to_the_faintest_slot():
    masks = torch.zeros(1, 1, 3, 2, 2)
    masks[0, 0, 0] = torch.tensor([[0.9, 0.40], [0.1, 0.1]])
    masks[0, 0, 1] = torch.tensor([[0.05, 0.35], [0.8, 0.45]])
    masks[0, 0, 2] = torch.tensor([[0.05, 0.25], [0.1, 0.45]])  # peaks lowest: the background
    assert labels_from_masks(masks).flatten().tolist() == [0, 2, 1, 2]
    assert labels_from_masks(masks, background_below=None).flatten().tolist() == [0, 0, 1, 1]


def test_true_masks():
    masks = torch.zeros(1, 1, 2, 1, 3)
    masks[0, 0, 0, 0, 1] = masks[0, 0, 1, 0, 2] = 1
    assert labels_from_objects(masks).flatten().tolist() == [0, 1, 2]
    with pytest.raises(ShapeError, match="overlap"):
        labels_from_objects(torch.ones_like(masks))


def test_bad_labels_are_named():
    with pytest.raises(ShapeError, match="whole numbers"):
        adjusted_rand_index(labels(0), labels(0).float())
    with pytest.raises(ShapeError, match="prediction must be"):
        mean_iou(labels(0), labels(0)[:1])
    with pytest.raises(ShapeError, match="level"):
        mean_iou(labels(0), labels(0), level="clip")
