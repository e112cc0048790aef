"""A training as a file: ``worldkit train --config FILE.toml``, and the ``config.toml`` that every run folder gets.

::

    preset = "lpwm-mini"          # whose evaluation protocol is used, and where swapped parts get their sizes from
    data = "recordings/"
    [data_options]                # options of the data format
    [model]                       # the model's whole configuration, or what differs from the preset's
    [train]                       # training options; those left out have the defaults of `TrainConfig`
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..config import merge
from ..errors import ConfigError
from ..factory import get_model_spec
from ..files import write_atomically
from ..registry import suggestion

SETTINGS_FILE = "config.toml"
_KEYS = {"preset": str, "data": str, "data_options": dict, "model": dict, "train": dict}


@dataclass(frozen=True)
class Settings:
    """What a training starts from; options given besides come on top.

    Attributes:
        preset: Name of a model.
        data: What `worldkit.data.open_dataset` recognises; None if it is given elsewhere.
        model: The model's configuration as a nested dict.
        train: Options of `TrainConfig`.
        data_options: Options of the data format.
    """

    preset: str
    data: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    data_options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of_preset(cls, preset: str) -> Settings:
        """The preset's model and training defaults."""
        spec = get_model_spec(preset)
        return cls(preset, model=spec.config, train=spec.train)

    @classmethod
    def read(cls, path: str | Path, preset: str | None = None) -> Settings:
        """Read a file; ``preset``: of a file that names none.

        Raises:
            ConfigError: no such file, no TOML, an unknown key, or no preset.
        """
        try:
            table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"--config {path} cannot be read: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"--config {path} is no TOML file: {error}") from error
        for key, value in table.items():
            if key not in _KEYS:
                hint = suggestion(key, list(_KEYS))
                raise ConfigError(f"{path}: unknown key '{key}'.{hint} Keys: {', '.join(_KEYS)}")
            if not isinstance(value, _KEYS[key]):
                kind = "a table" if _KEYS[key] is dict else "a text"
                raise ConfigError(f"{path}: {key} must be {kind}, got {value!r}")
        if preset is not None:
            table.setdefault("preset", preset)
        if "preset" not in table:
            raise ConfigError(f'{path} names no preset: add a line like preset = "lpwm-mini"')
        if "encoder" not in table.get("model", {}):  # what differs from the preset
            table["model"] = merge(get_model_spec(table["preset"]).config, table.get("model", {}))
        return cls(**table)

    @classmethod
    def of_run(cls, facts: Mapping[str, Any], model: Mapping[str, Any], train: Mapping[str, Any]) -> Settings:
        """What a run has come to: its facts, its model's configuration, its training options."""
        options = {name.removeprefix("data."): value for name, value in facts.items() if name.startswith("data.")}
        return cls(facts["preset"], facts["data"], model, train, options)

    def write(self, path: Path) -> None:
        """Write a file that `read` gives back."""
        table = {"preset": self.preset, "data": self.data, "data_options": self.data_options, "model": self.model,
                 "train": self.train}
        text = "\n".join([f"# worldkit train --config {path.name}", *_lines(table), ""])
        write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _lines(table: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """TOML of a nested dict: plain values first, then tables. What is None is left out, as TOML has no such value."""
    for key, value in table.items():
        if value is not None and not isinstance(value, Mapping):
            yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            inner = f"{path}.{_key(key)}" if path else _key(key)
            yield f"\n[{inner}]"
            yield from _lines(value, inner)


def _key(key: str) -> str:
    return key if key.replace("_", "").replace("-", "").isalnum() and key.isascii() else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # strings, whole numbers, true and false
