"""Official weights of whole state-space models into ours, and the samples that were drawn with them."""

import torch
import torch.nn.functional as F
from torch import nn

from worldkit.conditioners.transition_action import TransitionActionConditioner, TransitionActionConfig
from worldkit.config import ObsSpec
from worldkit.distributions import Sampler
from worldkit.dynamics.rssm import RSSM, RSSMConfig
from worldkit.encoders.conv import embedding_spec

from .dreamer_cells import load_cell

V1 = {"stochastic": "normal", "link": "softplus", "prior_layers": 1, "norm": "none", "activation": "elu",
      "init": "glorot"}
GENERATIONS = {  # a weight that only this one has -> options
    "transition/in/kernel": {**V1, "activation": "relu", "cell": {"name": "planet-gru"}},
    "img1/kernel": {**V1, "cell": {"name": "gru"}},
    "img_in/kernel": {**V1, "link": "sigmoid", "unimix": 0.0, "cell": {"name": "layernorm-gru"}},
    "dyn/dynin0/kernel": {"cell": {"name": "block-gru"}},
}
PLAIN = {"bound": False, "bias": False, "norm": "none", "activation": "none"}
"""The action's rows of an input layer that sees the state as well."""
NAMES = {  # layers before the last one of prior and posterior, then the last ones (two where mean and deviation part)
    "transition/in/kernel": (["transition/hid"], ["transition/mean", "transition/std"], ["posterior/hid"],
                             ["posterior/mean", "posterior/std"]),
    "img1/kernel": (["img2"], ["img3"], ["obs1"], ["obs2"]),
    "img_in/kernel": (["img_out_0"], ["img_dist_0"], ["obs_out"], ["obs_dist"]),
    "dyn/dynin0/kernel": (["dyn/prior{}"], ["dyn/priorlogit"], ["dyn/obs{}"], ["dyn/obslogit"]),
}


def generation(w):
    return next((key for key in GENERATIONS if key in w), None)


def make_rssm(w, *, classes, seen, **options):
    """RSSM and action conditioner, in float64, with stored weights ``w``.

    Args:
        w: Official name -> tensor.
        classes: Of a categorical draw; 0: Gaussian.
        seen: Width of the frames' embedding.
        **options: Of the RSSM, where they cannot be told from the weights.
    """
    key = generation(w)
    v3 = key.startswith("dyn/")
    hidden = w[key].shape[-1]
    recurrent = {"transition/in/kernel": "gru/candidate/bias", "img1/kernel": "gru/recurrent_kernel",
                 "dyn/dynin0/kernel": "dyn/dynin0/kernel"}
    dim = len(w["gru/norm/gamma"]) // 3 if key == "img_in/kernel" else len(w[recurrent[key]])
    prior, last, posterior, seen_last = NAMES[key]
    outputs = sum(w[f"{name}/kernel"].shape[-1] for name in last)
    drawn = outputs if classes else outputs // 2
    given = dict(GENERATIONS[key])
    given["cell"] = {**given["cell"], "hidden": hidden}
    if v3:
        given["cell"] |= {"blocks": len(w["dyn/dyngru/kernel"]), "layers": _count(w, "dyn/dynhid{}")}
        given |= {"prior_layers": _count(w, "dyn/prior{}"), "posterior_layers": _count(w, "dyn/obs{}")}
    if classes:
        given |= {"stochastic": "categorical", "num_classes": classes, "num_variables": drawn // classes}
    else:
        given |= {"num_variables": drawn}
    normed = any("img_out_norm" in name for name in w)
    if normed:
        given |= {"norm": "layer", "norm_eps": 1e-3}
        given["cell"] |= {"norm": "layer"}
    config = RSSMConfig.parse({"name": "rssm", "deterministic_dim": dim, "hidden_dim": hidden, **given, **options})
    rssm = RSSM(config, spec=embedding_spec(seen), anchors={}, window=8).double()
    width = len(w["dyn/dynin2/kernel"]) if v3 else len(w[key]) - drawn
    told = TransitionActionConfig(dim=width, **({} if v3 else PLAIN))
    action = TransitionActionConditioner(told, dim=hidden, obs=ObsSpec(height=8, width=8)).double()
    with torch.no_grad():
        load_cell(rssm.cell, w, drawn)
        _load(rssm.before, w, prior, last)
        _load(rssm.after, w, posterior, seen_last)
        action.linear.weight.copy_((w["dyn/dynin2/kernel"] if v3 else w[key][drawn:]).T)
        if v3:
            action.linear.bias.copy_(w["dyn/dynin2/bias"])
            action.norm.scale.copy_(w["dyn/dynin2norm/scale"])
    return rssm, action


def _count(w, name):
    """Layers of this name."""
    return next(index for index in range(99) if f"{name.format(index)}/kernel" not in w)


def _load(part, w, layers, last):
    for index, layer in enumerate(part.layers):
        name = layers[0].format(index)
        layer.linear.weight.copy_(w[f"{name}/kernel"].T)
        layer.linear.bias.copy_(w[f"{name}/bias"])
        if not isinstance(layer.norm, nn.Identity):
            if f"{name}norm/scale" in w:
                layer.norm.scale.copy_(w[f"{name}norm/scale"])
            else:
                norm = {"img_out_0": "img_out_norm_0", "obs_out": "obs_out_norm"}[name]
                layer.norm.weight.copy_(w[f"{norm}/gamma"])
                layer.norm.bias.copy_(w[f"{norm}/beta"])
    part.out.weight.copy_(torch.cat([w[f"{name}/kernel"].T for name in last]))
    part.out.bias.copy_(torch.cat([w[f"{name}/bias"] for name in last]))


class Tape(Sampler):
    """Draws that were recorded: class numbers ``[..., variables]``, or standard normal numbers.

    Args:
        whole: Of all frames at once, ``[B, T, ...]``.
        steps: Of one frame each, ``[B, ...]``, in order.
        classes: 0: Gaussian.
    """

    def __init__(self, whole=None, steps=(), classes=0):
        super().__init__()
        self.whole, self.steps, self.classes = whole, list(steps), classes

    def normal(self, name, mean, logvar):
        drawn = self.whole[:, :, None] if mean.shape[1] > 1 or not self.steps else self.steps.pop(0)[:, None, None]
        return mean + drawn.to(mean.dtype) * torch.exp(0.5 * logvar)

    def gumbel(self, name, like):
        drawn = F.one_hot(self.whole.long(), self.classes).flatten(2)[:, :, None]
        return 50 * drawn.to(like.dtype).expand_as(like)

    def categorical(self, name, logits):
        return self.steps.pop(0).long()[:, None, None].expand(logits.shape[:-1])
