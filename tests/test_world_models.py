"""World Models (Ha and Schmidhuber): the paper's sizes, mixtures, the memory, turns, and a controller that evolves."""

import json

import pytest
import torch

import worldkit as wk
from worldkit.agents import create_agent
from worldkit.agents.actions import ActionSpec
from worldkit.agents.controller.agent import Candidates
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.conditions import Condition
from worldkit.distributions import MEANS, Mixture, Normal, Sampler
from worldkit.dynamics.mdn_rnn import MDNRNN, MDNRNNConfig
from worldkit.errors import ConfigError, IncompatibleComponentsError
from worldkit.testing import check_dynamics, check_encoder, check_model, check_objective, example_latent, example_spec
from worldkit.testing.distribution import check_distribution
from worldkit.testing.examples import example_batch, example_encoding, small_config

READOUT = {"readout": {"layers": 0}}
PARTS = {"latent_action": None, "encoder": "conv-vae", "decoder": {"name": "conv-transposed", "output": "sigmoid"},
         "dynamics": "mdn-rnn", "objective": "world-models",
         "conditioners": {"action": {"name": "raw-action", "dim": 2}},
         "heads": {"reward": {"name": "gaussian", **READOUT}, "terminated": {"name": "bernoulli", **READOUT}}}


def seeded(seed=0):
    return Sampler(generator=torch.Generator().manual_seed(seed))


# -- mixtures


def test_mixture():
    check_distribution(Mixture(3), exact=False)
    check_distribution(Mixture(1))
    with pytest.raises(ConfigError, match="at least 1 component, got 0"):
        Mixture(0)


def test_a_mixture_is_torchs():
    mixture, params = Mixture(4), torch.randn(7, 3 * 4 * 2, dtype=torch.float64)
    logits, means, logvars = mixture.split(params)
    D = torch.distributions
    known = D.MixtureSameFamily(D.Categorical(logits=logits), D.Normal(means, (0.5 * logvars).exp()))
    value = torch.randn(7, 2, dtype=torch.float64)
    torch.testing.assert_close(mixture.nll(params, value), -known.log_prob(value).sum(-1))
    draws = mixture.sample(params.expand(10_000, -1, -1), seeded(), "x")
    torch.testing.assert_close(draws.mean(0), known.mean, atol=0.15, rtol=0)
    torch.testing.assert_close(draws.var(0), known.variance, rtol=0.15, atol=0)
    prior = torch.randn(7, 24, dtype=torch.float64)
    wide = params.expand(10_000, -1, -1)
    true = (mixture.nll(prior.expand_as(wide), draws) - mixture.nll(wide, draws)).mean(0)
    assert (mixture.kl(params, prior) > true - 0.1).all()  # a bound from above


def test_one_gaussian_as_a_mixture_and_temperature():
    mixture, normal, value = Mixture(3), torch.randn(5, 4), torch.randn(5, 2)
    one = mixture.of_normal(normal)
    torch.testing.assert_close(mixture.nll(one, value), Normal().nll(normal, value))
    torch.testing.assert_close(mixture.kl(one, mixture.of_normal(normal + 1)), Normal().kl(normal, normal + 1))
    hot = mixture.heated(one, 4.0)
    torch.testing.assert_close(mixture.split(hot)[2], mixture.split(one)[2] + torch.tensor(4.0).log())
    params = mixture.pack(torch.tensor([[2.0, 0.0, -2.0]]), torch.zeros(1, 3), torch.zeros(1, 3))
    assert mixture.split(mixture.heated(params, 2.0))[0].tolist() == [[1.0, 0.0, -1.0]]


# -- the paper's sizes


@pytest.mark.parametrize(("name", "vision", "memory"), [
    ("world-models-carracing", 4_348_547, 422_368), ("world-models-doom", 4_446_915, 1_678_785)])
def test_sizes_of_the_paper(name, vision, memory):
    with torch.device("meta"):
        report = wk.create_model(name).parameter_report()
    assert report["encoder"] + report["decoder"] == vision
    assert report["dynamics"] + report.get("heads", 0) == memory


def test_controllers_of_the_paper():
    with torch.device("meta"):
        racing = create_agent("world-models-carracing")
        doom = create_agent("world-models-doom", action=ActionSpec(num_actions=3))
    assert racing.weights.numel() == 867 and doom.weights.numel() == 1088


# -- parts


@pytest.mark.parametrize("options", [{}, {"restart_flag": True, "temperature": 1.3}])
@pytest.mark.parametrize("kind", ["slots", "patches"])
def test_memory(kind, options):
    check_dynamics("mdn-rnn", spec=example_spec(kind=kind), **options)


def test_other_parts():
    check_encoder("conv-vae")
    check_objective("world-models")
    check_model(small_config(**PARTS))


def test_the_memory_is_an_lstm():
    """Held against torch's, frame by frame; of a first frame nothing is remembered."""
    torch.manual_seed(0)
    spec = example_spec(kind="slots")
    config = MDNRNNConfig(units=6, components=2, cond_dim=3, restart_flag=True)
    dynamics, cell = MDNRNN(config, spec=spec, anchors={}, window=4), torch.nn.LSTMCell(3 + 3 + 1, 6)
    with torch.no_grad():
        dynamics.gates.bias.normal_()
        cell.weight_ih.copy_(dynamics.gates.weight[:, :7])
        cell.weight_hh.copy_(dynamics.gates.weight[:, 7:])
        cell.bias_ih.copy_(dynamics.gates.bias)
        cell.bias_hh.zero_()
    seen, cond = example_encoding(spec), Condition(frame=torch.randn(2, 4, 3))
    first = torch.tensor([[True, False, False, True], [True, False, False, False]])
    found = dynamics.filter(seen, cond, MEANS, first=first).latent
    values, state = seen.latent.features[1], (torch.zeros(4, 6), torch.zeros(4, 6))
    for t in range(1, 4):  # the second clip
        flag = torch.full((4, 1), float(t == 1))
        state = cell(torch.cat([values[t - 1], cond.frame[1, t].expand(4, -1), flag], -1), state)
        for name, x in zip(("output", "memory"), state, strict=True):
            torch.testing.assert_close(found.values["slots", name][1, t], x)
    assert not found.values["slots", "memory"][:, 0].any() and not found.values["slots", "output"][0, 3].any()
    torch.testing.assert_close(found.features, seen.latent.features)


def test_dreams_get_wilder_with_the_temperature():
    torch.manual_seed(0)
    spec = example_spec(kind="slots")
    dynamics = MDNRNN(MDNRNNConfig(units=6, cond_dim=0), spec=spec, anchors={}, window=4).eval()
    z = example_latent(spec, batch=512, time=1)
    spread = {}
    for temperature in (0.1, 1.0, 4.0):
        dynamics.temperature = temperature
        carry = dynamics.start(dynamics.remembering(z), Condition())
        spread[temperature] = dynamics.predict(carry, Condition(), seeded(), mean=False).features.std()
    assert spread[0.1] < 0.6 * spread[1.0] and spread[4.0] > 1.5 * spread[1.0]


def test_only_what_fits():
    with pytest.raises(IncompatibleComponentsError, match="'mdn-rnn' needs Gaussian fields only"):
        build(small_config(latent_action=None, encoder="slot", dynamics="mdn-rnn", objective="world-models"))
    with pytest.raises(ConfigError, match="too small for 3 convolutions"):
        build(small_config(**{**PARTS, "encoder": {"name": "conv-vae", "multipliers": [1, 2, 4]}}, obs={"height": 12}))


def test_memory_does_not_teach_vision():
    model = build(small_config(**PARTS))
    batch = example_batch(model.config)
    assert model.objective.turns == ("vision", "memory")
    for part, other in (("vision", "memory"), ("memory", "vision")):
        model.zero_grad()
        loss = model.objective.turn_loss(model, batch.as_float(), part, sampler=seeded())
        loss.total.backward()
        assert all(p.grad is not None for p in model.objective.turn_parameters(model, part))
        assert all(p.grad is None for p in model.objective.turn_parameters(model, other))
    assert {*loss.terms} == {"memory", "head/reward", "head/terminated"}
    with pytest.raises(ConfigError, match="trains vision and memory in turns, not 'control'"):
        model.objective.turn_loss(model, batch, "control", sampler=seeded())


# -- the controller

SMALL = {"encoder.depth": 2, "encoder.latent_dim": 3, "decoder.depth": 2, "dynamics.units": 4, "agent.population": 4,
         "agent.episodes": 1, "agent.where": "env", "agent.generations": 0, "agent.vision_updates": 1,
         "agent.memory_updates": 1, "agent.horizon": 5}


def small_agent(discrete=True, **options):
    action = ActionSpec(num_actions=3) if discrete else ActionSpec((-2.0, 0.0), (2.0, 1.0))
    return create_agent("world-models-mini", action=action, **{**SMALL, **options})


def test_every_candidate_decides_for_its_own_rows():
    agent = small_agent()
    z = agent.model.dynamics.remembering(
        agent.model.encoder(torch.rand(6, 1, 3, 32, 32), sampler=MEANS).latent)
    weights = torch.randn(3, agent.weights.numel())
    all_at_once = agent.decide(z, weights)
    by_hand = [(agent.features(z)[2 * p : 2 * p + 2] @ w[:-3].view(3, -1).T + w[-3:]).argmax(-1)
               for p, w in enumerate(weights)]
    assert torch.equal(all_at_once, torch.cat(by_hand))
    numbers = small_agent(discrete=False)
    assert numbers.decide(z, torch.full((1, numbers.weights.numel()), 99.0)).tolist()[0] in ([2.0, 1.0], [-2.0, 0.0])
    bare = small_agent(**{"agent.thresholds": True, "agent.bias": False, "agent.reads_memory": True})
    assert bare.weights.numel() == 3 + 4 + 4 and bare.decide(z, bare.weights[None]).tolist() == [1] * 6  # the middle
    with pytest.raises(ConfigError, match="agent.thresholds tells choices apart"):
        small_agent(discrete=False, **{"agent.thresholds": True})
    with pytest.raises(ConfigError, match="generations counts those in dreams"):
        small_agent(**{"agent.generations": 3})


def test_evolution_goes_on_exactly():
    pytest.importorskip("cma")
    from worldkit.agents.controller.evolution import Evolution

    def make():
        return Evolution(3, population=8, sigma=0.5, episodes=2, seed=1)

    def live(evolution, episodes):
        for _ in range(episodes):
            number = evolution.next()
            evolution.tell(number, -(evolution.candidates[number] - 1).square().sum().item())

    whole, torn = make(), make()
    state = torch.random.get_rng_state()
    live(whole, 8 * 2 * 25)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert whole.generation == 25 and (whole.mean - 1).abs().max() < 0.1
    live(torn, 8 * 2 * 10 + 5)
    told = json.loads(json.dumps(torn.state_dict()))
    again = make()
    again.load_state_dict(told)
    live(again, 8 * 2 * 15 - 5)
    assert torch.equal(again.candidates, whole.candidates)
    assert again.next([0, 0, 0]) == 1
    with pytest.raises(ConfigError, match="agent.population is 4"):
        Evolution(3, population=4, sigma=0.5, episodes=2, seed=1).load_state_dict(told)


def test_turns_of_the_learner():
    pytest.importorskip("cma")
    agent = small_agent(**{"agent.where": "dream", "agent.generations": 2})
    learner, model = agent.learner(None), agent.model
    batch = Batch(torch.randint(256, (4, 5, 3, 32, 32), dtype=torch.uint8),
                  {"action": torch.randint(3, (4, 4))},
                  targets={"reward": torch.rand(4, 5), "terminated": torch.zeros(4, 5, dtype=torch.bool)})

    def changed(update):
        was = {name: p.clone() for name, p in [*model.named_parameters(), *agent.named_parameters()]}
        terms = update()
        return {name.partition(".")[0] for name, p in [*model.named_parameters(), *agent.named_parameters()]
                if not torch.equal(p, was[name])}, terms

    assert changed(lambda: learner.update(batch, seeded()))[0] == {"encoder", "decoder"}
    assert changed(lambda: learner.update(batch, seeded()))[0] == {"dynamics", "heads"}
    moved, terms = changed(lambda: learner.update(batch, seeded()))
    assert moved == {"weights"} and 1 <= terms["dreamed_steps"] <= 5 and model.dynamics.temperature == 1
    twin = small_agent(**{"agent.where": "dream", "agent.generations": 2})
    twin.load_state_dict(agent.state_dict())
    twin.model.load_state_dict(model.state_dict())
    other = twin.learner(None)
    other.load_state_dict(learner.state_dict())
    for each in (learner, other):
        each.update(batch, seeded(3))
    assert torch.equal(agent.weights, twin.weights) and agent.weights.any()
    with pytest.raises(ConfigError, match="learns in dreams from predicted rewards or ends"):
        small_agent(**{"agent.where": "dream", "heads": None}).learner(None)


def test_candidates_act_whole_episodes():
    pytest.importorskip("cma")
    agent = small_agent()
    agent.learner(None)
    acting = agent.explorer()
    assert isinstance(acting, Candidates)
    frames, carry = torch.rand(3, 3, 32, 32), acting.start(3)
    _, carry = acting.act(frames, carry, first=torch.ones(3, dtype=torch.bool), sampler=seeded())
    assert carry.candidate.tolist() == [0, 1, 2] and carry.generation.tolist() == [0, 0, 0]
    acting.ended(1, 5.0, carry)
    _, carry = acting.act(frames, carry, first=torch.tensor([False, True, False]), sampler=seeded())
    assert carry.candidate.tolist() == [0, 3, 2]
    for row in (0, 1):
        acting.ended(row, 0.0, carry)
    assert agent.evolution.generation == 0 and not agent.weights.any()
    acting.ended(2, 0.0, carry)
    assert agent.evolution.generation == 1 and agent.weights.any()
    _, carry = acting.act(frames, carry, first=torch.tensor([False, True, False]), sampler=seeded())
    assert carry.generation.tolist() == [-1, 1, -1]  # who began before does not count
    acting.ended(0, 9.0, carry)
    assert not any(agent.evolution.scores)


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path):
    pytest.importorskip("cma")
    from worldkit.online import make_online_trainer

    options = {**{name: value for name, value in SMALL.items()}, "online.num_envs": 2, "online.prefill": 40,
               "online.pretrain": 2, "online.length": 6, "online.eval_every": 0, "online.save_every": 60,
               "online.max_steps": 9, "train.batch_size": 2, "train.log_every": 1, "env.grid": 6}

    def run(name, steps):
        trainer = make_online_trainer("world-models-mini", "games/catch", run=tmp_path / name, show_progress=False,
                                      overrides=wk.config.nest({**options, "online.steps": steps}))
        trainer.looks.evaluate = lambda: None
        trainer.fit()
        return trainer

    whole = run("whole", 160)
    run("torn", 100)
    again = run("torn", 160)
    assert again.agent.evolution.generation == whole.agent.evolution.generation > 0
    assert torch.equal(again.agent.weights, whole.agent.weights) and whole.agent.weights.any()
    assert again.agent.evolution.scores == whole.agent.evolution.scores
