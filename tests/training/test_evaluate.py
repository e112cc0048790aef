import pytest
import torch

from worldkit.data import collate
from worldkit.errors import DataError
from worldkit.training import animation, evaluate, mean_image, panel, predict


def test_reports_stand_beside_both_baselines(tiny_model, balls):
    clips, model = balls(7, "test", "tile"), tiny_model().eval()
    reports = evaluate(model, clips, context_frames=4, driven_by=("prior", "sampled", "inferred"),
                       training_mean=mean_image(balls(1)), split="test", data="balls")
    assert list(reports) == ["prior", "sampled", "inferred"]
    for name, driven_by in (("prior", "deterministic prior"), ("sampled", "sampled"),
                            ("inferred", "inferred latent actions")):
        report = reports[name]
        assert list(report.scores) == ["model", "copy last frame", "mean training frame"]
        assert report.scores["model"]["psnr"].shape == (len(clips), 3)
        assert report.protocol["driven_by"] == driven_by and report.protocol["data"] == "balls"
    baselines = [r.summary("copy last frame", "psnr").mean for r in reports.values()]
    assert max(baselines) == min(baselines)


def test_predictions_do_not_depend_on_the_batch_size(tiny_model, balls):
    clips, model = balls(7, "test", "tile"), tiny_model().eval()
    one, many = (evaluate(model, clips, context_frames=4, batch_size=b, split="test")["prior"] for b in (1, 8))
    torch.testing.assert_close(one.scores["model"]["psnr"], many.scores["model"]["psnr"], atol=1e-4, rtol=1e-4)


def test_mean_image_is_the_mean(balls):
    clips = balls(1)
    every = torch.stack([clips[i]["video"][0].double() / 255 for i in range(len(clips))]).mean(0).float()
    torch.testing.assert_close(mean_image(clips, max_clips=10**6), every)


def test_clips_without_a_future_are_refused(tiny_model, balls):
    batch = collate([balls(3)[0]])
    with pytest.raises(DataError, match="leave nothing to predict"):
        predict(tiny_model(), batch, context_frames=3, driven_by="prior", generator=None)


@pytest.mark.parametrize("views", [1, 2])
def test_pictures(tiny_model, balls, views):
    model = tiny_model(obs={"views": views})
    video = balls(6)[0]["video"]
    video = video if views == 1 else torch.stack([video, video.flip(-1)])
    batch = collate([{"video": video}])
    assert panel(model, video, frames=4, cell=48).dtype == torch.uint8
    frames = animation(model, batch, context_frames=3, generator=torch.Generator().manual_seed(0), cell=64)
    assert frames.shape[0] == 6 and frames.dtype == torch.uint8


@pytest.mark.parametrize("latent_action", ["gaussian", None])
def test_an_animation_shows_what_is_scored_and_explains_what_peeks(tiny_model, balls, monkeypatch, latent_action):
    from worldkit.training import figures
    from worldkit.viz.animation import INFERRED, MEAN, SAMPLED

    model, batch, drawn = tiny_model(latent_action=latent_action), collate([balls(6)[0]]), {}
    monkeypatch.setattr(figures, "animate_rollout",
                        lambda truth, rollouts, **options: drawn.update(rollouts, **options))
    animation(model, batch, context_frames=3, generator=torch.Generator().manual_seed(0))
    peeks = latent_action is not None
    assert [name for name in drawn if name in (MEAN, SAMPLED, INFERRED)] == [MEAN, SAMPLED, INFERRED][:2 + peeks]
    scored = predict(model, batch, context_frames=3, driven_by="prior", generator=None).video[0].clamp(0, 1)
    torch.testing.assert_close(drawn[MEAN][3:], scored)
    assert drawn["note"] == (figures.INFERRED_NOTE if peeks else "")


def test_a_picture_far_outside_the_range_is_drawn_clamped(tiny_model, balls):
    from worldkit.decoders.base import Decoded

    model = tiny_model()
    decode = model.decode
    model.decode = lambda z, **options: Decoded(decode(z, **options).video * 9 - 4)
    assert panel(model, balls(4)[0]["video"]).dtype == torch.uint8


def test_predictions_outside_the_range_are_clamped_before_they_are_scored(tiny_model, balls):
    from dataclasses import replace

    clips, model = balls(7, "test", "tile"), tiny_model().eval()
    rollout = model.rollout

    def scored(change):
        model.rollout = lambda *a, **k: (lambda r: replace(r, video=change(r.video)))(rollout(*a, **k))
        return evaluate(model, clips, context_frames=3)["prior"].summary("model", "psnr").mean

    assert scored(lambda video: video * 9 - 4) == pytest.approx(scored(lambda video: (video * 9 - 4).clamp(0, 1)))
