"""Dictionary observations: from the environment to data sets, to models, and to what an agent does."""

from functools import partial

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldkit as wk
from worldkit.agents import Acting, RandomPolicy, create_agent, load_agent
from worldkit.agents.acting import check_fits, frame_shape_of, observed_in, perceived, vectors_of
from worldkit.agents.actions import ActionSpec
from worldkit.agents.presets import model_for
from worldkit.assembly import build
from worldkit.collecting import collect, play_episode
from worldkit.config import WorldModelConfig
from worldkit.data import open_dataset
from worldkit.envs import make_env
from worldkit.errors import ConfigError, DataError, EnvError
from worldkit.names import VectorColumn
from worldkit.online import OnlineConfig, OnlineTrainer
from worldkit.training.config import TrainConfig

READOUT = {"layers": 1, "units": 8}
CONV = {"depth": 2, "multipliers": (2, 2)}
OBSERVED = {"vectors": {"arm": 2, "robot_hand": 2}, "discrete": {"door": 3}}


class Arm(gymnasium.Env):
    """Counts; the door goes round, starting at 1."""

    observation_space = spaces.Dict({
        "arm": spaces.Box(-9, 9, (2,), np.float64), "door": spaces.Discrete(3, start=1), "task": spaces.Text(9),
        "robot": spaces.Dict({"hand": spaces.Box(-1, 1, (1, 2), np.float32)}),
        "camera": spaces.Box(0, 255, (12, 12, 3), np.uint8),
    })
    action_space, render_mode = spaces.Discrete(2), "rgb_array"

    def __init__(self, bad=None):
        self.bad = bad

    def _seen(self):
        arm = np.array([self.time, self.bad if self.bad is not None and self.time == 2 else -self.time], float)
        return {"arm": arm, "door": 1 + self.time % 3, "robot": {"hand": np.full((1, 2), 0.5, np.float32)},
                "task": "push", "camera": np.zeros((12, 12, 3), np.uint8)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._seen(), {}

    def step(self, action):
        self.time += 1
        return self._seen(), float(action), False, self.time >= 8, {}

    def render(self):
        return np.full((20, 20, 3), 9 * self.time, np.uint8)


def env(size=16, observation="keys", **options):
    return make_env(Arm(**options), size=size, observation=observation)


def model(obs, seed=0, **overrides):
    torch.manual_seed(seed)
    image = bool(obs["height"])
    encoder = {"name": "multi", "image": CONV, "vectors": {"units": 8}} if image else {"name": "mlp", "units": 8}
    decoder = {"name": "multi", "image": {**CONV, "units": 8, "blocks": 2}, "vectors": {"units": 8}} if image else {
        "name": "mlp", "units": 8}
    return build(WorldModelConfig.parse({
        "obs": {**OBSERVED, **obs}, "timestep_horizon": 4, "encoder": encoder, "decoder": decoder,
        "dynamics": {"name": "rssm", "cell": {"name": "block-gru", "blocks": 2, "hidden": 8}, "num_variables": 4,
                     "num_classes": 3, "deterministic_dim": 8, "hidden_dim": 8},
        "conditioners": {"action": {"name": "transition-action", "num_actions": 2}}, "objective": "dreamer",
        "heads": {"reward": {"name": "gaussian", "mean": [0.0], "std": [1.0], "readout": READOUT},
                  "terminated": {"name": "bernoulli", "readout": READOUT}}, **overrides,
    }))


def agent(obs, **overrides):
    return create_agent("actor-critic", action=ActionSpec(num_actions=2), model=model(obs, **overrides), horizon=3,
                        actor={"readout": READOUT}, critic={"readout": READOUT, "num_bins": 5})


PICTURE, ALONE = {"height": 16, "width": 16}, {"height": 0, "width": 0}


@pytest.mark.parametrize("size", [16, 0], ids=["with pictures", "alone"])
def test_every_key_becomes_a_column(tmp_path, size):
    made = env(size)
    assert made.observation_space["door"] == spaces.Discrete(3) and "task" not in made.observation_space.spaces
    assert observed_in(made) == OBSERVED and frame_shape_of(made) == (3, size, size)
    seen, info = made.reset(seed=0)
    assert info["task"] == "push" and seen["robot_hand"].tolist() == [0.5, 0.5] and seen["door"] == 0
    assert made.observation_space.contains(seen) and ("pixels" in seen) == bool(size)
    collect(made, tmp_path / "data", episodes=2, max_steps=5)
    vectors = {"arm": VectorColumn("arm", 2), "door": VectorColumn("door", classes=3)}
    clips = open_dataset(tmp_path / "data", split="all", num_frames=6, height=size, vectors=vectors)
    assert clips[1]["video"].shape == (6, 3, size, size)
    assert clips[1]["vectors"]["arm"][:, 1].tolist() == [0, -1, -2, -3, -4, -5]
    assert clips[1]["vectors"]["door"].tolist() == [0, 1, 2, 0, 1, 2]


def test_all_numbers_in_one_vector():
    made = env(16, "dict")
    assert observed_in(made)["vectors"].keys() == {"observation"}
    found = vectors_of(made.reset(seed=0)[0], {"proprio": VectorColumn("state.observation")})
    assert found["proprio"].ndim == 1 and found["proprio"].dtype == torch.float32


def test_what_is_felt_changes_what_is_done():
    """As in `Policy.act`: vectors beside the frame."""
    one = agent(PICTURE)
    made = env()
    first = made.reset(seed=0)[0]
    later = made.step(1)[0]
    frames, beside = perceived(one, [first, {**later, "pixels": first["pixels"]}])
    assert {name: tuple(x.shape) for name, x in beside["vectors"].items()} == {"arm": (2, 2), "robot_hand": (2, 2),
                                                                              "door": (2,)}
    assert torch.equal(frames[0], frames[1])
    states = one.look(frames, one.start(2), first=torch.ones(2, dtype=bool), sampler=wk.distributions.MEANS, **beside)
    posterior = one.model.perceive(wk.Batch(frames[:, None], vectors={k: x[:, None] for k, x in beside[
        "vectors"].items()}), conditions={"action": torch.zeros(2, 1, dtype=torch.int64)}).posterior
    assert states.shape == (2, 1)
    params = posterior.params["state", "stochastic"]
    assert not torch.equal(params[0], params[1])


@pytest.mark.parametrize("obs, size", [(PICTURE, 16), (ALONE, 0), (ALONE, 16)],
                         ids=["pictures and vectors", "vectors", "vectors of an environment with pictures"])
def test_an_agent_acts_and_learns(tmp_path, obs, size):
    one, make = agent(obs), partial(env, size)
    assert len(play_episode(make(), Acting(one, make()), seed=0)["video"]) == 9
    config = OnlineConfig(steps=24, prefill=12, length=4, train_ratio=4, eval_every=0, eval_episodes=1, save_every=12,
                          film_steps=2 if obs is PICTURE else 0, num_envs=2)
    before = [p.detach().clone() for p in one.model.encoder.vectors.parameters()]
    trainer = OnlineTrainer(one, make, config, TrainConfig(batch_size=2, log_every=5), run=tmp_path / "run",
                            show_progress=False)
    assert trainer.fit().finished
    assert any(not torch.equal(a, b) for a, b in zip(before, one.model.encoder.vectors.parameters(), strict=True))
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert "image" in log if size and obs is PICTURE else "image" not in log
    assert list((tmp_path / "run").glob("figures/*.gif")) or obs is ALONE
    again = load_agent(tmp_path / "run" / "best")
    assert again.wants_vectors == one.wants_vectors


@pytest.mark.parametrize("obs", [PICTURE, ALONE], ids=["pictures and vectors", "vectors"])
def test_a_planner_feels_too(obs):
    made = env(obs["height"])
    told = {"conditioners": {"action": {"name": "transition-action", "num_actions": 2}}}
    planner = create_agent("planner", env=made, model=model(obs, **told), cost="reward", horizon=2,
                           planner_options={"candidates": 4, "iterations": 1, "elites": 2})
    assert len(play_episode(made, Acting(planner, made), seed=0)["action"]) == 9


def test_a_preset_reads_what_the_environment_gives():
    base = model(ALONE).config.to_dict()
    config = model_for(base, ActionSpec(num_actions=2), observed={"vectors": {"legs": 7}, "discrete": {}})
    assert config.obs.widths == {"legs": 7}
    asked = model_for(base, ActionSpec(num_actions=2), {"obs.vectors": {"arm": 2}}, observed={"vectors": {"legs": 7}})
    assert "arm" in asked.obs.widths and "legs" not in asked.obs.widths


def test_errors():
    one = agent(ALONE)
    with pytest.raises(ConfigError, match=r"vector 'arm' \(from 'arm'\), which environment 'Arm.*' does not give; it "
                       "gives: observation.*observation='keys'"):
        check_fits(one, env(16, "dict"))
    with pytest.raises(ConfigError, match="it gives: pixels only"):
        check_fits(one, env(16, "pixels"))
    with pytest.raises(EnvError, match=r"observed arm = \[2.0, nan\], which is not finite"):
        play_episode(env(bad=np.nan), Acting(one, env()), seed=0)
    wide = agent(ALONE | {"vectors": {"arm": 3}, "discrete": {}})
    with pytest.raises(DataError, match="has 2 numbers, and the model reads 3"):
        check_fits(wide, env())
    with pytest.raises(ConfigError, match="size=0 asks for no picture"):
        env(0, "pixels")
    with pytest.raises(ConfigError, match="no state besides its picture"):
        make_env(Seen(), size=0)


class Seen(gymnasium.Env):
    """It shows a picture and nothing else."""

    observation_space, action_space, render_mode = spaces.Box(0, 255, (12, 12, 3), np.uint8), spaces.Discrete(2), None


def test_names_that_data_sets_keep_for_themselves(tmp_path):
    class Told(Arm):
        observation_space = spaces.Dict({"reward": spaces.Box(0, 1, (1,), np.float32)})

    with pytest.raises(ConfigError, match="observes 'reward', under which name data sets keep something else"):
        collect(make_env(Told(), size=16, observation="keys"), tmp_path / "data", episodes=1)


def test_policies_that_want_no_vectors_get_none():
    made = env()
    play_episode(made, Acting(RandomPolicy(ActionSpec.of_space(made.action_space)), made), seed=0)


def test_a_dream_begins_with_what_is_felt():
    """A model as an environment: its first frames have vectors, too."""
    def begun(arm):
        batch = wk.Batch(torch.zeros(3, 2, 3, 16, 16), {"action": torch.zeros(3, 2, dtype=torch.int64)},
                         vectors={"arm": torch.full((3, 2, 2), arm), "robot_hand": torch.zeros(3, 2, 2),
                                  "door": torch.zeros(3, 2, dtype=torch.int64)})
        dream = model(PICTURE).as_env(batch, context_frames=2, horizon=3, observation="latent")
        return dream.reset(seed=0)[0], dream.step(1)[0]

    (here, then), (there, _) = begun(0.0), begun(9.0)
    assert here.shape == then.shape and not np.array_equal(here, there)
