"""A room with a dot that goes where its actions say, and tiny models of it."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import worldkit as wk

SIDE = 32


class Dot(gymnasium.Env):
    """A dot on a board from -1 to 1; an action is a step of up to 0.4."""

    metadata = {"render_modes": ["rgb_array"]}
    draw_size = (SIDE, SIDE)
    render_mode = "rgb_array"

    def __init__(self, discrete=False, blind=False):
        self.discrete = discrete
        self.action_space = spaces.Discrete(4) if discrete else spaces.Box(-1, 1, (2,), np.float32)
        self.observation_space = spaces.Box(-1, 1, (2,), np.float32)
        if blind:
            self.render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.8, 0.8, 2)
        self.turn = self.np_random.uniform(-1, 1, 2)
        return self.place.astype(np.float32), {}

    def step(self, action):
        way = np.array([[0, 1], [0, -1], [1, 0], [-1, 0]][action]) if self.discrete else np.asarray(action)
        self.place = np.clip(self.place + 0.4 * way, -1, 1)
        near = float(np.linalg.norm(self.place))
        return self.place.astype(np.float32), -near, False, False, {"is_success": near < 0.2, "distance": near}

    def draw(self, height, width):
        y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij")
        lit = np.hypot(y - self.place[0], x - self.place[1]) < 0.3
        return np.repeat((255 * lit)[..., None], 3, -1).astype(np.uint8)

    def render(self):
        return self.draw(SIDE, SIDE)

    def draw_goal(self, height, width):
        before, self.place = self.place, np.zeros(2)
        picture = self.draw(height, width)
        self.place = before
        return picture

    def goal_measures(self, goal):
        distance = float(np.linalg.norm(self.place - goal))
        return {"distance": distance, "success": distance < 0.15}

    def scripted_action(self):
        self.turn = np.clip(self.turn + self.np_random.normal(0, 0.3, 2), -1, 1)
        return int(np.argmax(np.abs(self.turn))) if self.discrete else self.turn.astype(np.float32)


@pytest.fixture
def make_dot():
    return lambda **options: wk.make_env(Dot(**options), size=SIDE)


@pytest.fixture(scope="session")
def dot_data(tmp_path_factory):
    """Scripted episodes of the dot."""
    from worldkit.collecting import collect

    folder = tmp_path_factory.mktemp("dot") / "data"
    env = wk.make_env(Dot(), size=SIDE)
    collect(env, folder, policy="scripted", episodes=24, max_steps=20)
    return str(folder)


@pytest.fixture(scope="session")
def dot_model():
    """A goal-conditioned model with latent actions, untrained."""
    from worldkit.assembly import build
    from worldkit.testing.examples import small_config

    torch.manual_seed(0)
    model = build(small_config(conditioners={"goal_image": {"name": "goal-image"}})).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # conditions begin with weights of zero
            parameter += 0.05 * torch.randn_like(parameter)
    return model
