"""Optimisers by name: Adam, AdamW, Adam as TensorFlow has it, LaProp with adaptive gradient clipping, and Muon.

Torch's own two are used where they are what is meant. The others work on lists of tensors at once
(``torch._foreach_*``) and keep torch's state names, so that checkpoints of runs are read alike.

Sources: TensorFlow's Adam (eps is added before the bias correction, which torch divides it by); LaProp, Ziyin et al.
(2020, arXiv:2002.04839); adaptive gradient clipping, Brock et al. (2021, arXiv:2102.06171), here with one norm a
tensor, as DreamerV3 has it. Written from their descriptions.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ..config import Config
from ..nn.decay import Decay, decaying
from .muon import hidden_matrices, move_matrices

OptimizerName = Literal["adam", "adamw", "adam-tf", "laprop", "muon"]


class OptimizerConfig(Config):
    """Options of an optimiser and of its learning rate.

    Attributes:
        name: ``"adam"`` and ``"adamw"``, torch's; ``"adam-tf"``, whose eps counts before the bias correction and whose
            ``weight_decay`` shrinks every parameter by that factor, whatever ``lr`` is (DreamerV2); ``"laprop"``, which
            normalises before it takes the mean (DreamerV3); ``"muon"``, Adam but for hidden matrices
            (`worldkit.training.muon`).
        lr: Learning rate.
        betas: Of the mean of gradients and of their squares.
        eps: Added to the root of the mean of squares.
        weight_decay: Of adam, adamw and laprop as torch has them, of muon as of adamw; of laprop for matrices and
            kernels only.
        decay: Of adam and adamw: ``"all"``; ``"arrays"``: parameters of more than one axis (I-JEPA); or ``"weights"``:
            those of linear, convolutional and recurrent layers alone (IRIS, DIAMOND); see `worldkit.nn.decay`.
        agc: Each tensor's gradient is at most this fraction of that tensor's norm; None: no such limit.
        agc_floor: Norms of tensors count as at least this.
        max_grad_norm: All gradients together are scaled down to this norm; None: they are not.
        nesterov: Of laprop: look one step ahead.
        warmup_steps: The learning rate rises from 0, which the very first update has, over so many updates.
        schedule: What comes then: ``"constant"``, or ``"linear"`` or ``"cosine"`` down to ``final`` times ``lr`` at
            update ``anneal_steps``.
        anneal_steps, final: See ``schedule``.
    Example:
        >>> config = OptimizerConfig(name="laprop", lr=4e-5, warmup_steps=1000)
        >>> [f"{config.rate(update):.2g}" for update in (0, 1, 500, 5000)]
        ['0', '4e-08', '2e-05', '4e-05']
    """

    name: OptimizerName = "adam"
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    decay: Decay = "all"
    agc: float | None = Field(default=None, gt=0)
    agc_floor: float = Field(default=1e-3, gt=0)
    max_grad_norm: float | None = Field(default=None, gt=0)
    nesterov: bool = False
    warmup_steps: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    anneal_steps: int = Field(default=0, ge=0)
    final: float = Field(default=0.1, ge=0)

    def rate(self, update: int) -> float:
        """Learning rate of an update, from 0."""
        if update < self.warmup_steps:
            return self.lr * update / self.warmup_steps
        if self.schedule == "constant":
            return self.lr
        done = min(1.0, (update - self.warmup_steps) / max(1, self.anneal_steps - self.warmup_steps))
        left = 1 - done if self.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
        return self.lr * (self.final + (1 - self.final) * left)

    def make(self, parameters: Iterable[nn.Parameter], *, fused: bool = False,
             module: nn.Module | None = None) -> torch.optim.Optimizer:
        """The optimiser of some parameters, at the learning rate of the first update.

        ``module`` has them all; ``decay`` asks its layers.
        """
        decays = None if module is None else decaying(module, self.decay)
        return make_optimizer(self.name, parameters, lr=self.rate(0), betas=self.betas, eps=self.eps,
                              weight_decay=self.weight_decay, decays=decays, agc=self.agc, agc_floor=self.agc_floor,
                              nesterov=self.nesterov, fused=fused,
                              matrices=() if module is None else hidden_matrices(module))


def make_optimizer(
    name: OptimizerName, parameters: Iterable[nn.Parameter], *, lr: float, betas: tuple[float, float], eps: float,
    weight_decay: float = 0.0, decays: Iterable[nn.Parameter] | None = None, agc: float | None = None,
    agc_floor: float = 1e-3, nesterov: bool = False, fused: bool = False, matrices: Iterable[nn.Parameter] = (),
) -> torch.optim.Optimizer:
    """An optimiser by name; see `OptimizerConfig`.

    Args:
        decays: Parameters that weight decay is for, of adam and adamw; None: all.
        fused: Torch's own take their fused form; the others work on lists of tensors anyway.
        matrices: Of muon, the parameters that are not Adam's: `worldkit.training.muon.hidden_matrices`.
    Example:
        >>> layer = nn.Linear(2, 2)
        >>> type(make_optimizer("laprop", layer.parameters(), lr=1e-3, betas=(0.9, 0.999), eps=1e-20)).__name__
        'LaProp'
    """
    parameters = list(parameters)
    if name in ("adam", "adamw"):
        kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
        groups = parameters if decays is None or not weight_decay else _split(parameters, decays, weight_decay)
        made: torch.optim.Optimizer = kind(groups, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay,
                                           fused=fused)
        return made if agc is None else _clipped(made, agc, agc_floor)
    if name == "adam-tf":
        made = AdamTF(parameters, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        return made if agc is None else _clipped(made, agc, agc_floor)
    if name == "muon":
        hidden = {id(p) for p in matrices}
        groups = [{"params": [p for p in parameters if (id(p) in hidden) == which], "matrices": which}
                  for which in (True, False)]
        made = Muon([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, weight_decay=weight_decay)
        return made if agc is None else _clipped(made, agc, agc_floor)
    groups = [{"params": parameters, "weight_decay": 0.0}]
    if weight_decay:
        groups = [{"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
                  {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0}]
    return LaProp([g for g in groups if g["params"]], lr=lr, betas=betas, eps=eps, agc=agc, agc_floor=agc_floor,
                  nesterov=nesterov)


def _split(parameters: list[nn.Parameter], decays: Iterable[nn.Parameter], decay: float) -> list[dict[str, Any]]:
    """Groups of parameters with decay and without."""
    chosen = {id(p) for p in decays}
    groups = [{"params": [p for p in parameters if (id(p) in chosen) == which], "weight_decay": decay * which}
              for which in (True, False)]
    return [group for group in groups if group["params"]]


def _clipped(optimizer: torch.optim.Optimizer, limit: float, floor: float) -> torch.optim.Optimizer:
    """The same one, which clips each tensor's gradient before every step."""

    def clip(*_: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        clipped = clip_adaptively([p.grad for p in parameters], parameters, limit, floor)
        torch._foreach_copy_([p.grad for p in parameters], clipped)

    optimizer.register_step_pre_hook(clip)
    return optimizer


@torch.no_grad()
def clip_adaptively(gradients: list[Tensor], parameters: list[Tensor], limit: float, floor: float = 1e-3
                    ) -> list[Tensor]:
    """Gradients no longer than ``limit`` times their parameter; each tensor counts as a whole.

    Args:
        gradients: One for each parameter.
        parameters: Their norm counts as at least ``floor``.
        limit: See above.
    Example:
        >>> [clipped] = clip_adaptively([torch.full((4,), 3.0)], [torch.full((4,), 0.5)], 0.3)
        >>> round(clipped.norm().item(), 6)
        0.3
    """
    if not gradients:
        return []
    norms = torch.stack(torch._foreach_norm(gradients))
    upper = limit * torch.stack(torch._foreach_norm(parameters)).clamp_(min=floor)
    return list(torch._foreach_mul(gradients, list((norms / upper).clamp_(min=1).reciprocal_().unbind())))


class _Foreach(torch.optim.Optimizer):
    """Optimisers that step on lists: parameters that have made as many steps are moved together."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One update; parameters without a gradient rest."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for count, parameters in self._by_count(group):
                states = [self.state[p] for p in parameters]
                torch._foreach_add_([s["step"] for s in states], 1.0)
                self._move(group, count + 1, parameters, [p.grad for p in parameters],
                           [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states if "exp_avg_sq" in s])
        return loss

    def _by_count(self, group: dict[str, Any]) -> Iterator[tuple[int, list[Tensor]]]:
        found: dict[Any, list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is None:
                continue
            state = self.state[p]
            if not state:
                state["step"] = torch.tensor(0.0)
                for kept in ("exp_avg",) if group.get("matrices") else ("exp_avg", "exp_avg_sq"):
                    state[kept] = torch.zeros_like(p, memory_format=torch.preserve_format)
            found[int(state["step"]), p.device, p.dtype].append(p)
        for (count, *_), parameters in found.items():
            yield count, parameters

    def _move(self, group: dict[str, Any], count: int, parameters: list[Tensor], gradients: list[Tensor],
              mean: list[Tensor], square: list[Tensor]) -> None:
        raise NotImplementedError


class LaProp(_Foreach):
    """Gradients are divided by their size first, and averaged then: ``m = b1 m + (1 - b1) g / (sqrt(v) + eps)``.

    Args:
        params: Parameters, or groups of them.
        lr, betas, eps: As of Adam; with the tiny eps the first update is ``lr`` times the sign of the gradient.
        weight_decay: ``lr`` times this times the parameter is taken off, too.
        agc, agc_floor: See `clip_adaptively`; None: gradients are taken as they are.
        nesterov: Take the mean as it will be after the same gradient once more.
    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        >>> weight.grad = torch.tensor([0.1, -5.0])
        >>> LaProp([weight], lr=0.5, agc=0.3).step()
        >>> weight.data
        tensor([0.5000, 2.5000])
    """

    def __init__(self, params: Any, lr: float = 4e-5, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-20, *,
                 weight_decay: float = 0.0, agc: float | None = None, agc_floor: float = 1e-3, nesterov: bool = False):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "agc": agc,
                                  "agc_floor": agc_floor, "nesterov": nesterov})

    def _move(self, group: dict[str, Any], count: int, parameters: list[Tensor], gradients: list[Tensor],
              mean: list[Tensor], square: list[Tensor]) -> None:
        first, second = group["betas"]
        if group["agc"] is not None:
            gradients = clip_adaptively(gradients, parameters, group["agc"], group["agc_floor"])
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
        size = torch._foreach_div(square, 1 - second**count)
        torch._foreach_sqrt_(size)
        torch._foreach_add_(size, group["eps"])
        update = torch._foreach_div(gradients, size)
        torch._foreach_lerp_(mean, update, 1 - first)
        ahead = torch._foreach_lerp(mean, update, 1 - first) if group["nesterov"] else mean
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(parameters, ahead, alpha=-group["lr"] / (1 - first**count))


class AdamTF(_Foreach):
    """Adam in TensorFlow's form: ``lr sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps)``.

    Early on eps counts for more than in torch's, by up to 30 times at the first update.

    Args:
        params: Parameters, or groups of them.
        lr, betas, eps: As of Adam.
        weight_decay: Every parameter shrinks by this factor before each update; not times ``lr``.
    Example:
        >>> weight = nn.Parameter(torch.tensor([1.0]))
        >>> weight.grad = torch.tensor([1e-3])
        >>> AdamTF([weight], lr=0.1, eps=1e-5).step()
        >>> round(weight.item(), 4)  # torch's Adam: 0.901
        0.924
    """

    def __init__(self, params: Any, lr: float = 1e-4, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-7, *,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    def _move(self, group: dict[str, Any], count: int, parameters: list[Tensor], gradients: list[Tensor],
              mean: list[Tensor], square: list[Tensor]) -> None:
        first, second = group["betas"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["weight_decay"])
        torch._foreach_lerp_(mean, gradients, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
        size = torch._foreach_sqrt(square)
        torch._foreach_add_(size, group["eps"])
        torch._foreach_addcdiv_(parameters, mean, size,
                                -group["lr"] * math.sqrt(1 - second**count) / (1 - first**count))


class Muon(_Foreach):
    """Hidden matrices by `worldkit.training.muon`, everything else by Adam, at one learning rate.

    Args:
        params: Groups of parameters, each with ``matrices``, True or False.
        lr, betas, eps: As of Adam; of matrices ``lr`` is the root mean square of an update's entries.
        weight_decay: ``lr`` times this times the parameter is taken off, too.
    Example:
        >>> weight = nn.Parameter(torch.eye(16))
        >>> weight.grad = torch.eye(16) + 0.1
        >>> Muon([{"params": [weight], "matrices": True}], lr=0.01).step()
        >>> round((weight.data - torch.eye(16)).square().mean().sqrt().item(), 2)
        0.01
    """

    def __init__(self, params: Any, lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, *,
                 weight_decay: float = 0.0):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay,
                                  "matrices": False})

    def _move(self, group: dict[str, Any], count: int, parameters: list[Tensor], gradients: list[Tensor],
              mean: list[Tensor], square: list[Tensor]) -> None:
        first, second = group["betas"]
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - group["lr"] * group["weight_decay"])
        if group["matrices"]:
            move_matrices(parameters, gradients, mean, group["lr"])
            return
        torch._foreach_lerp_(mean, gradients, 1 - first)
        torch._foreach_mul_(square, second)
        torch._foreach_addcmul_(square, gradients, gradients, 1 - second)
        size = torch._foreach_sqrt(square)
        torch._foreach_div_(size, math.sqrt(1 - second**count))
        torch._foreach_add_(size, group["eps"])
        torch._foreach_addcdiv_(parameters, mean, size, -group["lr"] / (1 - first**count))
