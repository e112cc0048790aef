"""PLDM as its authors have it: the sizes that are known of its encoders, its recurrent predictor, its terms on maps."""

import pytest
import torch

import worldkit as wk
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.config import ObsSpec
from worldkit.distributions import MEANS
from worldkit.dynamics.state_gru import StateGRU, StateGRUConfig
from worldkit.encoders.menet import MeNet, MeNetConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.objectives.collapse import pldm_original_terms
from worldkit.objectives.jepa import embeddings
from worldkit.testing import check_dynamics, check_encoder, example_latent, example_spec
from worldkit.testing.examples import small_config


def test_walls_encoder_has_the_known_widths():
    encoder = wk.create_model("pldm-wall").encoder
    assert encoder.last.weight.shape == (512, 2592)
    assert [stack[0].out_channels for stack in encoder.stacks] == [16, 32, 32]
    assert all(len(stack) == 4 for stack in encoder.stacks)  # convolution, maximum, two blocks
    z = encoder(torch.rand(1, 2, 2, 65, 65), sampler=MEANS).latent.flat("state")[:, :, 0]
    torch.testing.assert_close(z.mean(-1), torch.zeros(1, 2), atol=1e-5, rtol=0)  # ends with its norm
    check_encoder("impala")
    with pytest.raises(ConfigError, match="'impala' reads pictures, but .*encoder=mlp"):
        build(small_config(**{"encoder": "impala", "decoder": "mlp", "dynamics": "gru", "latent_action": None, "obs": {
            "height": 0, "width": 0, "vectors": {"a": 2}}}))


def test_the_maze_encoder_gives_the_known_map():
    encoder = MeNet(MeNetConfig(), obs=ObsSpec(height=64, width=64))
    assert encoder.spec.grid == (26, 26) and encoder.spec.groups[0].fields[0].dim == 16
    assert [m.num_groups for m in encoder.net if isinstance(m, torch.nn.GroupNorm)] == [4, 8, 8, 8]
    assert isinstance(encoder.net[-1], torch.nn.Conv2d)
    check_encoder("menet")
    two = MeNet(MeNetConfig(), obs=ObsSpec(height=64, width=64, views=2))
    assert two(torch.rand(1, 2, 1, 3, 64, 64), sampler=MEANS).latent.features.shape == (1, 1, 2 * 676, 16)


@pytest.mark.parametrize("options, said", [
    ({"layers": [(6, 3, 1, 0), (4, 1, 1, 0)]}, "has 6 channels, which norms of 4 do not divide"),
    ({"layers": [(4, 3, 0, 0)]}, "stride .each at least 1. and padding, got 4, 3, 0, 0"),
    ({"layers": [(4, 3, 1, 0), (4, 31, 1, 0)]}, "32 x 32 is too small for .* nothing is left after 2 of 2"),
])
def test_layers_that_do_not_fit(options, said):
    with pytest.raises(ConfigError, match=said):
        build(small_config(encoder={"name": "menet", **options}, decoder="semantic", latent_action=None))


def test_the_latent_is_the_hidden_state():
    spec = example_spec(kind="patches")
    z = example_latent(spec, time=3)
    dynamics = StateGRU(StateGRUConfig(norm=False, cond_dim=2), spec=spec, anchors={}, window=4)
    told = torch.randn(2, 3, 2)
    width = sum(g.size * f.dim for g in spec.groups for f in g.fields)
    made = dynamics.cell(told[:, 1], z[:, 1:2].flat("patches").reshape(2, width))
    out = dynamics.advance(z.flat("patches").flatten(2), told)
    torch.testing.assert_close(out[:, 1], dynamics.spread(made))
    ahead = dynamics.prior(z, Condition(frame=told)).mode()
    z.values["patches", "features"][:, 0] += 1  # an earlier frame says nothing
    torch.testing.assert_close(dynamics.prior(z, Condition(frame=told)).mode()[:, 1:].features, ahead[:, 1:].features)
    check_dynamics("state-gru")


def test_every_place_carries_the_vectors_themselves():
    model = wk.create_model("pldm-maze", encoder={"picture": {"layers": [[4, 8, 8, 0]]}}, dynamics={"num_layers": 1})
    speed = torch.randn(2, 3, 2)
    z = model.encode(Batch(torch.rand(2, 3, 3, 64, 64), vectors={"velocity": speed}))
    assert torch.equal(z.values["patches", "vectors"], speed[:, :, None].expand(-1, -1, 64, -1))
    with pytest.raises(ConfigError, match="carry the vectors themselves .tiled. or so many channels .* leave one out"):
        wk.create_model("pldm-maze", encoder={"channels": 3})


def test_terms_of_whole_maps():
    """All numbers of a frame are one sample, of the chosen field; the covariances are those of the formula."""
    model = wk.create_model("pldm-maze", encoder={"picture": {"layers": [[4, 8, 8, 0]]}}, dynamics={"num_layers": 1})
    batch = Batch(torch.rand(4, 5, 3, 64, 64), {"action": torch.randn(4, 5, 2)},
                  vectors={"velocity": torch.randn(4, 5, 2)})
    terms = model.eval().loss(batch, generator=torch.Generator().manual_seed(0)).terms
    flat = model.encode(batch).values["patches", "features"].flatten(2)
    assert torch.equal(embeddings(model.encode(batch), ("features",), whole=True), flat)
    first = flat[:, 0].double() - flat[:, 0].double().mean(0)
    cov = first.T @ first / 3
    wanted = (cov.square().sum() - cov.diagonal().square().sum()) / (256 * 255)
    assert terms["cov"].item() == pytest.approx(wanted.item(), rel=1e-4)
    assert terms["std"].item() == pytest.approx(pldm_original_terms(flat)["std"].item(), rel=1e-5)
    with pytest.raises(IncompatibleComponentsError, match="objective.vicreg.fields must be among .* features, vectors"):
        wk.create_model("pldm-maze", objective={"vicreg": {"fields": ["pixels"]}})
