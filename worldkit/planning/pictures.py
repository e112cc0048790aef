"""Pictures of plans: what was considered, and what the model imagines of the plan, beside the goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from einops import repeat
from torch import Tensor

from ..batch import to_float_video
from ..viz.animation import CONTEXT_COLOR, PREDICTED_COLOR, beside, captioned, framed
from ..viz.images import MUTED, border, enlarge, labelled_rows, to_uint8
from .base import Round, rank_key
from .shooting import Shooting

_ORDER = (("best", 0.0), ("better than 3/4", 0.25), ("middle", 0.5), ("better than 1/4", 0.75), ("worst", 1.0))


@torch.no_grad()
def imagined_frames(task: Shooting, actions: Tensor) -> Tensor:
    """What the model imagines of one plan per problem, ``[problems, horizon, C, H, W]`` in [0, 1].

    Args:
        task: Whose model and frames.
        actions: ``[problems, horizon, *action]``.
    """
    return task.imagine(actions[:, None]).draw()[:, 0].clamp(0, 1)


@torch.no_grad()
def considered_picture(
    task: Shooting, rounds: Sequence[Round], *, problem: int = 0, shown: int = 4, cell: int = 96,
) -> Tensor:
    """What was considered: last imagined frames of candidates from the best to the worst, a row per round.

    Args:
        task: What was planned.
        rounds: What a planner was ``watch``-ed to consider.
        problem: Whose candidates.
        shown: Rounds at most, evenly spaced from the first to the last.
        cell: As for `worldkit.viz.animate_rollout`.
    Returns:
        ``[3, h, w]`` uint8.
    """
    rows = {}
    for index in torch.linspace(0, len(rounds) - 1, min(shown, len(rounds))).round().long().tolist():
        considered = rounds[index]
        order = rank_key(considered.score)[problem].argsort()
        chosen = order[[round(share * (len(order) - 1)) for _, share in _ORDER]]
        actions = considered.actions[:, chosen]
        pictures = task.imagine(actions).draw(slice(-1, None))[problem, :, 0].clamp(0, 1)
        costs = considered.score.cost[problem, chosen].tolist()
        tiles = [captioned(f"cost {cost:.3g}", picture[None], [PREDICTED_COLOR], cell)[0]
                 for cost, picture in zip(costs, pictures, strict=True)]
        rows[f"round {considered.number + 1}"] = torch.stack(tiles)
    return labelled_rows(rows, [name for name, _ in _ORDER])


def plan_strip(given: Tensor, futures: Mapping[str, Tensor], goal: Tensor | None, *, cell: int = 96) -> Tensor:
    """The last given frame, what is imagined, and the goal: a row per future.

    Args:
        given: ``[3, H, W]``, uint8 or float in [0, 1].
        futures: Name -> imagined frames ``[horizon, 3, H, W]``.
        goal: ``[3, H, W]``, or None.
        cell: As for `worldkit.viz.animate_rollout`.
    Returns:
        ``[3, h, w]`` uint8.
    """
    rows, end = {}, [] if goal is None else [border(enlarge(to_uint8(goal[None]), cell)[0], MUTED, 5)]
    for name, frames in futures.items():
        both = torch.cat([to_float_video(given)[None].cpu(), frames.cpu()])
        rows[name] = torch.cat([framed(both, 1, cell=cell), *end])
    count = len(next(iter(futures.values())))
    return labelled_rows(rows, ["given", *(f"+{t + 1}" for t in range(count)), *(["goal"] if end else [])])


def plan_film(
    given: Tensor, futures: Mapping[str, Tensor], goal: Tensor | None, *, title: str = "", note: str = "",
    cell: int = 160,
) -> Tensor:
    """Imagined futures side by side, and the goal at the right.

    Args:
        given: ``[T, 3, H, W]``: the frames given.
        futures, goal, cell: As for `plan_strip`.
        title, note: As for `worldkit.viz.animate_rollout`.
    Returns:
        ``[T + horizon, 3, h, w]`` uint8, for `worldkit.viz.save_animation`.
    """
    given, panels = to_float_video(given).cpu(), []
    for name, frames in futures.items():
        colors = [CONTEXT_COLOR] * len(given) + [PREDICTED_COLOR] * len(frames)
        panels.append(captioned(name, torch.cat([given, frames.cpu()]), colors, cell))
    if goal is not None:
        still = repeat(to_uint8(goal), "c h w -> t c h w", t=len(colors))
        panels.append(captioned("goal", still, [MUTED] * len(colors), cell))
    return beside(panels, context_frames=len(given), title=title, note=note)
