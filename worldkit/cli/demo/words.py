"""What the numbers say, in plain words."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...metrics import Report
from ...metrics.report import Interval
from .moved import Moved

_SEES, _APART = 6.0, 0.8  # dB above the mean frame; FG-ARI, of 1
_NAMES = {"copy last frame": "a copy of the last given frame", "mean training frame": "the mean frame"}


@dataclass(frozen=True)
class Verdict:
    """What was learned and what was not, a sentence each."""

    learned: Sequence[str]
    not_learned: Sequence[str]

    def parts(self) -> list[tuple[str, Sequence[str]]]:
        """Heading and sentences of what there is."""
        named = [("What it learned", self.learned), ("What it has not learned", self.not_learned)]
        return [(name, found) for name, found in named if found]


def verdict(predicted: Report, redrawn: Report, edit: Moved | None) -> Verdict:
    """Sort what a model can do from what it cannot.

    Args:
        predicted: Its predictions, with both baselines.
        redrawn: The same frames drawn again after the model saw them; with FG-ARI.
        edit: What became of the demo's what-if; None: there was nothing to move.
    """
    said = [_sees(redrawn), _apart(redrawn), *_predicts(predicted), _how_far(predicted), _what_if(edit),
            _sharp(predicted)]
    return Verdict([text for good, text in said if good], [text for good, text in said if not good])


def margins(report: Report) -> Mapping[str, Interval]:
    """How far the predictions are above each baseline, dB, paired."""
    return {baseline: report.margin("psnr", baseline) for baseline in report.baselines}


def _sees(redrawn: Report) -> tuple[bool, str]:
    psnr, over = redrawn.summary("model", "psnr").mean, redrawn.margin("psnr", "mean training frame")
    return over.low > _SEES, (f"to see: frames it is shown are drawn again at {psnr:.1f} dB "
                              f"(the mean frame: {psnr - over.mean:.1f})")


def _apart(redrawn: Report) -> tuple[bool, str]:
    score = redrawn.summary("model", "fg_ari")
    return score.low > _APART, f"to tell the balls apart: FG-ARI {score.mean:.2f} of 1, by who painted which pixel"


def _predicts(predicted: Report) -> list[tuple[bool, str]]:
    found = []
    horizon = predicted.protocol["horizon"]
    for baseline, over in margins(predicted).items():
        half, what = (over.high - over.low) / 2, _NAMES[baseline]
        side = "closer to" if over.mean > 0 else "farther from"
        sure = "" if over.excludes_zero else ", which may be chance"
        text = f"over {horizon} frames it is {abs(over.mean):.2f} ± {half:.2f} dB {side} the truth{sure}"
        found.append((over.low > 0, f"to predict better than {what}: {text}"))
    return found


def _how_far(predicted: Report) -> tuple[bool, str]:
    """Up to which predicted frame it is above both baselines, on average."""
    model = [point.mean for point in predicted.curve("model", "psnr")]
    others = [[point.mean for point in predicted.curve(baseline, "psnr")] for baseline in predicted.baselines]
    lost = next((t for t, value in enumerate(model) if value <= max(other[t] for other in others)), None)
    text = "each of them is above both" if lost is None else f"from frame {lost + 1} on, one of the two is as close"
    return lost is None, f"to look {len(model)} frames ahead: {text}"


def _what_if(edit: Moved | None) -> tuple[bool, str]:
    if edit is None:
        return False, "to be asked what if: it sees nothing that could be moved"
    shares = "to".join(dict.fromkeys(f" {100 * share:.0f} % " for share in (min(edit.changed), max(edit.changed))))
    return edit.visible, f"to be asked what if: moving one thing in the given frames changes{shares}of what it predicts"


def _sharp(predicted: Report) -> tuple[bool, str]:
    ours, copy = (predicted.summary(row, "ssim").mean for row in ("model", "copy last frame"))
    return predicted.margin("ssim", "copy last frame").low > 0, (
        f"to predict sharply: SSIM {ours:.2f}, a copy of the last given frame has {copy:.2f}")


def next_commands(run: Path, seconds: float, preset: str, data: str) -> list[tuple[str, str]]:
    """Three commands to type next, and what each does."""
    longer = min(3600, 5 * max(60, round(seconds)))
    return [
        (f"worldkit eval {shlex.quote(str(run))} {preset} --data {data} --horizon 5",
         "your model beside the one that comes along, on the same clips"),
        (f"worldkit demo --seconds {longer}", f"the same with {longer / 60:.0f} minutes of training"),
        ("worldkit train lpwm-mini --data my_video.mp4", "a world model of your own footage"),
    ]
