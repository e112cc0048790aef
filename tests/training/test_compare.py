"""Protocols by name, and models side by side on the same clips."""

import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from worldkit import __version__, create_model
from worldkit.cli import main
from worldkit.data import ArraySource, ClipDataset, generate_balls, open_dataset
from worldkit.errors import ConfigError, DataError, UnknownComponentError
from worldkit.metrics import PROTOCOLS, Protocol, VideoFeatures, med10, to_unit_xy, track_tokens
from worldkit.training import compare, evaluate, find_protocol
from worldkit.training.figures import INFERRED_NOTE
from worldkit.training.rows import Rows
from worldkit.viz.animation import INFERRED, MEAN

SMALL = ["-o", "data.num_episodes=4", "-o", "data.episode_length=20", "--pictures", "1"]


@pytest.fixture(scope="module")
def known_balls():
    """Clips with true positions and segments."""
    made = generate_balls("test", num_episodes=3, num_frames=16, image_size=32)
    episodes = []
    for video, position, seen in zip(made.video, made.positions, made.in_camera, strict=True):
        segments = video.max(1) > 0
        state = {"position": (position[..., ::-1] / 32 - 1).astype(np.float32), "in_camera": seen,
                 "segmentation": segments.astype(np.int64)}
        episodes.append({"video": video, "state": state})

    def clips(num_frames, drop=()):
        states = [{k: v for k, v in e["state"].items() if k not in drop} for e in episodes]
        kept = [{"video": e["video"], "state": state} for e, state in zip(episodes, states, strict=True)]
        return ClipDataset(ArraySource(kept, name="balls"), num_frames=num_frames, mode="tile")

    return clips


def test_object_and_tracking_metrics(tiny_model, known_balls):
    model, clips = tiny_model().eval(), known_balls(12)
    metrics = ("psnr", "med10", "pck", "ari", "fg_ari", "fg_ari_video", "miou")
    report = evaluate(model, clips, context_frames=2, metrics=metrics, starts=True)["prior"]
    assert set(report.metrics) == {"psnr", "ssim", "tracking_error", "pck", "paired", "kept", *metrics[3:], "med10"}
    for row in ("model", "copy last frame"):
        expected = med10(report.scores[row]["tracking_error"])  # NaN for a model that has no particle above 0.5
        assert report.totals[row]["med10"] == pytest.approx(expected, nan_ok=True)
    still = report.scores["copy last frame"]["tracking_error"]
    assert (still[:, 0] < 3.01 / 64 * 1.74).all() and (still[:, 0] > 0).all()  # at most one frame of motion
    assert "true frames, encoded" in report.scores
    assert report.scores["model"]["miou"].shape == (3, 10)


def test_anchored_tokens_are_followed_by_what_they_paint(known_balls):
    """LPWM hands balls on: by its particles even the true frames, encoded, scored 1.57, standing still 1.75."""
    model = create_model("lpwm-balls-mini", pretrained=True).eval()
    report = evaluate(model, known_balls(12), context_frames=2, metrics=("med10", "pck"), starts=True)["prior"]
    seen, still = (report.totals[row]["med10"] for row in ("true frames, encoded", "copy last frame"))
    assert seen < 0.06 < 0.9 < still
    row = report.scores["true frames, encoded"]
    assert row["paired"].min() == 1 and row["kept"].mean() > 0.98 and row["pck"].mean() > 0.98
    assert report.protocol["tracking"] == "what tokens paint" and "followed as what tokens paint" in report.footer()


def test_anchored_tokens_without_masks_cannot_be_followed(tiny_model, known_balls, monkeypatch):
    model = tiny_model().eval()
    drawn = model.decode
    monkeypatch.setattr(model, "decode", lambda z, before=None, masks=False: drawn(z))
    with pytest.raises(ConfigError, match="MED10 and PCK of what tokens paint need masks, and decoder 'particle'"):
        evaluate(model, known_balls(12), context_frames=2, metrics=("med10",))


def test_tokens_that_stay_with_their_object_are_scored_as_g_swm_does(tiny_model, tiny_overrides, known_balls):
    model, clips = tiny_model(encoder=tiny_overrides["encoder"] | {"select": "keep"}).eval(), known_balls(12)
    report = evaluate(model, clips, context_frames=2, metrics=("med10",), starts=True)["prior"]
    assert report.protocol["tracking"] == "tokens (G-SWM)" and not model.encoder.anchors()
    items = [clips[i] for i in range(3)]
    video, position = (torch.stack(x) for x in zip(*((i["video"] / 255, i["state"]["position"]) for i in items),
                                                   strict=True))
    z = model.encode(video)[:, 2:]
    truth = to_unit_xy(position)
    expected, paired, _ = track_tokens(truth[:, 2:], truth[:, 1], to_unit_xy(z.positions.detach()),
                                       presence=z.get("transparency")[..., 0].detach())
    torch.testing.assert_close(report.scores["true frames, encoded"]["tracking_error"], expected.mean(-1))
    assert (report.scores["true frames, encoded"]["paired"][:, 0] == paired.double().mean(-1)).all()


def test_what_tokens_paint_can_be_followed_as_well(tiny_model, tiny_overrides, known_balls):
    """So that models whose tokens follow their object stand beside those that hand it on, in one measure."""
    model, clips = tiny_model(encoder=tiny_overrides["encoder"] | {"select": "keep"}).eval(), known_balls(12)
    report = evaluate(model, clips, context_frames=2, metrics=("med10", "med10_painted"), starts=True)["prior"]
    totals = report.totals
    assert report.protocol["tracking"] == "tokens (G-SWM)"
    assert totals["copy last frame"]["med10"] == totals["copy last frame"]["med10_painted"] > 0.9
    anchored = evaluate(tiny_model().eval(), clips, context_frames=2, metrics=("med10", "med10_painted"))["prior"]
    assert anchored.totals["model"]["med10"] == anchored.totals["model"]["med10_painted"]


def test_slots_are_followed_by_what_they_paint(known_balls):
    """They have no positions, and share out a black background as they like."""
    model = create_model("slotformer-balls-mini", pretrained=True).eval()
    report = evaluate(model, known_balls(16), context_frames=6, metrics=("med10", "pck"), starts=True)["prior"]
    seen, still = (report.totals[row]["med10"] for row in ("true frames, encoded", "copy last frame"))
    assert seen < 0.2 < 0.9 < still and report.protocol["tracking"] == "what tokens paint"


@pytest.mark.parametrize("metric, drop", [("med10", "position"), ("miou", "segmentation")])
def test_data_without_the_truth_are_refused(tiny_model, known_balls, metric, drop):
    with pytest.raises(DataError, match=drop):
        evaluate(tiny_model(), known_balls(12, drop=(drop,)), context_frames=2, metrics=(metric,))


def test_a_model_without_dynamics_is_scored_by_its_reconstructions(tmp_path):
    savi = create_model("savi-balls-mini")
    protocol, _ = find_protocol("savi-balls-mini").changed(context_frames=1, horizon=3, max_clips=2,
                                                           metrics=("psnr", "fg_ari", "miou"))
    assert protocol.driven_by == ("encoded",)
    options = {"num_episodes": 2, "episode_length": 6, "segments": True}
    result = compare({"savi": savi}, "balls-32", protocol, data_options=options, pictures=1)
    report = result.reports["encoded"]["savi"]
    assert set(report.metrics) == {"psnr", "ssim", "fg_ari", "miou"} and not result.notes
    clips = open_dataset("balls-32", split="test", num_frames=4, mode="tile", **options)
    video = torch.stack([clips[i]["video"] for i in range(2)]) / 255
    error = (savi.decode(savi.encode(video)).video.clamp(0, 1) - video)[:, 1:].square().mean((2, 3, 4))
    assert torch.allclose(report.scores["model"]["psnr"].float(), -10 * (error + 1e-8).log10(), atol=1e-3)
    pages = [path.read_text("utf-8") for path in result.write(tmp_path)]
    assert all("reconstruct" in page for page in pages[:2])
    with pytest.raises(ConfigError, match="--driven-by encoded"):
        compare({"savi": savi}, "balls-32", protocol.changed(driven_by=("prior",))[0], data_options=options)


def test_reconstructions_stand_beside_predictions(tiny_model, known_balls):
    model = tiny_model().eval()
    reports = evaluate(model, known_balls(5), context_frames=2, driven_by=("prior", "encoded"), max_clips=2)
    assert list(reports) == ["prior", "encoded"] and "not predictions" in reports["encoded"].footer()
    assert "not predictions" not in reports["prior"].footer()


def test_what_a_metric_needs_is_said_first(tiny_model, known_balls):
    with pytest.raises(ConfigError, match="predict at least 10"):
        evaluate(tiny_model(), known_balls(5), context_frames=2, metrics=("med10",))
    with pytest.raises(ConfigError, match="networks="):
        evaluate(tiny_model(), known_balls(5), context_frames=2, metrics=("fvd",))
    patches = tiny_model(encoder={"name": "patch"}, decoder={"name": "patch"})
    with pytest.raises(ConfigError, match="need masks, and decoder 'patch' draws none"):
        evaluate(patches, known_balls(12), context_frames=2, metrics=("med10",))


def test_the_best_sample_is_its_own_report(tiny_model, known_balls):
    model, clips = tiny_model().eval(), known_balls(5)
    reports = evaluate(model, clips, context_frames=2, driven_by=("prior", "sampled"), samples=3)
    assert list(reports) == ["prior", "sampled", "best of n"]
    mean, best = (reports[name].per_clip("model", "psnr") for name in ("sampled", "best of n"))
    assert (best > mean - 1e-5).all()
    assert reports["best of n"].protocol["samples"] == 3
    once = evaluate(model, clips, context_frames=2, driven_by=("sampled",))
    assert list(once) == ["sampled"] and "samples" not in once["sampled"].protocol


def test_the_best_sample_is_chosen_by_psnr_per_clip():
    rows = Rows()
    psnr = torch.tensor([[[10.0, 10.0], [30.0, 30.0]], [[20.0, 22.0], [28.0, 30.0]]])  # [sample, clip, frame]
    rows.add_clips([(0, 0), (1, 0)], 2)
    rows.add_samples([{"psnr": values, "ssim": values / 100} for values in psnr])
    scorer = SimpleNamespace(metrics=())
    protocol = {"context_frames": 1, "horizon": 2, "split": "?", "resolution": "?", "decoding": "stochastic", "seed": 0,
                "driven_by": "sampled"}
    assert rows.report(protocol, scorer).scores["model"]["psnr"].tolist() == [[15, 16], [29, 30]]
    best = rows.best_report(protocol | {"driven_by": "sampled, best of n"}, scorer)
    assert best.scores["model"]["psnr"].tolist() == [[20, 22], [30, 30]]
    assert best.scores["model"]["ssim"].flatten().tolist() == pytest.approx([0.2, 0.22, 0.3, 0.3])


class Brightness(torch.nn.Module):
    def forward(self, x, rescale=True, resize=True, return_features=True):
        return x.float().mean((3, 4)).flatten(1)[:, :2]


def test_fvd_takes_whole_clips_and_all_samples(tiny_model, known_balls):
    networks = {"fvd": VideoFeatures(Brightness(), variant="lpwm")}
    report = evaluate(tiny_model().eval(), known_balls(12), context_frames=2, driven_by=("sampled",), samples=2,
                      metrics=("fvd",), networks=networks)["sampled"]
    assert report.totals["model"]["fvd"] > 0 and "fvd" in report.table()[0][-1].lower()


def test_protocols_are_complete_and_have_sources():
    for name, protocol in PROTOCOLS.items():
        assert protocol.name == name and protocol.source and protocol.summary
    assert find_protocol("lpwm-sketchy").horizon == 44  # the paper's, not the preset's
    preset = find_protocol("lpwm_balls_mini")
    assert (preset.context_frames, preset.horizon, preset.resolution) == (5, 10, "32x32")
    with pytest.raises(UnknownComponentError, match="Did you mean 'balls-med10'"):
        find_protocol("balls-med1")
    with pytest.raises(ConfigError, match="'dit-mini' draws single pictures .*: what it draws is judged by .*sample"):
        find_protocol("dit-mini")
    for wrong in ({"metrics": ("psrn",)}, {"driven_by": ()}, {"windows": "all"}, {"horizon": 0}):
        with pytest.raises(ConfigError):
            Protocol("x", **wrong)


def test_differences_are_paired(tiny_model, tmp_path):
    protocol = Protocol("short", context_frames=2, horizon=3, driven_by=("prior", "inferred"), max_clips=6)
    models = {"a": tiny_model(), "b": tiny_model(seed=1), "plain": tiny_model(latent_action=None)}
    options = {"num_episodes": 4, "episode_length": 20}
    result = compare(models, "balls-32", protocol, data_options=options, pictures=1)
    assert list(result.reports) == ["prior", "inferred"] and list(result.reports["inferred"]) == ["a", "b"]
    assert result.notes == ["plain has no latent actions to infer: no row for it there."]
    header, rows = result.table("prior")
    assert header == ["model", "PSNR (dB) ↑", "SSIM ↑"]
    assert [row[0] for row in rows] == ["a", "b", "plain", "copy last frame", "mean training frame", "b − a",
                                        "plain − a"]
    first, second = (result.reports["prior"][name].per_clip("model", "psnr") for name in "ab")
    stored = result.to_dict("prior")
    assert stored["paired differences"]["b - a"]["psnr"]["mean"] == pytest.approx((second - first).mean().item())
    assert stored["evaluation"]["protocol"]["horizon"] == 3 and len(stored["models"]["a"]["clips"]) == 6
    names = [path.name for path in result.write(tmp_path)]
    assert names == ["eval-short-test.md", "eval-short-test.html", "eval-short-test-prior.json",
                     "eval-short-test-inferred.json"]
    by_hand = replace(result, protocol=replace(protocol, name="by hand"))
    assert (tmp_path / "eval-test.md") in by_hand.write(tmp_path)
    page = (tmp_path / "eval-short-test.html").read_text()
    assert page.count('<div class="wide"><svg') == 4
    assert page.count("data:image/gif") == page.count("data:image/png") == 1  # a film comes with a still strip
    assert "not predictions" in (tmp_path / "eval-short-test.md").read_text()


def test_models_of_different_sizes_are_not_compared(tiny_model):
    models = {"a": tiny_model(), "b": tiny_model(obs={"height": 16, "width": 16})}
    with pytest.raises(ConfigError, match="a 32x32, b 16x16"):
        compare(models, "balls-32", Protocol("short"))


def test_command_line(tiny_model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, seed in (("one", 0), ("two", 1)):
        tiny_model(seed=seed).save_pretrained(tmp_path / name)
    command = ["eval", "./one", "./two", "--data", "balls-32", "--protocol", "balls-med10", "--context", "3", *SMALL]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "two − one" in out and "MED10" in out and "two: true frames, encoded" in out
    stored = json.loads((tmp_path / "evaluation/eval-balls-med10-test-prior.json").read_text())
    assert stored["evaluation"]["protocol"]["name"] == "balls-med10"
    assert stored["evaluation"]["changed"] == {"context_frames": 3}
    assert stored["models"]["one"]["protocol"]["data options"] == {"num_episodes": 4, "episode_length": 20}
    assert f"worldkit {__version__}" in (tmp_path / "evaluation/eval-balls-med10-test.md").read_text()
    assert stored["models"]["one"]["results"]["copy last frame"]["med10"]["total"] > 0


@pytest.mark.parametrize("options, message", [
    (["--protocol", "balls-med1"], "Did you mean 'balls-med10'?"),
    (["--metrics", "psnr,fvd"], "i3d_torchscript.pt"),
    (["--metrics", "fid"], "--metrics psnr,ssim"),
    (["--metrics", "vmaf"], "vmaf unknown"),
    (["-o", "dynamics.dim=3"], "takes data.OPTION"),
    (["./../x/one"], "given twice"),
    (["--samples", "4"], "add --driven-by sampled"),
    (["--device", "cuda:999"], "device 'cuda:999' cannot be used here"),
    (["--device", "gpu"], "'cpu' always works"),
])
def test_errors_say_what_to_type(options, message, tiny_model, tmp_path, monkeypatch, capsys):
    (tmp_path / "x").mkdir()
    monkeypatch.chdir(tmp_path / "x")
    tiny_model().save_pretrained("one")
    assert main(["eval", "--data", "balls-32", *options, "./one"]) == 2
    assert message in capsys.readouterr().err


def test_pictures_show_the_scored_mean_or_say_that_they_peek(tiny_model, monkeypatch):
    module, drawn = sys.modules["worldkit.training.comparison"], []
    monkeypatch.setattr(module, "animate_rollout", lambda truth, rollouts, **options: drawn.append((rollouts, options)))
    for drivers in (("inferred", "prior"), ("inferred",)):
        protocol = Protocol("short", context_frames=2, horizon=3, driven_by=drivers, max_clips=1)
        compare({"a": tiny_model()}, "balls-32", protocol, pictures=1,
                data_options={"num_episodes": 4, "episode_length": 20})
    (mean, plain), (peeking, explained) = drawn
    assert list(mean) == [f"a: {MEAN}"] and plain["note"] == ""
    assert list(peeking) == [f"a: {INFERRED}"] and explained["note"] == INFERRED_NOTE
