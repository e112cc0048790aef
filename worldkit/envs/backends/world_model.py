"""Backend ``world-model``: trained models as environments, by the name of a preset with weights, or by their folder.

``make_env("world-model/lpwm-push-mini", horizon=20)`` is `worldkit.envs.as_env` of that model, on the data that it was
trained on; of a folder, ``make_env("runs/push/best", backend="world-model", data="push-32")``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from ...errors import ConfigError
from ..imagination import as_env
from ..registry import unknown_env

_PREFIX = "world-model/"


def ids() -> list[str]:
    """Presets that bring weights, and have a dynamics."""
    from ...factory import create_config, get_model_spec, list_models

    names = [name for name in list_models(pretrained=True) if not str(get_model_spec(name).weights).startswith("hub:")]
    return [_PREFIX + name for name in names if create_config(name).dynamics is not None]


def make(env_id: str, *, data: Any = None, **options: Any) -> gymnasium.Env:
    """A model as an environment.

    Args:
        env_id: ``"world-model/NAME"`` of a preset with weights; ``"world-model/FOLDER"`` or the folder itself, or
            ``"hub:..."``.
        data: Where episodes begin; default: what the weights of a preset were trained on.
        **options: Of `worldkit.envs.as_env`, such as ``horizon`` and ``context_frames``.
    Raises:
        UnknownComponentError: for a name that is neither a preset with weights nor a folder.
        ConfigError: if ``data`` must be said.
    """
    name = env_id.removeprefix(_PREFIX)
    known = ids()
    if _PREFIX + name in known:
        from ...factory import create_model, get_model_spec
        from ...presets.shipped import facts_of

        return as_env(create_model(name, pretrained=True),
                      facts_of(get_model_spec(name))["data"] if data is None else data, **options)
    if not (name.startswith(("hub:", "dir:")) or Path(name).exists()):
        raise unknown_env(env_id, known, "world-model", "; or name the folder of a model")
    from ...storage.folders import read_facts
    from ...storage.hub import load_folder, locate

    folder = locate(name)
    if data is None:
        trained = read_facts(folder).get("data")
        raise ConfigError(f"environment '{env_id}' begins episodes with frames of data: say which, data=PATH (-o "
                          "data=PATH)" + (f". It was trained on {trained}" if trained else ""))
    return as_env(load_folder(folder), data, **options)
