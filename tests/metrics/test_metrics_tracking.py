"""MED10 as G-SWM counts it: paired once, then frozen; and PCK."""

import math

import pytest
import torch

from worldkit.errors import DataError, ShapeError
from worldkit.metrics import med10, pck, to_unit_xy, track, track_tokens, tracked_pck, tracking_error


def still(points, frames):
    return torch.tensor(points, dtype=torch.float64)[None, None].expand(1, frames, -1, -1).clone()


def test_units():
    assert to_unit_xy(torch.tensor([1.0, -0.5])).tolist() == [0.25, 1.0]  # (y, x) -> (x, y)


def test_a_constant_offset_sums_over_ten_frames():
    truth = torch.rand(3, 12, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.05
    truth = truth + torch.tensor([[0.1, 0.1], [0.5, 0.5], [0.9, 0.1]])
    offset = truth.flip(2) + torch.tensor([0.03, 0.04])  # another order, 0.05 away
    errors = tracking_error(truth, offset)
    torch.testing.assert_close(errors, torch.full((3, 12), 0.05, dtype=torch.float64))
    assert med10(errors) == pytest.approx(0.5)


def test_the_pairing_is_made_once_and_frozen():
    truth = still([[0.1, 0.1], [0.9, 0.9]], 3)
    prediction = truth.clone()
    prediction[:, 1:] = prediction[:, 1:].flip(2)  # the predictions change places after the first frame
    far = math.dist((0.1, 0.1), (0.9, 0.9))
    torch.testing.assert_close(tracking_error(truth, prediction)[0], torch.tensor([0, far, far]).double())


def test_the_pairing_minimises_the_sum_of_squares():
    truth = still([[0.0, 0.0], [0.3, 0.0]], 1)
    prediction = still([[0.3, 0.1], [0.6, 0.0]], 1)  # greedy would give 0.3 -> first, and 0.0 -> 0.6 away
    distance, paired = track(truth, prediction)
    torch.testing.assert_close(distance[0, 0], torch.tensor([math.hypot(0.3, 0.1), 0.3]).double())
    assert paired.all()


def test_only_present_predictions_are_paired():
    truth = still([[0.5, 0.5]], 2)
    prediction = still([[0.5, 0.5], [0.7, 0.5]], 2)
    presence = torch.tensor([[[0.5, 0.51]] * 2])  # 0.5 is not above the threshold
    errors = tracking_error(truth, prediction, presence=presence)
    torch.testing.assert_close(errors, torch.full((1, 2), 0.2, dtype=torch.float64))


def test_a_prediction_that_goes_leaves_its_frame_without_a_number():
    truth = still([[0.5, 0.5], [0.1, 0.1]], 3)
    presence = torch.ones(1, 3, 2)
    presence[0, 1, 0] = 0.2
    errors = tracking_error(truth, truth, presence=presence)[0]
    assert errors[0] == 0 and errors[1].isnan() and errors[2] == 0
    other = tracking_error(truth, truth + 0.1, presence=torch.ones(1, 3, 2))
    clips = torch.cat([errors[None], other]).repeat(1, 4)  # 12 frames
    assert med10(clips) == pytest.approx(sum([0.05, 0.1, 0.05][t % 3] * math.sqrt(2) for t in range(10)))


def test_pairs_farther_than_one_are_none():
    truth, prediction = still([[0.0, 0.0], [0.9, 0.9]], 1), still([[1.0, 1.0]], 1)
    distance, paired = track(truth, prediction)
    assert paired.tolist() == [[False, True]] and distance[0, 0, 0].isnan()
    far = tracking_error(still([[0.0, 0.0]], 1), prediction)
    assert far.isnan().all()


def test_hidden_objects_do_not_count():
    truth = still([[0.2, 0.2], [0.8, 0.8]], 2)
    visible = torch.tensor([[[True, False], [True, True]]])
    truth[0, 0, 1] = 0  # where the data set has no position
    distance, paired = track(truth, truth.clone(), visible=visible)
    assert paired.tolist() == [[True, False]]
    moved = still([[0.3, 0.2], [0.7, 0.7]], 2)
    torch.testing.assert_close(tracking_error(truth, moved, visible=visible), torch.full((1, 2), 0.1).double())
    torch.testing.assert_close(tracked_pck(distance, visible=visible), torch.tensor([[1.0, 0.5]]).double())


def test_pck_is_a_share_within_a_distance():
    truth = torch.zeros(1, 2, 4, 2)
    prediction = torch.tensor([0.0, 0.09, 0.11, math.nan])[None, None, :, None] * torch.tensor([1.0, 0.0])
    assert pck(truth, prediction.expand(1, 2, 4, 2)).tolist() == [[0.5, 0.5]]
    assert pck(truth, prediction.expand(1, 2, 4, 2), alpha=0.2).tolist() == [[0.75, 0.75]]
    assert pck(truth, truth, visible=torch.zeros(1, 2, 4, dtype=torch.bool)).isnan().all()
    with pytest.raises(ShapeError, match="alpha"):
        pck(truth, truth, alpha=0)


def test_faults_are_named():
    truth = still([[0.5, 0.5]], 9)
    with pytest.raises(ShapeError, match="needs 10 predicted frames, got 9"):
        med10(tracking_error(truth, truth))
    with pytest.raises(DataError, match="predicted position is NaN"):
        track(truth, truth * math.nan)
    with pytest.raises(ShapeError, match="prediction"):
        track(truth, truth[:, :3])


# -- tokens that follow their object


def balls(frames=10):
    """Three balls that move straight on, ``[1, T, 3, 2]``, and where they were a frame before, ``[1, 3, 2]``."""
    start = torch.tensor([[0.2, 0.2], [0.8, 0.3], [0.5, 0.7]], dtype=torch.float64)
    step = torch.tensor([[0.03, 0.01], [-0.02, 0.02], [0.0, -0.03]], dtype=torch.float64)
    path = start + torch.arange(frames + 1)[:, None, None] * step
    return path[None, 1:], path[None, 0]


def test_perfect_tracks_score_nothing_whatever_their_order_and_company():
    truth, still = balls()
    others = torch.rand(1, 10, 3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.cat([others, truth[:, :, [2, 0, 1]], truth + 0.01], 2)  # several on one ball: the nearest is taken
    distance, paired, kept = track_tokens(truth, still, tokens)
    assert distance.max() < 1e-12 and paired.all() and kept.all() and med10(distance.nanmean(-1)) < 1e-12


def test_a_copied_last_frame_scores_as_standing_still():
    truth, still = balls()
    copied = still[:, None].expand(-1, 10, -1, -1)
    distance, paired, kept = track_tokens(truth, still, copied)
    nothing = (copied - truth).norm(dim=-1)
    torch.testing.assert_close(distance, nothing)
    assert paired.all() and kept.all() and med10(distance.nanmean(-1)) == pytest.approx(nothing.mean(-1).sum().item())
    empty = track_tokens(truth, still, copied, presence=torch.zeros(1, 10, 3))
    torch.testing.assert_close(empty[0], nothing)  # nothing to be paired with is no better
    assert not empty[1].any() and not empty[2].any()


def test_the_assignment_is_frozen_behind_the_given_frames():
    truth, still = balls()
    tokens = truth.clone()
    tokens[:, 4:, [0, 1]] = truth[:, 4:, [1, 0]]  # two tokens change balls
    distance = track_tokens(truth, still, tokens)[0][0]
    apart = (truth[0, 4:, 0] - truth[0, 4:, 1]).norm(dim=-1)
    assert distance[:4].max() == 0 and distance[:, 2].max() == 0
    torch.testing.assert_close(distance[4:, 0], apart)


def test_a_token_gains_nothing_by_fading():
    truth, still = balls()
    off, presence = truth + torch.linspace(0, 0.2, 10)[:, None, None].double(), torch.ones(1, 10, 3)
    seen = track_tokens(truth, still, off, presence=presence)
    presence[0, 5:, 1] = 0.1
    faded = track_tokens(truth, still, off, presence=presence)
    torch.testing.assert_close(faded[0], seen[0])
    assert faded[2][0, :, 1].tolist() == [True] * 5 + [False] * 5 and faded[2][..., [0, 2]].all()
    assert track(truth, off, presence=presence)[0][0, 5:, 1].isnan().all()  # G-SWM's own measure has gaps there
    visible = torch.ones(1, 10, 3, dtype=torch.bool)
    visible[0, 3, 2] = False
    assert track_tokens(truth, still, off, visible=visible)[0].isnan()[0].nonzero().tolist() == [[3, 2]]
    with pytest.raises(ShapeError, match="still"):
        track_tokens(truth, still[:, :2], off)
