"""A model at a glance: the truth, the prediction, and what was found, frame by frame."""

import pytest
import torch

import worldkit as wk
from worldkit.training.evaluation import predict
from worldkit.training.glance import glance
from worldkit.viz.animation import CONTEXT_COLOR, PREDICTED_COLOR, TRUTH_COLOR


def inside(picture):
    return picture[:, 5:-5, 5:-5]


@pytest.mark.parametrize("name", ["lpwm-balls-mini", "slots-balls-mini", "dvae-balls-mini"])
def test_rows_show_the_truth_and_the_scored_prediction(name):
    torch.manual_seed(0)
    model, video = wk.create_model(name).eval(), torch.rand(1, 6, 3, 32, 32)
    seen = glance(model, wk.Batch(video), context_frames=4, cell=32)
    truth, predicted, *found = seen.rows.values()
    assert torch.equal(inside(truth[3]), (video[0, 3] * 255).round().to(torch.uint8))
    with torch.no_grad():
        rollout = predict(model, wk.Batch(video), context_frames=4, driven_by="prior", generator=None)
    expected = torch.cat([rollout.context_video, rollout.video], 1)[0].clamp(0, 1)
    assert torch.equal(inside(predicted[5]), (expected[5] * 255).round().to(torch.uint8))
    corners = [[tuple(picture[:, 0, 0].tolist()) for picture in row] for row in (truth, predicted)]
    assert corners == [[TRUTH_COLOR] * 6, [CONTEXT_COLOR] * 4 + [PREDICTED_COLOR] * 2]
    assert bool(found) == (name != "dvae-balls-mini")  # patches have neither masks nor boxes
    assert not any(torch.equal(picture, predicted) for picture in found)


def test_a_strip_shows_some_given_frames_and_all_predicted_ones():
    model, video = wk.create_model("lpwm-balls-mini").eval(), torch.rand(1, 8, 3, 32, 32)
    seen = glance(model, wk.Batch(video), context_frames=5, cell=32)
    both, one = seen.strip(), seen.strip(given=1)
    assert both.shape[-1] == 108 + 6 * 46 and one.shape[-1] == 108 + 4 * 46  # frames 0, 2, 4 or 4, then 5, 6, 7
    assert torch.equal(both[:, 22:64, 108 + 2 * 46 : 108 + 2 * 46 + 42], seen.rows["what happened"][4])


def test_a_model_without_dynamics_draws_again_what_it_sees():
    model = wk.create_model("savi-balls-mini").eval()
    seen = glance(model, wk.Batch(torch.rand(1, 4, 3, 32, 32)), context_frames=2, cell=32)
    assert list(seen.rows) == ["what happened", "drawn again", "what it found"] and not seen.predicts
    assert seen.strip().shape[-1] == 108 + 4 * 46
