"""An agent that learns in milliseconds: it stands for every agent that is trained by acting."""

from functools import partial

import pytest
import torch
from torch import nn

import worldkit as wk
from worldkit.agents import Agent, Learner, create_agent, register_agent
from worldkit.agents.base import agents
from worldkit.config import ComponentConfig
from worldkit.envs import make_env


class StubConfig(ComponentConfig):
    name: str = "stub"
    explode: int = 0


class Stub(Agent):
    """Colours -> action, noisy; it counts the frames of an episode and remembers its last choice."""

    Config = StubConfig
    needs_model = trains_model = True

    def __init__(self, config, **wiring):
        super().__init__(config, **wiring)
        self.decide = nn.Linear(self.frame_shape[0] + 1, self.action.width)

    def start(self, batch_size, *, goal=None):
        return {"age": torch.zeros(batch_size), "last": (torch.zeros(batch_size, self.action.width), "text")}

    @torch.no_grad()
    def act(self, frame, carry, *, first, sampler):
        self.check_frame(frame)
        age = torch.where(first, torch.zeros_like(carry["age"]), carry["age"] + 1)
        last = torch.where(first[:, None], torch.zeros_like(carry["last"][0]), carry["last"][0])
        scores = self.decide(torch.cat([frame.float().mean((2, 3)) / 255, age[:, None] / 100], 1)) + 0.1 * last
        if self.action.discrete:
            action = sampler.categorical("action", scores)
        else:
            noise = sampler.normal("action", torch.zeros_like(scores), torch.ones_like(scores))
            action = self.action.unscaled(torch.tanh(scores) + 0.1 * noise)
        return action, {"age": age, "last": (scores, "text")}

    def learner(self, config):
        return StubLearner(self)


class StubLearner(Learner):
    def __init__(self, agent):
        self.agent, self.updates = agent, 0
        self.parameters = [*agent.parameters(), *agent.model.encoder.parameters()]
        self.optimizer = torch.optim.Adam(agent.parameters(), lr=0.01)

    def update(self, batch, sampler, *, carry=None):
        assert batch.first.dtype == torch.bool and batch.targets["reward"].shape == batch.first.shape
        colours = batch.video.float().mean((3, 4)) / 255
        seen = self.agent.decide(torch.cat([colours, batch.first[..., None].float()], -1))
        noise = sampler.normal("noise", torch.zeros_like(seen), torch.ones_like(seen))
        loss = ((seen - batch.targets["reward"][..., None] + noise) ** 2).mean()
        if self.agent.config.explode and self.updates + 1 >= self.agent.config.explode:
            raise wk.TrainingError("the loss became nan")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.updates += 1
        return {"loss": loss.detach(), "entropy": torch.tensor(1.0)}

    def state_dict(self):
        return {"optimizer": self.optimizer.state_dict(), "updates": self.updates}

    def load_state_dict(self, state):
        self.optimizer.load_state_dict(state["optimizer"])
        self.updates = state["updates"]


if "stub" not in agents:
    register_agent("stub", Stub)


def small_model(action):
    """A world model of a few thousand parameters that is told actions and predicts rewards."""
    from worldkit.testing.examples import small_config

    told = {"num_actions": action.num_actions} if action.discrete else {"dim": action.width}
    config = small_config().replace("conditioners", {"action": {"name": "action", **told}})
    return wk.create_model(config=config)


@pytest.fixture(scope="session")
def stub_agent():
    """stub_agent(make, **options) -> the agent, for the environment that ``make()`` makes."""

    def new(make, **options):
        from worldkit.agents import ActionSpec

        with make() as env:
            model = small_model(ActionSpec.of_space(env.action_space))
            return create_agent("stub", env=env, model=model, **options)

    return new


@pytest.fixture
def catch():
    """Makes a game of 32 pixels."""
    return partial(make_env, "games/catch", size=32)
