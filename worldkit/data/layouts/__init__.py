"""The layouts of the official LPWM and DDLP loaders, read as they are: one module per family.

`register_layouts` adds them to the formats of `open_dataset`. What arrives, and where it differs from upstream, is told
in each module.

Source: github.com/taldatech/lpwm, ``datasets/*_ds.py`` @ 4cf53c4, and github.com/taldatech/ddlp, likewise @ 5686275,
written from their description.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ..base import EpisodeSource
from ..registry import register_format
from .bair import is_bair, is_bair64, open_bair, open_bair64
from .images import is_called, is_obj3d, open_clevrer, open_mario, open_obj3d, open_phyre
from .language import is_bridge, is_langtable, open_bridge, open_langtable
from .ogbench import is_ogbench, open_ogbench
from .panda import is_panda, open_panda
from .sketchy import is_sketchy, open_sketchy
from .source import LayoutSource
from .traffic import is_traffic, open_traffic

_LAYOUTS = {
    "sketchy": (is_sketchy, open_sketchy, "Sketchy as LPWM lays it out: train/demos, train/rollouts"),
    "bridge": (is_bridge, open_bridge, "Bridge as LPWM lays it out: train/EPISODE/instruction.pt with T5 embeddings"),
    "langtable": (is_langtable, open_langtable, "LanguageTable as LPWM lays it out: train/EPISODE/instruction.pt"),
    "bair": (is_bair, open_bair, "BAIR as LPWM lays it out: train/NUMBER/actions.pkl"),
    "bair64": (is_bair64, open_bair64, "BAIR at 64 px as LPWM lays it out: train/traj_X_to_Y/NUMBER"),
    "panda": (is_panda, open_panda, "PandaPush as LPWM lays it out: 1C/view1, 1C/view2, ..."),
    "ogbench": (is_ogbench, open_ogbench, "OGBench as LPWM lays it out: cube/train, scene/train"),
    "mario": (is_called("mario"), open_mario, "Mario as LPWM lays it out, in a folder of that name: train/0/0.png"),
    "obj3d": (is_obj3d, open_obj3d, "OBJ3D as LPWM and DDLP lay it out: train/0/test_0.png"),
    "clevrer": (is_called("clevrer"), open_clevrer,
                "CLEVRER as DDLP lays it out, in a folder of that name: train/0/0.png"),
    "phyre": (is_called("phyre"), open_phyre,
              "PHYRE as LPWM and DDLP lay it out, in a folder of that name: train/0/0.png; colours inverted"),
    "traffic": (is_traffic, open_traffic, "an .npy file of frames, uint8 [N, H, W, 3], one recording"),
}


def register_layouts() -> None:
    """Add all layouts to the registry of formats."""
    for name, (matches, opener, description) in _LAYOUTS.items():
        register_format(name, matches=matches, opener=opener, description=description, peek=partial(_peek, opener))


def _peek(opener: Callable[..., EpisodeSource], target: str, **options: Any) -> EpisodeSource:
    """A source that decodes what is read, and keeps nothing."""
    source = opener(target, **options)
    if isinstance(source, LayoutSource):
        source.peek = True
    return source
