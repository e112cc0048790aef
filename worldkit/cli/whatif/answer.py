"""The answer in pictures and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ...counterfactual import VISIBLE, WhatIf
from ...scene import Found, Scene, boxes_of
from ...viz import HtmlReport
from ...viz.difference import animate_difference, difference_rows, difference_strip, held, summed
from ...viz.images import enlarge

WITHOUT, WITH = "without the edit", "with the edit"
_LEGEND = (
    "Blue: given frames, as the model draws them; a white box marks what was edited. Green: what it predicts from "
    "them. "
    "The map: dim grey is the prediction without the edit, and what glows differs: red a little, yellow most."
)
_VIA = {
    "pictures": "The edited frames were drawn, seen again, and predicted from: particles of this model keep to their "
                "part of the picture, so those that belong to the new place take over.",
    "latents": "The prediction starts from the edited latents themselves.",
}


@dataclass(frozen=True)
class Answer:
    """One question and what came of it.

    Attributes:
        question: ``"What if the thing at (0.60, 0.00) were not there?"``
        scene: The given frames.
        thing, other: Frame -> tokens of what was edited, and of what it changed looks with.
        found: Both futures.
        truth: What really happened, ``[T, C, H, W]`` in [0, 1]; None: not known for all frames.
        notes: Sentences about the pick.
    """

    question: str
    scene: Scene
    thing: Mapping[int, Sequence[int]]
    other: Mapping[int, Sequence[int]] | None
    found: WhatIf
    truth: Tensor | None
    notes: Sequence[str] = ()

    @cached_property
    def _shown(self) -> dict:
        """What the pictures take."""
        pair = {WITHOUT: self.found.original[0].cpu(), WITH: self.found.edited[0].cpu()}
        before, after = (z[:, : self.found.context_frames] for z in
                         (self.found.original_latents, self.found.edited_latents))
        things = [self.thing, *([self.other] if self.other is not None else [])]
        boxes = {
            name: [torch.cat(found) for found in zip(*(boxes_of(self.scene, z, tokens) for tokens in things),
                                                     strict=True)]
            for name, z in ((WITHOUT, before), (WITH, after))
        }
        return {"rows": pair, "difference": self.found.difference[0].cpu(), "truth": self.truth, "boxes": boxes,
                "context_frames": self.found.context_frames}

    @property
    def predicted(self) -> int:
        """How many frames were predicted."""
        return self.found.original.shape[1] - self.found.context_frames

    def film(self, *, cell: int = 160) -> Tensor:
        """Both futures side by side and where they differ, ``[T, 3, h, w]`` uint8."""
        film = animate_difference(**self._shown, title=self.question, note=self.result(), cell=cell)
        return torch.cat([film, film[-1:].expand(4, -1, -1, -1)])

    def still(self) -> Tensor:
        """The same standing still, ``[3, h, w]`` uint8."""
        return difference_strip(self.rows, context_frames=self.found.context_frames)

    @cached_property
    def rows(self) -> dict[str, Tensor]:
        """Name -> framed pictures ``[T, 3, h, w]`` uint8."""
        return difference_rows(**self._shown)

    def total(self, *, cell: int = 320) -> Tensor:
        """All differences of the predicted frames in one map."""
        first, shown = self.found.context_frames, self._shown
        return enlarge(summed(shown["rows"][WITHOUT][first:], shown["difference"][first:])[None], cell)[0][0]

    def result(self) -> str:
        """How far the futures differ, in a sentence."""
        changed, given = self.found.changed[0].tolist(), self.found.context_frames
        now = max(changed[:given])
        if max(changed) == 0:
            least = float(self.found.difference.max())
            return (f"Nothing that one sees changes: no pixel differs by more than {VISIBLE:g} of 1 (at most "
                    f"{least:.2f}).")
        text = f"The edit changes {_percent(now)} of the given picture"
        if not self.predicted:
            return f"{text}."
        first, last = changed[given], changed[-1]
        trend = "grows to" if last > 1.2 * first + 0.002 else "shrinks to" if last < 0.8 * first - 0.002 else "stays at"
        later = f"; by predicted frame {self.predicted} that {trend} {_percent(last)}" if self.predicted > 1 else ""
        return f"{text} and {_percent(first)} of the first predicted one{later}."

    def listing(self) -> list[str]:
        """Which tokens were edited, frame by frame where they change."""
        said = [f"edited: {self.scene.named(self.thing[self.scene.frame])} (frame {self.scene.frame})"]
        if self.other is not None:
            said.append(f"changed looks with: {self.scene.named(self.other[self.scene.frame])}")
        frames = {t: sorted(tokens) for t, tokens in self.thing.items()}
        if len({tuple(tokens) for tokens in frames.values()}) > 1:
            lists = "; ".join(f"{t}: {', '.join(map(str, tokens))}" for t, tokens in frames.items())
            said.append(f"in every given frame ({self.scene.noun}s that draw it there): {lists}")
        return said

    def page(self, things: Sequence[Found], picture: Tensor, facts: Sequence[str]) -> HtmlReport:
        """The report.

        Args:
            things: What there was to choose from, and ``picture``, where.
            facts: Of the model, the data and the command.
        """
        page = HtmlReport(self.question).text(self.result())
        tiles = {name[0].upper() + name[1:]: held(row) for name, row in self.rows.items()}
        tiles |= {"Where they differ, all predicted frames in one": self.total()} if self.predicted > 1 else {}
        page.tiles(tiles, fps=3).text(_LEGEND if self.predicted else _LEGEND.split(" Green")[0])
        page.image(self.still(), caption="The same, standing still.")
        if self.predicted > 1:
            page.heading("How far they differ")
            given = self.found.context_frames
            shares = [100 * share for share in self.found.changed[0].tolist()]
            frames = list(range(1 - given, self.predicted + 1))
            page.curve({"pixels that visibly differ": (frames, shares)}, x_label="frame (0: the last one given)",
                       y_label="% of the picture",
                       caption=f"A pixel counts if it differs by more than {VISIBLE:g} of 1.")
        page.heading("What was changed").points([*self.listing(), *self.notes])
        page.text(_VIA[self.found.via] if self.predicted else "Nothing was predicted: this model has no dynamics.")
        if things:
            page.heading(f"What there was to choose from (frame {self.scene.frame})").image(picture)
            page.table(["thing", f"{self.scene.noun}s", "at (y, x)"], table(things))
        return page.heading("How this was made").points(facts)


def table(things: Sequence[Found]) -> list[list[str]]:
    """Rows: number, tokens, place."""
    return [[str(i + 1), ", ".join(map(str, thing.tokens)), f"{thing.place[0]:.2f}, {thing.place[1]:.2f}"]
            for i, thing in enumerate(things)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if 0 < share < 0.0995 else f"{100 * share:.0f} %"
