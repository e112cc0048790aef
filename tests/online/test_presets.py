"""Presets that act: exact parameter counts of Dreamer v3, and that all of them are what they say."""

import numpy as np
import pytest
import torch

import worldkit as wk
from worldkit.agents import create_agent
from worldkit.agents.actions import ActionSpec
from worldkit.agents.presets import acting_presets
from worldkit.online import OnlineConfig
from worldkit.training.config import TrainConfig

# Trained parameters: encoder, dynamics with the layer of actions, decoder, reward, continue, actor, critic; counted by
# building the official modules (danijar/dreamerv3 @ e3f0224).
COUNTS = {
    "dreamer-v3-size1m-atari100k": (14304, 376704, 80595, 57663, 41153, 49926, 66111),
    "dreamer-v3-size1m-atari": (13904, 397952, 142273, 57663, 41153, 50706, 66111),
    "dreamer-v3-size1m-crafter": (14304, 377408, 80595, 57663, 41153, 50641, 66111),
    "dreamer-v3-size1m": (14304, 376704, 80595, 57663, 41153, 50316, 66111),
    "dreamer-v3-size1m-vectors": (10112, 364416, 51096, 57663, 41153, 50316, 66111),
    "dreamer-v3-vectors": (10112, 364416, 51096, 57663, 41153, 50316, 66111),
    "dreamer-v3-size12m-atari100k": (220416, 5979648, 1272003, 721407, 656129, 789510, 853503),
    "dreamer-v3-size12m-atari": (218816, 6310400, 2256001, 721407, 656129, 792594, 853503),
    "dreamer-v3-size12m-crafter": (220416, 5982464, 1272003, 721407, 656129, 792337, 853503),
    "dreamer-v3-size12m": (220416, 5979648, 1272003, 721407, 656129, 791052, 853503),
    "dreamer-v3-size12m-vectors": (138752, 5783040, 794136, 721407, 656129, 791052, 853503),
    "dreamer-v3-size25m-atari100k": (493824, 13442304, 2857635, 1573503, 1475713, 1774086, 1869951),
    "dreamer-v3-size25m": (493824, 13442304, 2857635, 1573503, 1475713, 1776396, 1869951),
    "dreamer-v3-size25m-vectors": (306432, 12999936, 1781016, 1573503, 1475713, 1776396, 1869951),
    "dreamer-v3-size50m-atari100k": (876032, 23886848, 5076355, 2753279, 2622977, 3151878, 3279615),
    "dreamer-v3-size50m": (876032, 23886848, 5076355, 2753279, 2622977, 3154956, 3279615),
    "dreamer-v3-size50m-vectors": (539648, 23100416, 3161112, 2753279, 2622977, 3154956, 3279615),
    "dreamer-v3-size100m-atari100k": (1966848, 53721600, 11413059, 6095871, 5900545, 7087110, 7278591),
    "dreamer-v3-size100m": (1966848, 53721600, 11413059, 6095871, 5900545, 7091724, 7278591),
    "dreamer-v3-size100m-vectors": (1202688, 51952128, 7100952, 6095871, 5900545, 7091724, 7278591),
    "dreamer-v3-size200m-atari100k": (3492864, 95483904, 20282115, 10749183, 10488833, 12595206, 12850431),
    "dreamer-v3-size200m-atari": (3486464, 100739072, 36014593, 10749183, 10488833, 12607506, 12850431),
    "dreamer-v3-size200m-crafter": (3492864, 95495168, 20282115, 10749183, 10488833, 12606481, 12850431),
    "dreamer-v3-size200m": (3492864, 95483904, 20282115, 10749183, 10488833, 12601356, 12850431),
    "dreamer-v3": (3492864, 95483904, 20282115, 10749183, 10488833, 12601356, 12850431),
    "dreamer-v3-size200m-vectors": (2127872, 92338176, 12613656, 10749183, 10488833, 12601356, 12850431),
    "dreamer-v3-size400m-atari100k": (7850496, 214791168, 45617283, 23987967, 23597569, 28329990, 28712703),
    "dreamer-v3-size400m": (7850496, 214791168, 45617283, 23987967, 23597569, 28339212, 28712703),
    "dreamer-v3-size400m-vectors": (4764672, 207713280, 28357656, 23987967, 23597569, 28339212, 28712703),
}
PIXELS = {  # parts of the official agents with 4 actions: iris-keys.md, diamond-keys.md
    "iris-atari": {"encoder decoder": 4027523, "dynamics heads": 8447493, "network": 3217957},
    "diamond-atari": {"dynamics heads": 4405955 + 5900864, "network": 3229637},
}
CARTPOLE = {  # 5 numbers, 1 action
    "dreamer-v3-size1m-vectors": (8896, 364096, 49861, 57663, 41153, 49666, 66111),
    "dreamer-v3-size12m-vectors": (133888, 5781760, 789253, 721407, 656129, 788482, 853503),
    "dreamer-v3-size200m-vectors": (2108416, 92333056, 12594181, 10749183, 10488833, 12591106, 12850431),
}


def counts(name, **options):
    with torch.device("meta"):
        agent = create_agent(name, **options)
    parts = (agent.model.encoder, agent.model.dynamics, agent.model.decoder, agent.model.heads["reward"],
             agent.model.heads["terminated"], agent.behavior.actor, agent.behavior.critic)
    found = [sum(p.numel() for p in part.parameters()) for part in parts]
    found[1] += sum(p.numel() for p in agent.model.conditioners.parameters())
    return tuple(found)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_of_dreamer_v3_are_counted_as_upstreams(name):
    assert counts(name) == COUNTS[name]


@pytest.mark.parametrize("name", CARTPOLE)
def test_parameters_for_another_environment(name):
    assert counts(name, action=ActionSpec((-1,), (1,)), obs__vectors__observation=5) == CARTPOLE[name]


@pytest.mark.parametrize("name", [name for name in PIXELS if name in acting_presets()])
def test_parameters_of_actors_on_pictures_are_counted_as_upstreams(name):
    with torch.device("meta"):
        agent = create_agent(name, action=ActionSpec(num_actions=4), frame_shape=(3, 64, 64))
    parts = {**dict(agent.model.named_children()), "network": agent.network}
    for names, count in PIXELS[name].items():
        assert sum(p.numel() for part in names.split() for p in parts[part].parameters()) == count, names


@pytest.mark.parametrize("name", acting_presets())
def test_a_preset_that_acts_is_whole(name):
    spec = wk.get_model_spec(name)
    online, train = OnlineConfig.parse(spec.online), TrainConfig.parse(spec.train)
    draws = spec.agent["name"] == "pixel-actor-critic"  # segments of its own, of other lengths
    assert (draws or online.length < wk.create_config(name).clip_length) and train.batch_size > 0
    assert spec.config["conditioners"]["action"]["name"]


def test_v1_v2_and_planet_differ_where_their_papers_do():
    v1, v2 = wk.create_config("dreamer-v1-dmc"), wk.create_config("dreamer-v2-atari")
    assert v1.dynamics.stochastic == "normal" and v1.dynamics.cell.name == "gru" and v1.objective.kl == "joint"
    assert v2.dynamics.cell.name == "layernorm-gru" and v2.dynamics.unimix == 0
    assert np.isclose(v2.objective.dynamics_scale + v2.objective.representation_scale, 0.1)
    assert set(wk.create_config("dreamer-v2-dmc").heads) == {"reward"}
    assert wk.create_config("dreamer-v2-crafter").heads["terminated"].discount == 0.999
    planet = wk.get_model_spec("planet-dmc")
    assert planet.config["dynamics"]["cell"]["name"] == "planet-gru" and planet.agent["planner"] == "planet-cem"


def test_an_option_of_the_agent_leaves_those_beside_it():
    """A narrower critic begins with the value 0 all the same."""
    with torch.device("meta"):
        agent = create_agent("dreamer-v3-mini", agent__critic__readout__units=32)
    critic = agent.config.critic.readout
    assert (critic.units, critic.layers, critic.outscale) == (32, 3, 0.0)
    assert agent.config.optimizers["all"].lr == create_agent("dreamer-v3-mini").config.optimizers["all"].lr
