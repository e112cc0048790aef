"""Who hears of what in a factored model: states interact, actions do not; and nothing depends on how many there are."""

import pytest
import torch

import worldkit as wk
from worldkit.conditions import Condition
from worldkit.distributions import Normal
from worldkit.latents import Latent
from worldkit.nn.factors import Aggregator, Factorizer, ForwardFactors, InverseFactors
from worldkit.registry import dynamics as all_dynamics
from worldkit.registry import latent_actions as all_actions
from worldkit.testing import example_latent, example_spec
from worldkit.testing.examples import SMALL

SLOTS = ("slots", "features")


def made(kind, spec, *, registry=all_dynamics, **options):
    torch.manual_seed(0)
    cls = registry.get(kind)
    table = "dynamics" if registry is all_dynamics else "latent action"
    more = {} if registry is all_dynamics else {"dynamics_dim": 16}
    part = cls(cls.Config(**{**SMALL[table][kind], **options}), spec=spec, anchors={}, window=4, **more).double().eval()
    with torch.no_grad():
        for parameter in part.parameters():  # what starts at zero would hide what it reads
            parameter.add_(0.05 * torch.randn_like(parameter))
    return part


def moved(x, index, by=0.3):
    """The same with other values at an index; not all moved alike, which norms would not notice."""
    x, there = x.clone(), x[index]
    x[index] += by * torch.randn(there.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return x


@pytest.mark.parametrize("frame", [0, 2])
def test_an_action_reaches_no_factor_but_its_own(frame):
    torch.manual_seed(0)
    forward = ForwardFactors(8, num_layers=3, num_heads=2, max_frames=4).double()
    states, told = torch.randn(1, 4, 5, 8).double(), torch.randn(1, 4, 5, 8).double()
    with torch.no_grad():
        change = (forward(states, moved(told, (0, frame, 3))) - forward(states, told)).abs().amax(-1)[0]
    assert change[:frame].max() == 0 if frame else True  # nor an earlier frame
    assert change[frame, 3] > 1e-3
    assert change[:, [0, 1, 2, 4]].max() == 0


@pytest.mark.parametrize("kind", ["slots", "particles"])
def test_of_dynamics_over_slots_and_particles(kind):
    spec = example_spec(kind=kind)
    dynamics, z = made("factored", spec), example_latent(spec).map(torch.Tensor.double)
    told = torch.randn(2, 4, spec.num_tokens, 16).double()
    with torch.no_grad():
        before, after = (dynamics.prior(z, Condition(token=x)).mode().pack() for x in (told, moved(told, (0, 1, 2))))
    change = (after - before).abs().amax(-1)[0, 1]
    assert change[2] > 1e-3 and change.sum() == change[2]


def test_states_interact():
    torch.manual_seed(0)
    forward = ForwardFactors(8, num_layers=1, num_heads=2, max_frames=4).double()
    states = torch.randn(1, 3, 4, 8).double()
    with torch.no_grad():
        change = (forward(moved(states, (0, 2, 1)), None) - forward(states, None)).abs().amax(-1)[0]
    assert (change[2] > 1e-4).all() and change[:2].max() == 0


def test_an_action_is_read_off_all_states_and_one_outcome():
    torch.manual_seed(0)
    inverse = InverseFactors(8, num_layers=2, num_heads=2, max_frames=4).double()
    states = torch.randn(1, 4, 3, 8).double()
    with torch.no_grad():
        base = inverse(states)
        outcome = (inverse(moved(states, (0, 3, 1))) - base).abs().amax(-1)[0]  # the last frame leaves nowhere
        state = (inverse(moved(states, (0, 2, 1), 1.0)) - base).abs().amax(-1)[0]
    assert outcome[2, 1] > 1e-3 and outcome.sum() == outcome[2, 1]
    assert (state[2] > 1e-5).all()  # of what is left, all factors tell
    assert state[1, 1] > 1e-3 and state[1, [0, 2]].max() == 0 and state[0].max() == 0


def test_slots_know_no_later_frame():
    torch.manual_seed(0)
    factorizer = Factorizer(8, num_factors=3, num_iterations=2, num_heads=2, max_frames=4).double()
    patches, places = torch.randn(1, 4, 6, 8).double(), torch.randn(6, 8).double()
    there = moved(patches, (0, 2))

    def change():
        with torch.no_grad():
            return (factorizer(there, places)[0] - factorizer(patches, places)[0]).abs().amax((-1, -2))[0]

    assert change()[:2].max() == 0 and (change()[2:] > 1e-3).all()  # and remember earlier ones
    factorizer.past = None
    assert change()[3] == 0 and change()[2] > 1e-3


def test_permuted_starts_permute_slots_and_leave_the_prediction():
    spec = example_spec(kind="patches")
    dynamics = made("flam", spec)
    actions = made("factored", dynamics.factor_spec, registry=all_actions)
    z, order = example_latent(spec).map(torch.Tensor.double), [2, 0, 1]

    def run():
        slots = dynamics.factors(z)
        read = actions(slots, Condition())[0].params
        told = actions.condition(Normal.split(read)[0])
        return slots.values[SLOTS], read, dynamics.prior(z[:, :-1], told, factors=slots[:, :-1]).mode().pack()

    with torch.no_grad():
        slots, read, drawn = run()
        dynamics.factorizer.initial.copy_(dynamics.factorizer.initial[order])
        permuted, reread, redrawn = run()
    torch.testing.assert_close(permuted, slots[:, :, order])
    torch.testing.assert_close(reread, read[:, :, order])
    torch.testing.assert_close(redrawn, drawn)


@pytest.mark.parametrize("count", [2, 7])
def test_weights_do_not_depend_on_how_many_factors_there_are(count):
    blocks = [ForwardFactors(8, num_layers=1, num_heads=2, max_frames=4),
              InverseFactors(8, num_layers=1, num_heads=2, max_frames=4)]
    states = torch.randn(1, 4, count, 8)
    assert blocks[0](states, states).shape == states.shape and blocks[1](states).shape == (1, 3, count, 8)
    assert Aggregator(8, num_layers=1, num_heads=2)(torch.randn(1, 4, 5, 8), states).shape == (1, 4, 5, 8)


def test_an_untrained_model_repeats_the_frame():
    spec = example_spec(kind="patches")
    cls = all_dynamics.get("flam")
    dynamics = cls(cls.Config(**SMALL["dynamics"]["flam"]), spec=spec, anchors={}, window=4)
    z = example_latent(spec)
    assert torch.equal(dynamics.prior(z, Condition()).mode().pack(), z.pack())


def test_long_clips_are_read_in_windows():
    spec = example_spec(kind="patches")
    dynamics = made("flam", spec)
    z = example_latent(spec, time=8).map(torch.Tensor.double)
    with torch.no_grad():
        slots = dynamics.factors(z).values[SLOTS]
        assert slots.shape[:2] == (2, 8)
        torch.testing.assert_close(slots[:, 6:7], dynamics.factors(z[:, 2:7]).values[SLOTS][:, -1:])
        torch.testing.assert_close(slots[:, :5], dynamics.factors(z[:, :5]).values[SLOTS])


def test_some_tokens_may_have_no_action():
    spec = example_spec(kind="slots")
    actions = made("factored", spec, registry=all_actions, num_factors=2)
    z = example_latent(spec, time=5).map(torch.Tensor.double)
    posterior, prior = actions(z, Condition())
    assert posterior.params.shape == (2, 4, 2, 6) and prior.params.abs().max() == 0
    told = actions.condition(torch.ones(2, 4, 2, 3).double()).token
    assert told.shape == (2, 4, 4, 16) and told[:, :, 2:].abs().max() == 0 and (told[:, :, :2] != 0).any()


def test_more_factors_than_slots():
    spec = example_spec(kind="slots")
    with pytest.raises(wk.errors.IncompatibleComponentsError,
                       match="num_factors 5 asks for more .* this model has 4 .4 slots.. Set .*num_factors to 4"):
        made("factored", spec, registry=all_actions, num_factors=5)


def test_an_action_of_a_factor_that_there_is_not():
    spec = example_spec(kind="slots")
    actions, found = made("factored", spec, registry=all_actions), torch.zeros(2, 3, 4, 3)
    edited = actions.edited(found, 1, torch.ones(3))
    assert edited[:, :, 1].min() == 1 and edited.sum() == 2 * 3 * 3 and found.sum() == 0
    for factor in (4, -1):
        with pytest.raises(wk.errors.ShapeError, match=f"no factor {factor} .* of 4 .0 to 3"):
            actions.edited(found, factor, torch.ones(3))


def test_latents_of_slots_are_latents():
    spec = example_spec(kind="patches")
    dynamics = made("flam", spec)
    slots = dynamics.factors(example_latent(spec).map(torch.Tensor.double))
    assert isinstance(slots, Latent) and slots.spec == dynamics.factor_spec
    shares = dynamics.shares(example_latent(spec).map(torch.Tensor.double))
    torch.testing.assert_close(shares.sum(2), torch.ones_like(shares[:, :, 0]))


@pytest.mark.parametrize("kind, count", [("factored", 4), ("single", 1)])
def test_centered_actions_differ_between_transitions_from_the_start(kind, count):
    spec = example_spec(kind="slots")
    actions = made(kind, spec, registry=all_actions, center="batch").train()
    z = example_latent(spec, batch=8, time=5).map(torch.Tensor.double)
    mean, logvar = Normal.split(actions(z, Condition())[0].params)
    assert mean.shape == (8, 4, count, 3)
    torch.testing.assert_close(mean.mean((0, 1)), torch.zeros(count, 3).double(), atol=1e-6, rtol=0)
    assert (mean.std((0, 1), correction=0) - 1).abs().max() < 0.01
    assert logvar.mul(0.5).exp().max() < 0.5  # and there is little noise
    one = actions.eval()(z[:1], Condition())[0].params  # afterwards a clip says the same whatever is beside it
    torch.testing.assert_close(one, actions(z, Condition())[0].params[:1])
