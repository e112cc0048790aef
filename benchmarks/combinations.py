"""What goes with what: every encoder x dynamics x objective is built, small and without weights, or refused.

    python benchmarks/combinations.py                  docs/combinations.json and the tables of docs/combinations.md

`tests/test_combinations.py` builds a part of them again and holds it against the file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import worldkit as wk
from worldkit import registry
from worldkit.assembly import _check_objective, build
from worldkit.errors import WorldkitError
from worldkit.files import write_atomically
from worldkit.testing.examples import LEARNS, SMALL, small_config
from worldkit.training.weightless import weightless

DOCS = Path(__file__).parents[1] / "docs"
BEGIN, END = "<!-- combinations -->", "<!-- end -->"
PLAIN = {"latent_action": None}
NONE = "none"
"""In place of a dynamics: models that only encode and draw, as some objectives want them."""


def encoders() -> list[str]:
    """All but frozen ones of single papers, which need weights from elsewhere."""
    return [name for name in wk.list_encoders() if "model" not in registry.encoders.get(name).Config.model_fields]


def setting(objective: str) -> dict[str, Any]:
    """What an objective needs besides an encoder and a dynamics: heads, conditions, no decoder."""
    return {**PLAIN, "objective": objective, **{part: value for part, value in LEARNS.get(objective, {}).items()
                                                if part not in ("encoder", "dynamics", "decoder") or value is None}}


def tried(encoder: str, dynamics: str, objective: str) -> str:
    """Empty if the model is built; else why not, without the names of what would fit."""
    options = {"encoder": {"name": encoder, **SMALL["encoder"].get(encoder, {})}, **setting(objective)}
    options["dynamics"] = None if dynamics == NONE else dynamics
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            weightless(lambda: build(small_config(**options)))
    except WorldkitError as error:
        return shortened(str(error))
    except Exception as error:  # noqa: BLE001 - a refusal that names nothing is a fault, and is shown as one
        return f"{type(error).__name__}: {str(error).splitlines()[0][:80]}"
    return ""


def plain(encoder: str, dynamics: str) -> Any:
    """A model of two parts that learns by an objective that asks for nothing besides; None if there is none."""
    options = {"encoder": {"name": encoder, **SMALL["encoder"].get(encoder, {})}, **PLAIN,
               "dynamics": None if dynamics == NONE else dynamics}
    for objective in ("elbo", "reconstruction"):
        with contextlib.suppress(WorldkitError):
            return weightless(lambda objective=objective: build(small_config(**options, objective=objective)))
    return None


def objected(model: Any, objective: str) -> str:
    """What another objective has against a model whose parts fit, as `tried`; without building them again."""
    config = model.config.replace("objective", objective)
    try:
        _check_objective(registry.objectives.get(objective)(config.objective), config, model.dynamics)
    except WorldkitError as error:
        return shortened(str(error))
    return ""


def shortened(message: str) -> str:
    """A refusal without names and numbers, so that the same reason is the same text."""
    message = " ".join(message.split())
    message = re.split(r"[;.:]? (?:Dynamics|Decoders|Encoders|Objectives|objectives) that (?:fit|have)", message)[0]
    message = re.sub(r"(encoder|dynamics|objective|decoder) '[^']*'", r"the \1", message)
    message = re.sub(r"'[a-z0-9-]+' (filters|does not|has)", r"this one \1", message)
    message = re.sub(r"gives .*? without that", "does not give that", message)
    message = re.sub(r" ?\([^)]*\)?", "", re.split("; |: take|: put|: set", message)[0])
    message = re.sub(r"which '[^']*' cannot", "which this one cannot", message)
    return re.sub(r"\b\d+\b", "n", message)[:160].rstrip(" .;:,(")


def product(names: tuple[Sequence[str], Sequence[str], Sequence[str]]) -> dict[str, Any]:
    """Everything: reasons, and encoder -> dynamics -> number of the reason for each objective, 0 where it is built."""
    reasons: list[str] = []
    known: dict[tuple[str, str], str] = {}  # refusals that speak of two parts alone hold with every third
    table: dict[str, dict[str, list[int]]] = {}
    for encoder in names[0]:
        for dynamics in names[1]:
            row, ready = [], plain(encoder, dynamics)
            for objective in names[2]:
                why = known.get((encoder, dynamics)) or known.get((dynamics, objective))
                if why is None and objective not in LEARNS and ready is not None:
                    why = objected(ready, objective)
                elif why is None:
                    why = tried(encoder, dynamics, objective)
                if why.startswith("the dynamics needs") and why.endswith("the encoder does not give that"):
                    known[encoder, dynamics] = why
                elif why.startswith("the objective trains") and "adapter" not in why:
                    known[dynamics, objective] = why
                if why and why not in reasons:
                    reasons.append(why)
                row.append(reasons.index(why) + 1 if why else 0)
            table.setdefault(encoder, {})[dynamics] = row
        print(encoder, sum(number == 0 for row in table[encoder].values() for number in row), "built", flush=True)
    return {"encoders": list(names[0]), "dynamics": list(names[1]), "objectives": list(names[2]), "reasons": reasons,
            "why": table}


def matrix(found: dict[str, Any], rows: str, columns: str, over: str) -> str:
    """How many of ``over`` go with a row and a column; [n] where none does, the reason that is most often given."""
    index = {"encoders": 0, "dynamics": 1, "objectives": 2}
    entries = {(e, d, o): found["why"][e][d][n] for e in found["encoders"] for d in found["dynamics"]
               for n, o in enumerate(found["objectives"])}
    lines = [["", *found[columns]], ["---", *["---:"] * len(found[columns])]]
    for row in found[rows]:
        cells = []
        for column in found[columns]:
            here = [why for key, why in entries.items() if key[index[rows]] == row and key[index[columns]] == column]
            built = sum(why == 0 for why in here)
            cells.append(str(built) if built else f"[{max(set(here), key=here.count)}]")
        lines.append([row, *cells])
    return f"Of {len(found[over])} {over}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def page(found: dict[str, Any]) -> str:
    """The tables."""
    built = sum(why == 0 for rows in found["why"].values() for row in rows.values() for why in row)
    total = len(found["encoders"]) * len(found["dynamics"]) * len(found["objectives"])
    parts = [f"{built:,} of {total:,} combinations are built; the others are refused, for {len(found['reasons'])} "
             "reasons.",
             "### Encoders and dynamics", matrix(found, "encoders", "dynamics", "objectives"),
             "### Objectives and dynamics", matrix(found, "objectives", "dynamics", "encoders"),
             "### Objectives and encoders", matrix(found, "objectives", "encoders", "dynamics"),
             "### Reasons", "\n".join(f"- [{n}] {why}" for n, why in enumerate(found["reasons"], 1))]
    return "\n\n".join(parts)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    found = product((encoders(), [*wk.list_dynamics(), NONE], wk.list_objectives()))
    names = json.dumps({key: value for key, value in found.items() if key != "why"})
    text = f'{names[:-1]}, "why": {json.dumps(found["why"], separators=(",", ":"))}}}\n'
    write_atomically(DOCS / "combinations.json", lambda file: file.write_text(text, "utf-8"))
    write(found)


def write(found: dict[str, Any]) -> None:
    """Put the tables between the marks of the page."""
    path = DOCS / "combinations.md"
    before, rest = path.read_text(encoding="utf-8").split(BEGIN)
    made = f"{before}{BEGIN}\n\n{page(found)}\n\n{END}{rest.split(END, 1)[1]}"
    write_atomically(path, lambda file: file.write_text(made, "utf-8"))


if __name__ == "__main__":
    main()
