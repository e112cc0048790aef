"""How to come by weights for a preset that has none: official checkpoints that can be converted, and training."""

from __future__ import annotations

_CONVERTERS = (
    ("lpwm", "LPWM", "lpwm CHECKPOINT --hparams hparams.json"),
    ("dlpv3", "LPWM", "lpwm CHECKPOINT --hparams hparams.json"),
    ("ddlp", "DDLP", "ddlp CHECKPOINT --hparams hparams.json"),
    ("dlpv2", "DDLP", "ddlp CHECKPOINT --hparams hparams.json"),
    ("diffuse-ddlp", "DiffuseDDLP", "diffuse-ddlp CHECKPOINT --stats latent_stats.pth --ddlp FOLDER_OF_THE_DDLP"),
    ("lewm", "LeWM", "lewm CHECKPOINT"),
    ("pldm", "PLDM (stable-worldmodel's)", "lewm CHECKPOINT"),
    ("vjepa2", "V-JEPA 2", "vjepa2 CHECKPOINT"),
    ("vjepa2-ac", "V-JEPA 2-AC", "vjepa2-ac CHECKPOINT"),
    ("iris", "IRIS", "iris CHECKPOINT"),
    ("diamond", "DIAMOND", "diamond CHECKPOINT"),
    ("g-swm", "G-SWM", "gswm CHECKPOINT --preset {preset}"),
    ("semantic-wm", "semantic-wm", "semantic-wm CHECKPOINT --encoder NAME=MODEL"),
)
"""Beginning of a preset's name, whose checkpoints, what to type after ``worldkit convert``; the longest one counts."""
_NONE_FITS = ("pldm-wall", "pldm-maze")
"""Presets whose official networks are others."""


def how_to_obtain(preset: str) -> str:
    """What to type for weights of a preset.

    Example:
        >>> print(how_to_obtain("vjepa2-mini"))
        Official V-JEPA 2 checkpoints can be converted: worldkit convert vjepa2 CHECKPOINT --out FOLDER. To train it: \
worldkit train vjepa2-mini --data DATA
        >>> print(how_to_obtain("ijepa-mini"))
        To train it: worldkit train ijepa-mini --data DATA
    """
    train = f"To train it: worldkit train {preset} --data DATA"
    fits = [row for row in _CONVERTERS if preset == row[0] or preset.startswith(f"{row[0]}-")]
    if not fits or preset in _NONE_FITS:
        return train
    _, whose, rest = max(fits, key=lambda row: len(row[0]))
    command = f"worldkit convert {rest.format(preset=preset)} --out FOLDER"
    return f"Official {whose} checkpoints can be converted: {command}. {train}"
