"""DIAMOND's model as an environment for its actor-critic: steps, ends, and rows that begin anew; in float64."""

import pytest
import torch

from worldkit.agents.pixel_actor_critic import LastingDreams, NetworkConfig, PixelNetwork
from worldkit.assembly import build
from worldkit.batch import Batch
from worldkit.config import WorldModelConfig
from worldkit.convert.diamond import denoiser_views, fill, outcomes_views

from .diamond import D, arrays, blocks, close, config_of, folders, outcomes_of, sampling_of, weights
from .pixels import MISSING, Recorded, numbered

DREAMS = folders("horizon", "rew_end_model", "steps")
pytestmark = pytest.mark.skipif(not DREAMS, reason=MISSING)
HEAD = {"name": "categorical", "readout": {"layers": 0, "bias": False}}


def model_of(folder, side):
    config = config_of(folder)
    inner = config["denoiser"]["inner"]
    model = build(WorldModelConfig.parse({
        "obs": {"height": side, "width": side}, "encoder": "identity", "decoder": "identity",
        "timestep_horizon": inner["num_steps_conditioning"],
        "dynamics": {"name": "unet-diffusion", **blocks(inner), "dim": inner["cond_channels"], "before": "action-0",
                     "noise": {"offset": config["denoiser"]["sigma_offset_noise"],
                               "data": config["denoiser"]["sigma_data"]},
                     "outcomes": outcomes_of(config["rew_end_model"]).to_dict()},
        "conditioners": {"action": {"name": "raw-action", "num_actions": config["num_actions"]}},
        "heads": {"reward": HEAD, "terminated": {**HEAD, "values": [0, 1]}}, "objective": "denoising"})).to(D).eval()
    fill(denoiser_views(model.dynamics.denoiser), weights(folder / "param_order_denoiser.json"), where=folder.name)
    fill(outcomes_views(model.dynamics.outcomes, model.heads), weights(folder / "param_order_rew_end_model.json"),
         where=folder.name)
    model.dynamics.sampling = sampling_of(config["sampler"])
    return model


class Pool:
    """Beginnings in order; when fewer are left than are needed, they begin anew."""

    def __init__(self, given):
        self.video = given["obs_u8"].flatten(0, 1).to(D) / 255
        self.action, self.next = given["act"].flatten(0, 1).long(), 0

    def __call__(self, count):
        if self.next + count > len(self.video):
            self.next = 0
        taken = slice(self.next, self.next + count)
        self.next += count
        return Batch(self.video[taken], {"action": self.action[taken]})


@torch.no_grad()
@pytest.mark.parametrize("folder", DREAMS, ids=lambda f: f.name)
def test_an_environment_of_dreams(folder):
    given, wanted, config = arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz"), config_of(folder)
    model, context = model_of(folder, given["obs_u8"].shape[-1]), given["act"].shape[-1]
    network = PixelNetwork(NetworkConfig(channels=(4,), memory=4), frame_shape=tuple(given["obs_u8"].shape[-3:]),
                           num_actions=config["num_actions"]).to(D)
    dreams, starts = LastingDreams(model, network, context=context, length=config["horizon"]), Pool(given)
    sampler = Recorded(numbered(given, "u_"), numbered(given, "eps_"))

    def state():
        held, _ = dreams._dream.settled()
        model.dynamics._read(held)
        return held.state[0]

    count = given["policy_act"].shape[1]
    close(2 * dreams.begin(starts(count), sampler) - 1, wanted["reset_obs"], "first pictures")
    close(state(), wanted["reset_hx"], "first state")
    for t, action in enumerate(given["policy_act"].long()):
        shown, reward, ended, cut = dreams.step(action)
        for name, x in (("rew", reward), ("end", ended), ("trunc", cut)):
            close(x.to(D), wanted[f"step{t}_{name}"].to(D), f"step {t}, {name}")
        rows = torch.nonzero((ended > 0) | cut)[:, 0]
        assert len(rows) == len(wanted.get(f"step{t}_final_observation", ()))
        if len(rows):
            close(2 * shown[rows] - 1, wanted[f"step{t}_final_observation"], f"step {t}, last pictures")
            seen = dreams.restart(rows, starts(len(rows)))
            close(2 * seen[:, :-1] - 1, wanted[f"step{t}_burnin_obs"], f"step {t}, frames before")
            shown = shown.index_copy(0, rows, seen[:, -1])
        close(2 * shown - 1, wanted[f"step{t}_obs"], f"step {t}, pictures")
        close(state(), wanted[f"step{t}_hx"], f"step {t}, state")
    actions = dreams._dream.settled()[0].actions.argmax(-1)  # of the transitions between the frames that it sees
    assert (actions == wanted["act_buffer"][:, : actions.shape[1]]).all()
