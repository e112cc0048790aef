"""semantic-wm's evaluation on a world that a model knows exactly, and on models that do not."""

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit import registry
from worldkit.assembly import build
from worldkit.cli import main
from worldkit.config import ComponentConfig
from worldkit.dynamics import Dynamics
from worldkit.errors import ConfigError, DataError, NoDecoderError
from worldkit.latents import LatentDist
from worldkit.metrics import PROTOCOLS, MatchTracker
from worldkit.storage.hub import save_pretrained
from worldkit.testing.examples import small_config
from worldkit.training import compare, find_protocol, latent_scores
from worldkit.training.latent_scores import LATENT_METRICS, PointScores, action_of

SUITE = [name for name in PROTOCOLS if name.startswith("semantic-wm-")]


class Lights(Dynamics):
    """Two numbers say how much brighter the left and the right half become; ``blind`` ones are not heeded."""

    class Config(ComponentConfig):
        name: str = "test-lights"
        cond_dim: int | None = None
        blind: bool = False

    requires = frozenset({"grid", "continuous"})
    takes = frozenset({"frame"})

    def __init__(self, config, *, spec, anchors, window, memory_length=0):
        super().__init__(config, spec=spec, anchors=anchors, window=window, memory_length=memory_length)
        self.cond_dim = 2

    def prior(self, z, cond):
        rows, columns = self.spec.grid
        side = (torch.arange(rows * columns) % columns >= columns // 2).long()
        values = z.values["pixels", "pixels"]
        told = 0 if cond.frame is None or self.config.blind else cond.frame[..., side][..., None]
        return LatentDist(self.spec, {("pixels", "pixels"): values + told})


@pytest.fixture
def lights(monkeypatch):
    for attribute in ("_entries", "_aliases"):
        monkeypatch.setattr(registry.dynamics, attribute, dict(getattr(registry.dynamics, attribute)))
    registry.dynamics.register("test-lights", Lights, override=True)
    halves = latent_scores.tokens_of  # a token for either half, so that little training will do
    monkeypatch.setattr(latent_scores, "tokens_of", lambda model, z: torch.stack(
        [x.mean((2, 3, 4)) for x in halves(model, z).unflatten(3, (12, 12)).chunk(2, 4)], 2)[:, :, None])
    for name, value in (("STEPS", 300), ("RATE", 5e-3)):
        monkeypatch.setattr(latent_scores, name, value)
    monkeypatch.setattr(latent_scores, "INVERSE", {"dim": 16, "num_layers": 1, "num_heads": 2})

    def make(**options):
        return build(small_config(**{
            "obs": {"height": 12, "width": 12}, "encoder": "identity", "decoder": "identity", "latent_action": None,
            "dynamics": {"name": "test-lights", **options.pop("dynamics", {})}, "objective": "jepa",
            "conditioners": {"action": {"name": "raw-action", "dim": 2}}, **options})).eval()

    return make


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Thirty episodes of eight frames of that world, with what the lights are."""
    folder, draw = tmp_path_factory.mktemp("lights"), np.random.default_rng(0)
    for i in range(30):
        action = draw.uniform(-0.2, 0.2, (8, 2)).astype(np.float32)
        light = np.concatenate([np.zeros((1, 2)), action[:-1].cumsum(0)])
        picture = np.repeat(light, 6, 1)[:, None, :, None].repeat(12, 1).repeat(3, 3)
        video = np.round(255 * (picture / 2 + 0.5)).astype(np.uint8)
        np.savez(folder / f"e{i}.npz", video=video, action=action, state=light.astype(np.float32))
    return str(folder)


def scores(result, driver="prior", row="model"):
    return next(iter(result.reports[driver].values())).scores[row]


def test_they_are_protocols():
    assert {m for name in SUITE for m in PROTOCOLS[name].metrics} >= set(LATENT_METRICS)
    assert find_protocol("semantic-wm-controllability-4").horizon == 4


@pytest.mark.parametrize("steps", ["", "-4"])
def test_actions_are_found_by_a_model_that_heeds_them_and_not_by_one_that_does_not(steps, lights, data):
    protocol, _ = find_protocol(f"semantic-wm-controllability{steps}").changed(max_clips=6)
    models = {"heeds": lights(), "blind": lights(dynamics={"blind": True})}
    result = compare(models, data, protocol, pictures=0)
    errors = {name: report.scores["model"]["action_error"].mean() for name, report in result.reports["prior"].items()}
    chance = scores(result, row="random action")["action_error"].mean()
    assert errors["heeds"] < (0.2 if steps == "" else 0.6) * chance and errors["blind"] > 0.4 * chance
    assert scores(result)["latent_error"].mean() < 1e-4
    assert "random action" in result.to_markdown() and "error of found actions" in result.to_markdown()


def test_actions_and_states_are_read_off_latents(lights, data):
    for name, metric in (("semantic-wm-inverse", "inverse_error"), ("semantic-wm-probes", "probe_error")):
        protocol, _ = find_protocol(name).changed(max_clips=6, horizon=1 if metric == "inverse_error" else 5)
        result = compare({"heeds": lights()}, data, protocol, pictures=0)
        found = {driver: scores(result, driver)[metric].mean().item() for driver in ("prior", "encoded")}
        assert max(found.values()) < (0.3 if metric == "inverse_error" else 0.05), found
        blind = compare({"blind": lights(dynamics={"blind": True})}, data, protocol, pictures=0)
        assert scores(blind)[metric].mean() > 3 * found["prior"]
        if metric == "probe_error":  # what the last given frame says of those after it
            assert scores(result, row="copy last frame")[metric].mean() > 3 * found["prior"]
    assert "Pearson" in str(next(iter(compare(
        {"heeds": lights()}, data, find_protocol("semantic-wm-inverse").changed(max_clips=4)[0], pictures=0,
    ).reports["prior"].values())).protocol)


def test_points_are_followed(lights, data):
    def moved(by):
        def tracker(video, queries):
            shift = by * torch.tensor([1.0, 0.0]) * bool(tracker.calls)
            tracker.calls += 1
            at = queries[:, None].expand(-1, video.shape[1], -1, -1) + shift
            return at, torch.ones(at.shape[:3], dtype=torch.bool)
        tracker.calls = 0
        return tracker

    batch = wk.Batch(torch.rand(1, 3, 3, 256, 256))
    rollout = type("R", (), {"video": batch.video[:, 1:]})()
    scorer = PointScores(lights(), moved(7.0))
    found = scorer.scores(batch, rollout, 1, encoded=False)
    assert found["pck5"].max() == 0 and found["pck10"].min() == found["points_seen"].min() == 1
    still = PointScores(lights(), MatchTracker(side=3, reach=1), rows=2)
    batch, rollout = wk.Batch(torch.rand(1, 2, 3, 12, 12)), type("R", (), {"video": torch.rand(1, 1, 3, 12, 12)})()
    whole = still.scores(batch, rollout, 1, encoded=False)
    assert set(whole) == {"pck5", "pck10", "pck20", "pck40", "points_seen"}
    protocol, _ = find_protocol("semantic-wm-pck").changed(max_clips=2, horizon=3, metrics=("point_pck",))
    result = compare({"heeds": lights()}, data, protocol, pictures=1)
    assert "pck40" in scores(result) and "PCK@40 of points" in result.to_markdown()
    assert "pck40" in scores(result, row="copy last frame")


def test_a_model_that_does_not_draw_is_scored_by_its_latents(lights, data):
    protocol, _ = find_protocol("semantic-wm-inverse").changed(max_clips=4)
    result = compare({"heeds": lights(decoder=None)}, data, protocol, pictures=1)
    assert set(scores(result)) == {"inverse_error"}
    with pytest.raises(NoDecoderError):
        compare({"heeds": lights(decoder=None)}, data, protocol.changed(metrics=("psnr",))[0], pictures=0)


def test_what_is_missing_is_said(lights, data, tmp_path):
    bare = build(small_config(encoder="patch", latent_action=None))
    with pytest.raises(ConfigError, match="about one action of numbers, and this model is told none"):
        action_of(bare)
    with pytest.raises(ConfigError, match="point_pck follows points in pictures of one camera"):
        PointScores(lights(decoder=None))
    np.savez(tmp_path / "e.npz", video=np.zeros((9, 12, 12, 3), np.uint8), action=np.zeros((9, 2), np.float32))
    protocol, _ = find_protocol("semantic-wm-probes").changed(split="all", horizon=2, context_frames=1)
    with pytest.raises(DataError, match="no column state or position of numbers"):
        compare({"m": lights()}, str(tmp_path), protocol, pictures=0)


def test_from_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(latent_scores, "CANDIDATES", 8)
    monkeypatch.setattr(latent_scores, "ELITES", 2)
    monkeypatch.setattr(latent_scores, "ROUNDS", 1)
    draw = np.random.default_rng(0)
    for i in range(6):
        np.savez(tmp_path / f"e{i}.npz", video=draw.integers(0, 256, (6, 32, 32, 3), dtype=np.uint8),
                 action=draw.uniform(-1, 1, (6, 2)).astype(np.float32))
    model = build(wk.create_config("semantic-wm-mini", encoder={"picture": {"num_layers": 1}}, dynamics={
        "dim": 16, "num_heads": 2, "num_layers": 1, "steps": 1}))
    model.save_pretrained(tmp_path / "model")
    assert main(["eval", str(tmp_path / "model"), "--data", str(tmp_path), "--protocol", "semantic-wm-controllability",
                 "--split", "all", "--max-clips", "2", "--pictures", "0", "--out", str(tmp_path / "out")]) == 0
    assert "error of found actions" in (tmp_path / "out" / "eval-semantic-wm-controllability-all.md").read_text()


@pytest.mark.parametrize("preset, data", [("lewm-mini", "push-32"), ("tdmpc2-mini", "pendulum-play-32")])
def test_the_command_scores_the_latents_of_a_preset_that_draws_nothing(preset, data, tmp_path, capsys):
    save_pretrained(wk.create_model(preset), tmp_path / "m", facts={"preset": preset})
    command = ["eval", str(tmp_path / "m"), "--data", data, "--max-clips", "2", "-o", "data.num_episodes=3"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "error of state read off" in shown and "copy last frame" in shown and "PSNR" not in shown
    assert main([*command, "--metrics", "psnr"]) == 2
    assert "cannot draw" in capsys.readouterr().err
