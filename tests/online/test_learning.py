"""The loop as a whole teaches an agent something: a point on a line, told by one number (35 CPU seconds each)."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from worldkit.agents import create_agent
from worldkit.envs import make_env
from worldkit.online import OnlineConfig, OnlineTrainer
from worldkit.training.config import TrainConfig


class Line(gymnasium.Env):
    """Reward is how near the middle one is after a step; 15 steps."""

    action_space, observation_space = spaces.Discrete(3), spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.steps = self.np_random.uniform(-1, 1), 0
        return np.float32([self.x]), {}

    def step(self, action):
        self.x, self.steps = float(np.clip(self.x + (int(action) - 1) / 4, -1, 1)), self.steps + 1
        return np.float32([self.x]), 1 - abs(self.x), False, self.steps == 15, {}


def line():
    return make_env(Line(), size=0)


SMALL = {"encoder": {"units": 32, "layers": 1}, "decoder": {"units": 32, "layers": 1},
         "dynamics": {"deterministic_dim": 64, "hidden_dim": 32, "num_variables": 4, "num_classes": 8,
                      "cell": {"hidden": 32, "blocks": 2}},
         "heads": {name: {"readout": {"units": 32}} for name in ("reward", "terminated")}}
ACTS = {"horizon": 8, "actor": {"readout": {"layers": 1, "units": 32}},
        "critic": {"readout": {"layers": 1, "units": 32}},
        "optimizers": {"all": {"lr": 2e-3, "warmup_steps": 20}}}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"context": True, "queue": True}])
def test_a_dreamer_learns_to_stay_in_the_middle(tmp_path, options):
    with line() as env:
        agent = create_agent("dreamer-v3-size1m-vectors", env=env, agent=ACTS, **SMALL)
    config = OnlineConfig(**{"steps": 2400, "prefill": 480, "num_envs": 4, "length": 12, "train_ratio": 24,
                             "eval_every": 0, "eval_episodes": 30, "film_steps": 0, **options})
    trainer = OnlineTrainer(agent, line, config, TrainConfig(batch_size=16), run=tmp_path / "run",
                            show_progress=False)
    trainer.fit()
    found = trainer.looks.scores[-1]
    assert trainer.looks.random["high"] < found["low"]  # 8.3 [6.7, 9.5] and 11.0 [10.5, 11.4] of about 13
