"""Keys of DDLP's dynamics (PINT) in official state dicts -> parameters of `pint-joint`.

Upstream's "x" is the first coordinate, the vertical one; its heads for x and y give (mean, log-variance) each, ours
gives both means first. Query, key and value projections are one matrix here.

Source: github.com/taldatech/ddlp @ 5686275.
"""

from __future__ import annotations

import re

from torch import Tensor, nn

from .state import Target

TRANSFORMER = (
    (r"^blocks\.(\d+)\.ln([12])\.", r"blocks.\1.norm\2."),
    (r"^blocks\.(\d+)\.attn\.query\.weight$", r"blocks.\1.attention.qkv.weight@0/3"),
    (r"^blocks\.(\d+)\.attn\.key\.weight$", r"blocks.\1.attention.qkv.weight@1/3"),
    (r"^blocks\.(\d+)\.attn\.value\.weight$", r"blocks.\1.attention.qkv.weight@2/3"),
    (r"^blocks\.(\d+)\.attn\.proj\.", r"blocks.\1.attention.proj."),
    (r"^blocks\.(\d+)\.attn\.rel_pos_bias\.rel_pos_bias$", r"blocks.\1.bias.time"),
    (r"^blocks\.(\d+)\.attn\.rel_pos_bias\.particle_rel_pos_bias$", r"blocks.\1.bias.token"),
    (r"^blocks\.(\d+)\.mlp\.fc_1\.", r"blocks.\1.feed_forward.0."),
    (r"^blocks\.(\d+)\.mlp\.proj\.", r"blocks.\1.feed_forward.2."),
    (r"^ln_f\.", "norm."),
    (r"^head\.weight$", "head.weight"),
)
"""Keys of upstream's particle transformer -> those of a `JointTransformer`; ``@i/n``: its i-th of n equal parts."""

_FIELDS = {"scale": "scale", "obj_on": "transparency", "depth": "depth", "features": "features"}

_DYNAMICS = (
    (r"^particle_projection\.xy_projection\.", "inputs.particles.project.position."),
    *((rf"^particle_projection\.{theirs}_projection\.", f"inputs.particles.project.{ours}.")
      for theirs, ours in _FIELDS.items()),
    (r"^particle_projection\.particle_projection\.", "inputs.particles.join."),
    (r"^particle_projection\.bg_features_projection\.", "inputs.background.project.features."),
    (r"^particle_decoder\.backbone\.", "backbone."),
    (r"^particle_decoder\.x_head\.(weight|bias)$", r"heads.particles.position.\1@0::2"),
    (r"^particle_decoder\.y_head\.(weight|bias)$", r"heads.particles.position.\1@1::2"),
    (r"^particle_decoder\.scale_xy_head\.", "heads.particles.scale."),
    *((rf"^particle_decoder\.{theirs}_head\.", f"heads.particles.{ours}.")
      for theirs, ours in _FIELDS.items() if theirs != "scale"),
    (r"^particle_decoder\.bg_features_head\.", "heads.background.features."),
)

MASK = re.compile(r"(^|\.)particle_transformer\.blocks\.\d+\.attn\.mask$")
"""The causal mask, which upstream keeps with the weights."""


def renamed(key: str, rules: tuple[tuple[str, str], ...]) -> str | None:
    """The key after the first rule that matches; None if there is none.

    Example:
        >>> renamed("blocks.3.attn.key.weight", TRANSFORMER)
        'blocks.3.attention.qkv.weight@1/3'
    """
    for pattern, replacement in rules:
        if re.search(pattern, key):
            return re.sub(pattern, replacement, key)
    return None


def parameter_of(model: nn.Module, name: str | None) -> Target | None:
    """The parameter with a name as `renamed` gives it, if the model has it.

    Args:
        model: Has the parameters.
        name: Its name; behind an ``@`` what part: ``i/n``, the i-th of n equal parts, or ``first::step``, some rows.
    """
    if name is None:
        return None
    name, _, part = name.partition("@")
    try:
        parameter = model.get_parameter(name)
    except AttributeError:
        return None
    return Target(name, _rows(part, parameter))


def _rows(part: str, parameter: Tensor) -> slice | None:
    if not part:
        return None
    if "::" in part:
        first, step = map(int, part.split("::"))
        return slice(first, None, step)
    index, count = map(int, part.split("/"))
    size = parameter.shape[0] // count
    return slice(index * size, (index + 1) * size)


def dynamics_name(key: str) -> str | None:
    """Our name behind a key that stood under ``dyn_module.``, with its part; None if there is no such key.

    Example:
        >>> dynamics_name("particle_decoder.y_head.bias")
        'dynamics.heads.particles.position.bias@1::2'
    """
    if (rest := key.removeprefix("particle_transformer.")) != key:
        inner = renamed(rest, TRANSFORMER)
        return None if inner is None else f"dynamics.transformer.{inner}"
    name = renamed(key, _DYNAMICS)
    return None if name is None else f"dynamics.{name}"
