"""Golden numbers of the official DIAMOND code: where they lie, and how their weights get into our modules."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import torch

from worldkit.distributions import Sampler
from worldkit.nn.denoiser import Denoiser
from worldkit.nn.edm import NoiseConfig, SamplingConfig
from worldkit.nn.outcomes import OutcomesConfig
from worldkit.nn.unet import BlocksConfig

ROOT = Path(os.environ.get("WORLDKIT_PARITY", Path(__file__).parents[2].parent / "shared" / "parity"))
D = torch.float64
MISSING = f"golden files not found at {ROOT / 'diamond'}; set WORLDKIT_PARITY"


def folders(*keys):
    """Folders whose configuration has these entries."""
    found = sorted((ROOT / "diamond").glob("*/config.json"))
    return [f.parent for f in found if all(key in json.loads(f.read_text()) for key in keys)]


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def arrays(path):
    """Tensors of a file, floats in float64."""
    with np.load(path) as stored:
        tensors = {key: torch.from_numpy(stored[key]) for key in stored.files}
    return {key: x.to(D) if x.is_floating_point() else x for key, x in tensors.items()}


def golden(folder):
    """Inputs, recorded tensors, recorded scalars."""
    return (arrays(folder / "inputs.npz"), arrays(folder / "tensors_f64.npz"),
            json.loads((folder / "scalars_f64.json").read_text()))


def weights(path):
    """Official name -> tensor in float64."""
    spec = importlib.util.spec_from_file_location("fixture_weights", ROOT / "fixture_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {key: torch.from_numpy(value).to(D) for key, value in module.load(path).items()}


def close(ours, theirs, what, rtol=1e-9):
    """Relative to the largest number."""
    ours, theirs = torch.as_tensor(ours, dtype=D).detach(), torch.as_tensor(theirs, dtype=D)
    assert ours.shape == theirs.shape, f"{what}: {tuple(ours.shape)} != {tuple(theirs.shape)}"
    error = (ours - theirs).abs().max().item()
    assert error <= rtol * max(1e-3, theirs.abs().max().item()), f"{what}: off by {error:.3g}"


def pictures(u8, mask=None):
    """[-1, 1]; 0 where padded."""
    x = u8.to(D) / 255 * 2 - 1
    return x if mask is None else x * mask.to(D).reshape(*mask.shape, 1, 1, 1)


def blocks(config):
    """Levels of a network, by their official options."""
    return {"channels": tuple(config["channels"]), "depths": tuple(config["depths"]),
            "attention": tuple(bool(a) for a in config["attn_depths"])}


def make_denoiser(config, law, num_actions, **options):
    """Denoiser of an official configuration in float64; an upsampler sees one frame more and no actions."""
    inner, upsampler = config["inner"], bool(config["upsampling_factor"])
    channels, past = inner["img_channels"], inner["num_steps_conditioning"]
    told = {} if upsampler else {"past": past, "action_dim": num_actions}
    return Denoiser(BlocksConfig(**blocks(inner)), channels=channels, given=(past + upsampler) * channels,
                    dim=inner["cond_channels"], noise=noise_of(config, law), **told, **options).to(D).eval()


def noise_of(config, law):
    return NoiseConfig(offset=config["sigma_offset_noise"], data=config["sigma_data"], mean=law["loc"],
                       deviation=law["scale"], low=law["sigma_min"], high=law["sigma_max"])


def sampling_of(options):
    names = {"num_steps_denoising": "steps", "sigma_min": "low", "sigma_max": "high", "rho": "rho", "order": "order",
             "s_churn": "churn", "s_tmin": "churn_low", "s_tmax": "churn_high", "s_noise": "churn_noise",
             "s_cond": "past_noise"}
    return SamplingConfig(**{names[key]: value for key, value in options.items()})


def outcomes_of(config):
    return OutcomesConfig(**blocks(config), dim=config["cond_channels"], width=config["lstm_dim"])


class Tape(Sampler):
    """Recorded numbers in the order of their use, standard normal ones and uniform ones."""

    def __init__(self, tensors, prefix, skip=()):
        super().__init__()
        self.normals = [tensors[k] for k in sorted(tensors) if k.startswith(f"{prefix}eps_")]
        self.uniforms = [tensors[k] for k in sorted(tensors) if k.startswith(f"{prefix}u_")]
        self.normals = [x for i, x in enumerate(self.normals) if i not in skip]

    def normal(self, name, mean, logvar):
        eps = self.normals.pop(0)
        assert eps.shape == mean.shape, f"{name} asks for {tuple(mean.shape)}, recorded were {tuple(eps.shape)}"
        return mean + eps * torch.exp(0.5 * logvar)

    def uniform(self, name, like):
        return self.uniforms.pop(0).reshape(like.shape)
