"""Saving, loading and finding models.

A model folder holds ``config.json`` (the full configuration, and who provided each component), ``model.safetensors``
and a ``README.md``. Nothing in it can run code: configs name registered components only, weights are safetensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from .. import __version__
from .. import registry as registries
from ..assembly import build
from ..component import attribute_name
from ..config import WorldModelConfig, differences
from ..errors import CheckpointError, ConfigError
from ..operators.specification import OperatorSpec
from ..registry import Registry, plugin_errors, plugins_enabled
from .folders import CONFIG_FILE, FACTS_FILE, WEIGHTS_FILE, check_target, find_model, write_folder, writing_model
from .model_card import model_card
from .trust import check_built, check_numbers
from .weights import put, read_weights, stored_shapes, write_weights

if TYPE_CHECKING:
    from ..model import ComposedWorldModel, WorldModel

OBJECTIVE = "objective."
"""What the names of tensors that an objective holds begin with; a shared model leaves them out."""


def save_pretrained(model: WorldModel, folder: str | Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Write a model folder; see the module's docstring.

    Args:
        model: Any model.
        folder: Where to write: a new folder, or an earlier model folder, which is replaced in one step.
        facts: What the model card and ``train.json`` should say about training.
    Returns:
        The folder.
    Raises:
        CheckpointError: ``folder`` exists and holds something that is not of a model, or cannot be written.
    """
    with writing_model(folder):
        write_folder(check_target(folder), lambda new: write_model(model, new, facts=facts))
    return Path(folder)


def write_model(
    model: WorldModel, folder: Path, *, facts: Mapping[str, Any] | None = None, weights: Path | None = None,
    whole: bool = True,
) -> None:
    """Put a model's files into an existing folder.

    Args:
        model: Any model.
        folder: Where to.
        facts: See `save_pretrained`.
        weights: Copy this file, which the model was loaded from.
        whole: With what the objective holds (teachers, predictors), which training alone needs; without it nothing is
            lost that the model is used for.
    """
    config = {"worldkit_version": __version__, "providers": _providers(model.config), "config": model.config.to_dict()}
    if model.operator is not None:
        config["operator"] = model.operator.to_dict()
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    state = model.state_dict()
    kept = state if whole else {name: x for name, x in state.items() if not name.startswith(OBJECTIVE)}
    if weights is not None and len(kept) == len(state):
        shutil.copyfile(weights, folder / WEIGHTS_FILE)
    else:
        about = {"format": "pt", "worldkit_version": __version__}
        write_weights(kept, folder / WEIGHTS_FILE, metadata=about)
    (folder / "README.md").write_text(model_card(model, facts), encoding="utf-8")
    if facts:
        (folder / FACTS_FILE).write_text(json.dumps(facts, indent=2, default=str) + "\n", encoding="utf-8")


def _providers(config: WorldModelConfig) -> dict[str, str]:
    """Component -> who provides it, distribution and version: ``{"encoder": "worldkit 0.1.0", ...}``."""
    return {path: _provider(registry, name) for path, registry, name in components(config.to_dict())}


def _provider(registry: Registry, name: str) -> str:
    provider = registry.entry(name).provider
    return f"worldkit {__version__}" if provider == "worldkit" else provider


def components(config: Mapping[str, Any]) -> Iterator[tuple[str, Registry, str]]:
    """Path, registry and name of every component of a config given as a nested dict, damaged ones left out."""
    parts = [(kind, registry, config.get(kind)) for kind, registry in WorldModelConfig.COMPONENTS.items()]
    for key, registry in (("conditioners", registries.conditioners), ("heads", registries.heads)):
        if isinstance(config.get(key), Mapping):
            parts += [(f"{key}.{field}", registry, value) for field, value in config[key].items()]
    if isinstance(config.get("dynamics"), Mapping):
        parts.append(("dynamics.cell", registries.cells, config["dynamics"].get("cell")))
    family = config.get("family", "composed")
    if family != "composed":
        parts.append(("family", registries.models, {"name": family}))
    for path, registry, value in parts:
        if isinstance(value, Mapping) and isinstance(value.get("name"), str):
            if family == "composed" or value["name"] in registry:  # others are parts of that family alone
                yield path, registry, value["name"]


def from_pretrained(source: str | Path, *, revision: str | None = None) -> WorldModel:
    """Load a model.

    Args:
        source: A model folder, ``"dir:/path"``, or ``"hub:org/name[@revision]"``. Of a run folder of
            ``worldkit train``, ``best/`` is taken if there is one, else the newest readable checkpoint.
        revision: Revision on the hub.
    Raises:
        CheckpointError: nothing there, a damaged file, or weights that do not fit the configuration.
    """
    return load_folder(locate(source, revision))


def locate(source: str | Path, revision: str | None = None) -> Path:
    """Model folder that a name means; see `from_pretrained`.

    Raises:
        CheckpointError: nothing there, or two different revisions are asked for.
    """
    text = str(source)
    if text.startswith("hub:"):
        name, _, tag = text.removeprefix("hub:").partition("@")
        if revision and tag and revision != tag:
            raise CheckpointError(f"'{text}' names revision '{tag}', revision= names '{revision}': give one of them")
        return _download(name, revision or tag or None)
    return find_model(text.removeprefix("dir:"))


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        files = [CONFIG_FILE, WEIGHTS_FILE, FACTS_FILE]
        return Path(snapshot_download(name, revision=revision, allow_patterns=files))
    except Exception as error:  # many kinds: offline, private, misspelt; all mean that there is no model to load
        raise CheckpointError(
            f"cannot get '{name}' from the hub: {type(error).__name__}: {error}\n"
            "Offline? Download the repository elsewhere and load it with dir:/path/to/folder"
        ) from error


def read_config(folder: Path) -> WorldModelConfig:
    """The configuration in a model folder.

    Raises:
        CheckpointError: if it is damaged or of a newer format.
    """
    try:
        data = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        config = data["config"]
        version = config.get("format_version", 1)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(version, int):
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: format_version must be a number, got {version!r}")
    if version > 1:
        raise CheckpointError(
            f"{folder} has config format {version}; this worldkit {__version__} reads format 1. Update worldkit"
        )
    check_numbers(config, "config", folder)
    try:
        return WorldModelConfig.parse(config)
    except ConfigError as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}: {error}{_other_providers(data)}") from error


def _other_providers(data: Mapping[str, Any]) -> str:
    """A line for every component of a ``config.json`` that comes from elsewhere here, or from nowhere."""
    saved, lines = data.get("providers"), []
    for path, registry, name in components(data["config"]):
        before = saved.get(path) if isinstance(saved, Mapping) else None
        if before is None or name in registry and before == _provider(registry, name):
            continue
        if name in registry:
            now = f"here it is {_provider(registry, name)}"
        elif not plugins_enabled():
            now = "plugins are switched off; unset WORLDKIT_PLUGINS"
        elif any(broken.plugin == before for broken in plugin_errors()):
            now = "it is installed, but failed to load"
        else:
            now = "it is not installed here; install it if you trust it, or import the module that registers the name"
        lines.append(f"\n  {path} '{name}' was provided by {before}: {now}")
    return "".join(lines)


def load_folder(folder: Path) -> WorldModel:
    """Model from a folder with ``config.json`` and ``model.safetensors``."""
    config = read_config(folder)
    weights = folder / WEIGHTS_FILE
    check_built(lambda: build(config), lambda own: _check_tensors(own, stored_shapes(weights), str(folder)), weights)
    model = build(config)
    load_weights(model, read_weights(weights), where=str(folder))
    model.operator = read_operator(folder, config)
    return model.eval()


def read_operator(folder: Path, config: WorldModelConfig) -> OperatorSpec | None:
    """What a model folder knows of raw frames and actions; None of models that were saved without.

    Raises:
        CheckpointError: it is damaged, or belongs to another model.
    """
    told = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("operator")
    if told is None:
        return None
    check_numbers(told, "operator", folder)
    try:
        spec = OperatorSpec.parse(told)
        spec.check_fits(config)
    except (ConfigError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE}, operator: {error}") from error
    return spec


def load_weights(model: WorldModel, state: Mapping[str, Tensor], *, where: str) -> None:
    """Put weights into a model; every tensor must fit. Names that were one tensor when they were saved are so again.

    Those of the objective may all be missing, as a shared model leaves them out: its teachers then begin anew.

    Raises:
        CheckpointError: listing what is missing, left over or of another size.
    """
    own = model.state_dict()
    _check_tensors(*({name: list(x.shape) for name, x in s.items()} for s in (own, state)), where)
    shared = len(own) > len(state)
    put(model, state, strict=not shared)
    if shared:
        model.objective.prepare(model)


def _check_tensors(own: Mapping[str, list[int]], stored: Mapping[str, list[int]], where: str) -> None:
    """Compare name -> shape of a model's tensors and of those that are to be put into it."""
    if not any(name.startswith(OBJECTIVE) for name in stored):
        own = {name: shape for name, shape in own.items() if not name.startswith(OBJECTIVE)}
    missing, extra = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    sizes = [f"{name} {stored[name]} instead of {own[name]}" for name in sorted(own.keys() & stored.keys())
             if stored[name] != own[name]]
    problems = [
        f"{what}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for what, names in (("missing", missing), ("not in the model", extra), ("wrong size", sizes))
        if names
    ]
    if problems:
        raise CheckpointError(
            f"config and weights of {where} disagree:\n  " + "\n  ".join(problems)
            + "\n  Were config.json and model.safetensors taken from the same model?"
        )


def load_parts(
    model: ComposedWorldModel, source: ComposedWorldModel | str | Path, parts: Sequence[str] | None = None
) -> list[str]:
    """Take over the weights of the parts that a trained model has in common with this one.

    A part fits if both configurations give it the same options, and its tensors have the same names and sizes.

    Args:
        model: Changed in place, or, if something is wrong, not at all.
        source: A trained model, or what `from_pretrained` takes.
        parts: What to take, all of it: ``["encoder", "conditioners.action"]``. None takes whatever fits; what the
            model's objective does not train must. ``"encoder.picture"``: an encoder inside ours that is theirs, or
            inside theirs (encoders ``adapted``, ``with-vectors``).
    Returns:
        Names of the parts taken.
    Raises:
        CheckpointError: a part that must fit does not, with the options that differ; or nothing fits.
    """
    if isinstance(source, (str, Path)):
        where: Any = locate(source)
        config, state = read_config(where), read_weights(where / WEIGHTS_FILE)
    else:
        where, config, state = "the given model", source.config, source.state_dict()
    ours, theirs, own = _parts(model.config), _parts(config), model.state_dict()
    taken: dict[str, Tensor] = {}
    names, problems = [], {}
    for part in ours if parts is None else parts:
        mine, other = ({k: v for k, v in s.items() if k.startswith(_prefix(part))} for s in (own, state))
        different = differences(ours.get(part), theirs.get(part), part) or _other_tensors(mine, other)
        if part not in ours:
            problems[part] = [f"this model has no part '{part}'; it has {', '.join(ours)}"]
        elif different:
            problems[part] = different
        else:
            names.append(part)
            taken |= other
    if "encoder" not in names and (parts is None or "encoder.picture" in parts):
        inside = _picture(ours, theirs, own, state)
        taken |= inside
        names += ["encoder.picture"] * bool(inside)
        if inside and set(inside) == {name for name in own if name.startswith("encoder.")}:  # it has no other weights
            names.append("encoder")
            problems.pop("encoder", None)
        if inside:
            problems.pop("encoder.picture", None)
    must = [part for part in sorted(ours) if part.partition(".")[0] in model.objective.frozen]
    missing = [part for part in (must if parts is None else parts) if part in problems]
    if missing or not names:
        lines = [f"\n  {line}" for part in missing or problems for line in problems[part]]
        raise CheckpointError(
            f"{where} cannot give this model its {' and '.join(missing) or 'weights: no part fits'}.{''.join(lines)}\n"
            "Create the model with the options of the trained one, or train that one with these"
        )
    put(model, taken, strict=False)
    model.objective.prepare(model)
    return names


def _picture(ours: Mapping[str, Any], theirs: Mapping[str, Any], own: Mapping[str, Tensor],
             state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of an encoder that stands inside of ours (option ``picture``) and is theirs, by our names."""
    mine, other = ours.get("encoder", {}).get("picture"), theirs.get("encoder", {})
    prefix = "encoder."
    if "picture" in other:
        prefix, other = "encoder.picture.", other["picture"]
    if mine is None or _came(mine) != _came(other):
        return {}
    found = {f"encoder.picture.{name.removeprefix(prefix)}": x for name, x in state.items() if name.startswith(prefix)}
    wanted = {name: x for name, x in own.items() if name.startswith("encoder.picture.")}
    return found if not _other_tensors(wanted, found) else {}


def _came(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of an encoder without the one that says that it stays as it is."""
    return {name: value for name, value in options.items() if name not in ("frozen", "normalize")}


def _prefix(part: str) -> str:
    """What the names of a part's tensors begin with."""
    kind, _, name = part.partition(".")
    return f"{kind}.{attribute_name(name)}." if name else f"{kind}."


def _parts(config: WorldModelConfig) -> dict[str, Any]:
    """Path -> options of every part that has weights to share."""
    data = config.to_dict()
    parts = {kind: data[kind] for kind in ("encoder", "decoder", "dynamics", "latent_action", "prior")
             if kind in data}
    return parts | {f"{key}.{name}": value for key in ("conditioners", "heads")
                    for name, value in data.get(key, {}).items()}


def _other_tensors(here: Mapping[str, Tensor], there: Mapping[str, Tensor]) -> list[str]:
    """A line for every tensor that is missing or of another size: the same part between other neighbours."""
    sizes = [{name: list(x.shape) for name, x in tensors.items()} for tensors in (here, there)]
    return [f"{name} has size {sizes[1].get(name)} there, {sizes[0].get(name)} here"
            for name in sorted(here.keys() | there.keys()) if sizes[0].get(name) != sizes[1].get(name)][:5]
