"""G-SWM: its parts hold together as a model, refuse what they cannot do, and loop over no objects."""

import pytest
import torch
from torch.overrides import TorchFunctionMode

import worldkit as wk
from worldkit.assembly import build
from worldkit.config import WorldModelConfig
from worldkit.distributions import MEANS, Sampler
from worldkit.errors import ConfigError, ShapeError, WorldkitError
from worldkit.gswm import GSWM, GSWMConfig
from worldkit.gswm.config import MotionConfig, Ramp
from worldkit.gswm.interaction import Interaction
from worldkit.gswm.objects import CENTRE
from worldkit.gswm.perception import slots_of
from worldkit.testing import check_model

TINY = {
    "family": "g-swm", "obs": {"height": 16, "width": 16}, "timestep_horizon": 4,
    "encoder": {"grid": 2, "max_objects": 3, "feature_dim": 3, "motion_dim": 4, "map_dim": 4, "channels": 2,
                "glimpse_channels": [2, 2], "background_channels": [2, 2], "proposal_dim": 4, "hidden_dim": 6,
                "found_map_dim": 3, "found_map_layers": [4]},
    "dynamics": {"state_dim": 4, "input_dim": 4, "interaction_dim": 4, "interaction_layers": [4],
                 "environment_dim": 3, "context_state_dim": 3},
    "decoder": {"channels": [2, 2, 2, 2], "background_channels": [2, 2, 2, 2], "context_dim": 3},
    "objective": {"lengths": [2, 3], "milestones": [10]},
}


def config(**changes):
    made = WorldModelConfig.parse(TINY)
    for path, value in changes.items():
        made = made.replace(path.replace("__", "."), value)
    return made


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(config()).eval()


def video(frames=4, clips=2, side=16):
    return torch.rand(clips, frames, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_a_model_is_found_by_its_family():
    made = config()
    assert isinstance(made, GSWMConfig) and isinstance(build(made), GSWM) and made.clip_length == 3
    assert WorldModelConfig.parse(made.to_dict()) == made


@pytest.mark.parametrize("changes", [
    {}, pytest.param({"encoder__motion_dim": 0}, marks=pytest.mark.slow),
    pytest.param({"dynamics__environment": "whole"}, marks=pytest.mark.slow),
    pytest.param({"decoder__context_dim": 0, "dynamics__environment": "none"}, marks=pytest.mark.slow),
], ids=str)
def test_it_keeps_the_contracts_of_models(changes):
    torch.manual_seed(0)
    check_model(build(config(objective={"lengths": [3], "milestones": []}, **changes)))


@pytest.mark.parametrize("path, value, message", [
    ("encoder", "slot", "encoder 'slot' cannot take the place of G-SWM's own"),
    ("dynamics", {"name": "gru"}, "dynamics 'gru' cannot take the place of G-SWM's own"),
    ("encoder.glimpse_size", 32, "glimpse_size 32 is larger than the picture, 16 x 16 pixels"),
    ("encoder.max_objects", 5, "max_objects 5 is more than there are cells to find them in, 2 x 2: take at most 4"),
    ("encoder.grid", 3, "must be a multiple of 16 and of 8 . encoder.grid = 24"),
    ("obs.width", 32, "sees square pictures of one camera and nothing beside them, got 16 x 32"),
    ("conditioners", {"action": {"name": "action", "dim": 2}}, "takes no conditioners"),
    ("objective.milestones", [], "2 lengths need 1"),
    ("encoder.gird", 2, "unknown option 'gird'. Did you mean 'grid'"),
])
def test_what_cannot_be_is_refused(path, value, message):
    with pytest.raises(ConfigError, match=message.replace("(", "\\(")):
        config().replace(path, value)


def test_clips_shorter_than_the_window_are_refused(model):
    assert model.loss(wk.Batch(video(2)), step=10).total.isfinite()  # the first length holds up to its milestone
    with pytest.raises(ShapeError, match=r"clips have 2 frames, and at this step G-SWM learns from 3 .*clip_length, 3"):
        model.loss(wk.Batch(video(2)), step=11)
    with pytest.raises(ShapeError, match="video"):
        model.loss(wk.Batch(video(3, side=32)))
    model.encoder.discovery = "all"
    with pytest.raises(WorldkitError, match="encoder.discovery must be 'first' or 'every', got 'all'"):
        model.encode(video())


def test_objects_keep_their_tokens_and_predictions_their_presence(model):
    out = model.rollout(video(3), 4, generator=torch.Generator().manual_seed(0))
    there = out.latents.transparency
    assert torch.equal(there, out.context_latents.transparency[:, -1:].expand_as(there))
    assert not torch.equal(out.latents.position[:, 0], out.latents.position[:, -1])
    again = model.rollout(video(3), 4, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(out.latents.position, again.latents.position)
    ids = torch.tensor([[[3, 1, 2], [2, 3, 9], [9, 8, 2]]])
    assert ids.gather(2, slots_of(ids)).tolist() == [[[3, 1, 2], [3, 9, 2], [8, 9, 2]]]


def test_new_objects_are_looked_for_where_it_is_said(model):
    tracks = {}
    for model.encoder.discovery in ("first", "every"):
        with torch.no_grad():
            tracks[model.encoder.discovery] = model.encoder(video(), sampler=MEANS).aux.objects.ids
    assert tracks["first"].max() < model.encoder.config.grid**2 <= tracks["every"].max()


def test_pairs_are_as_if_every_pair_went_through_the_network():
    torch.manual_seed(0)
    net, x = Interaction(MotionConfig(interaction_dim=3, interaction_layers=(5,)), inputs=8).double(), \
        torch.rand(2, 4, 8, dtype=torch.float64)
    other = x[:, None].repeat(1, 4, 1, 1)
    other[..., CENTRE] = x[:, :, None, CENTRE] - x[:, None, :, CENTRE]
    pairs = torch.cat([x[:, :, None].expand(-1, -1, 4, -1), other], -1)
    weights = net.weights(pairs)[..., 0].softmax(-1) * x[:, None, :, 0]
    weights = weights * (1 - torch.eye(4))
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-4)
    expected = net.alone(x) + (weights[..., None] * net.pairs(pairs)).sum(2)
    assert torch.allclose(net(x), expected, rtol=1e-12, atol=1e-12)


class Counted(TorchFunctionMode):
    calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.calls += 1
        return func(*args, **(kwargs or {}))


def test_no_loop_goes_over_objects():
    counts = []
    for objects in (1, 4):
        made = build(config(encoder__max_objects=objects))
        with Counted() as counted:
            made.loss(wk.Batch(video(3)), step=20, generator=torch.Generator().manual_seed(0))
        counts.append(counted.calls)
    assert counts[0] == counts[1]


def test_the_depth_defect_can_be_switched_off():
    depths = {}
    for defect in (True, False):
        torch.manual_seed(0)
        made = build(config(encoder__motion_dim=0, encoder__depth_defect=defect)).eval()
        depths[defect] = made.encode(video(2)).depth.detach().diff(dim=1).mean().item()
    assert depths[True] > 0.5 and abs(depths[False]) < 0.5


def test_a_background_that_learns_alone(model):
    model = build(config(objective__background_steps=5))
    loss = model.loss(wk.Batch(video(3)), step=4)
    loss.total.backward()
    assert loss.partial and model.decoder.scenery.project.weight.grad is not None
    assert model.decoder.glimpses.project.weight.grad is None
    assert not model.loss(wk.Batch(video(3)), step=5).partial


def test_discovery_is_left_out_for_the_whole_batch():
    made = build(config(encoder__discovery_dropout=0.999)).train()
    bound = made.objective.bound(made, video(), 0, sampler=Sampler(generator=torch.Generator().manual_seed(0)))
    assert (bound.tracks.objects.ids < 4).all()


def test_ramps():
    ramp = Ramp(start=1e-2, end=1e-4, first=2, last=6)
    assert [ramp.at(step, factors=True) for step in (0, 2, 6, 9)] == [1e-2, 1e-2, 1e-4, 1e-4]
    assert ramp.at(4) == pytest.approx(0.00505)


def test_presets_differ_where_the_official_configurations_do():
    maze, balls = (wk.create_config(f"g-swm-{name}") for name in ("maze", "balls"))
    assert [(x.encoder.grid, x.encoder.max_objects) for x in (maze, balls)] == [(8, 16), (4, 10)]
    no_mu = wk.create_config("g-swm-maze-no-mu")
    assert no_mu.deterministic and no_mu.dynamics.scale_step == 0.1 and not maze.deterministic
    assert balls.clip_length == 20 and balls.decoder.context_dim == 0 and maze.objective.sigma.at(65000) == 0.55
