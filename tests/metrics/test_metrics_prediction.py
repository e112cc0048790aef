"""Scores of predicted clips, and the baselines."""

import pytest
import torch

from worldkit.errors import ShapeError
from worldkit.metrics import VGGPerceptual, copy_last_frame, lpips, mean_frame, psnr, score_predictions, ssim
from worldkit.metrics.perceptual import random_state_dicts


def clip(seed, b=2, t=3, size=16):
    return torch.rand(b, t, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_scores_are_per_clip_and_frame():
    prediction, target = clip(0), clip(1)
    network = VGGPerceptual(*random_state_dicts())
    scores = score_predictions(prediction, target, perceptual=network)
    assert set(scores) == {"psnr", "ssim", "lpips"}
    for b in range(2):
        x, y = prediction[b], target[b]
        torch.testing.assert_close(scores["psnr"][b], psnr(x, y))
        torch.testing.assert_close(scores["ssim"][b], ssim(x, y))
        torch.testing.assert_close(scores["lpips"][b], lpips(x, y, weights=network))


def test_uint8_and_float_agree():
    target = (clip(0) * 255).round().byte()
    prediction = (clip(1) * 255).round().byte()
    a, b = score_predictions(prediction, target), score_predictions(prediction.float() / 255, target.float() / 255)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_predictions_are_clamped_and_need_no_gradient():
    target = clip(0)
    prediction = (clip(1) * 1.4 - 0.2).requires_grad_()
    scores = score_predictions(prediction, target)
    expected = score_predictions(prediction.detach().clamp(0, 1), target)
    assert all(torch.equal(scores[name], expected[name]) and not scores[name].requires_grad for name in scores)


def test_half_precision_predictions():
    scores = score_predictions(clip(0).bfloat16(), clip(0))
    assert scores["psnr"].dtype == torch.float32 and scores["psnr"].min() > 40


@pytest.mark.parametrize("spoil", [lambda x: x * 255, lambda x: x * 2 - 1, lambda x: x * float("nan")])
def test_wrong_units_are_not_clamped_away(spoil):
    with pytest.raises(ShapeError, match="prediction must be in"):
        score_predictions(spoil(clip(0)), clip(1))


def test_shapes_are_checked():
    with pytest.raises(ShapeError, match="target must be"):
        score_predictions(clip(0), clip(1, t=4))
    with pytest.raises(ShapeError, match="prediction is empty"):
        score_predictions(clip(0, t=0), clip(1, t=0))


def test_baselines():
    context = clip(0, t=4)
    copied = copy_last_frame(context, 5)
    assert copied.shape == (2, 5, 3, 16, 16) and all(torch.equal(copied[:, t], context[:, -1]) for t in range(5))
    mean = mean_frame(context[0, 0], batch_size=2, horizon=5)
    assert mean.shape == copied.shape and all(torch.equal(mean[b, t], context[0, 0]) for b in (0, 1) for t in (0, 4))
    with pytest.raises(ShapeError, match="at least one frame"):
        copy_last_frame(context[:, :0], 5)
