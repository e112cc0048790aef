"""Signs that a run has gone wrong: a diverging KL, all particles gone or all saturated, dead tokens, embeddings that
are all the same, a single code for everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

DIVERGED = 20.0
"""A KL is called diverging when its running mean exceeds its lowest running mean this many times."""
PATIENCE = 300
"""Steps for which particles must be gone or saturated before it is called a fault; early on both pass by themselves."""
DEAD = 0.002
"""A token that covers less than this share of the pixels of every clip is called dead."""


COLLAPSED, COLLAPSED_RANK, COLLAPSE_PATIENCE = 0.02, 2.0, 100
"""Embeddings are called collapsed when for so many steps their spread was below this share of its highest value, or
they spread in fewer directions than this (`worldkit.objectives.collapse.health`)."""
ONE_CODE = 1.2
"""Codes in use (perplexity) up to which they are called collapsed, if that lasts for `PATIENCE` steps."""
_WEIGHTS = {"latent_action": "latent_action.regularizer_weight", "encoder": "objective.regularizer_weight"}


class Watch:
    """Looks at the logged terms of a run and says once, in words, when something is wrong.

    Args:
        num_particles: Tokens that have a transparency, if any.
    """

    def __init__(self, num_particles: int | None = None):
        self.num_particles = num_particles
        self.mean: dict[str, float] = {}
        self.lowest: dict[str, float] = {}
        self.since: dict[str, int] = {}
        self.highest: dict[str, float] = {}
        self.said: set[str] = set()

    def look(self, step: int, terms: Mapping[str, float]) -> list[str]:
        """New warnings, given the terms of a step's loss."""
        return [text for text in (*self._diverging(terms), self._particles(step, terms),
                                self._collapsed(step, terms), *self._codes(step, terms)) if text]

    def state_dict(self) -> dict[str, Any]:
        """Everything `load_state_dict` needs to go on as if never stopped."""
        return {"mean": self.mean, "lowest": self.lowest, "since": self.since, "said": sorted(self.said),
                "highest": self.highest}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state_dict`'s answer."""
        self.mean, self.lowest, self.since = (dict(state[name]) for name in ("mean", "lowest", "since"))
        self.said, self.highest = set(state["said"]), dict(state.get("highest", {}))

    def _diverging(self, terms: Mapping[str, float]) -> list[str]:
        found = []
        for name, value in terms.items():
            if not name.startswith("kl") or "/" in name:
                continue
            mean = self.mean[name] = 0.8 * self.mean.get(name, value) + 0.2 * value
            lowest = self.lowest[name] = min(self.lowest.get(name, mean), mean)
            if mean > DIVERGED * max(lowest, 1.0):
                found.append(self._once(name, f"{name} diverges: {mean:.4g}, {mean / max(lowest, 1e-9):.3g} times its "
                                              f"lowest ({lowest:.4g}); a lower train.lr or train.max_grad_norm helps"))
            else:
                self.said.discard(name)
        return [text for text in found if text]

    def _codes(self, step: int, terms: Mapping[str, float]) -> list[str | None]:
        """Codes that have collapsed: of latent actions, then there is nothing to steer by; of a tokenizer, to see."""
        found = []
        for name, value in terms.items():
            if name.rpartition("/")[2] != "perplexity":
                continue
            if value > ONE_CODE:
                self.since.pop(name, None)
                self.said.discard(name)
            elif step - self.since.setdefault(name, step) >= PATIENCE:
                part = "latent_action" if name.startswith("latent_action") else "encoder"
                found.append(self._once(name, f"the codes have collapsed: {name} is {value:.3g}, so one stands for "
                                              f"everything; {part}.center=batch, a lower weight of what ties vectors "
                                              f"to codes ({_WEIGHTS[part]}) or {part}.quantizer.restart_after help"))
        return found

    def _particles(self, step: int, terms: Mapping[str, float]) -> str | None:
        visible = terms.get("visible_particles")
        if visible is None or self.num_particles is None:
            return None
        states = {
            "gone": (visible < 0.02, "all particles are gone (transparent): the background draws everything; lower "
                                     "objective.weights.transparency or kl, or lower train.lr"),
            "saturated": (visible > 0.995 * self.num_particles,
                          "all particles are saturated (opaque), so none stands for an object; raise "
                          "objective.weights.transparency or kl, or use fewer particles"),
        }
        for name, (is_so, text) in states.items():
            if not is_so:
                self.since.pop(name, None)
                self.said.discard(name)
            elif step - self.since.setdefault(name, step) >= PATIENCE:
                return self._once(name, f"{text} (mean visible: {visible:.3g} of {self.num_particles})")
        return None

    def _collapsed(self, step: int, terms: Mapping[str, float]) -> str | None:
        if "embedding_std" not in terms:
            return None
        std, rank = terms["embedding_std"], terms["embedding_rank"]
        highest = self.highest["embedding_std"] = max(std, self.highest.get("embedding_std", 0.0))
        if std >= COLLAPSED * highest and rank >= COLLAPSED_RANK:
            self.since.pop("collapse", None)
            self.said.discard("collapse")
            return None
        if step - self.since.setdefault("collapse", step) < COLLAPSE_PATIENCE:
            return None
        return self._once("collapse", (
            f"embeddings have collapsed, they are (almost) the same for every picture: standard deviation {std:.3g} "
            f"(highest so far {highest:.3g}), spread over {rank:.3g} directions; raise objective.sigreg.weight or the "
            "terms of objective.vicreg, take objective.target=ema, or lower train.lr"))

    def look_at_masks(self, masks: Tensor | None) -> list[str]:
        """New warnings, given what share of every pixel the tokens drew, ``[B, T, K, 1, H, W]``."""
        if masks is None:
            return []
        largest = masks.detach().float().mean((1, 3, 4, 5)).amax(0)  # share of each token in its best clip
        dead = (largest < DEAD).nonzero().flatten().tolist()
        if not dead:
            self.said.discard("dead")
            return []
        text = self._once("dead", f"{len(dead)} of {len(largest)} drawn tokens are dead, they draw nothing anywhere: "
                                  f"{', '.join(map(str, dead[:12]))}")
        return [text] if text else []

    def _once(self, name: str, text: str) -> str | None:
        if name in self.said:
            return None
        self.said.add(name)
        return text
