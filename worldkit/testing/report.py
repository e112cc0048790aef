"""What every check uses: failures that name the component, the property and the size of the violation."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..contract import check_class, check_predicts
from ..dynamics import Dynamics
from ..errors import WorldkitError
from ..latents import Latent, LatentDist, LatentSpec
from ..registry import Registry
from ..storage.weights import put
from .examples import SMALL
from .gradients import without_gradient

TOLERANCE = 1e-4
"""Largest difference between two computations that should agree, relative to the values' size (at least 1)."""


class Reporter:
    """Raises assertion errors that name the component and the property."""

    def __init__(self, name: str):
        self.name = name

    def fail(self, prop: str, detail: str) -> None:
        raise AssertionError(f"{self.name}: {prop}: {detail}")

    def require(self, condition: bool, prop: str, detail: str) -> None:
        if not condition:
            self.fail(prop, detail)

    def equal(self, a: Tensor, b: Tensor, prop: str, what: str, tolerance: float = TOLERANCE) -> None:
        self.require(a.shape == b.shape, prop, f"{what} has shape {list(a.shape)} instead of {list(b.shape)}")
        a, b = (x.int() if x.dtype == torch.bool else x for x in (a, b))
        off = (a - b).abs().max().item() if a.numel() else 0.0
        limit = tolerance * max(1.0, b.abs().max().item() if b.numel() else 0.0)
        self.require(off <= limit, prop, f"{what} differs by {off:.3g} (allowed: {limit:.3g})")

    def independent(self, changed: Tensor, base: Tensor, what: str) -> None:
        """Nothing of sample 0 may move, not even by rounding, when sample 1 changes."""
        self.equal(changed[:1], base[:1], "batch independence", f"{what} of sample 0, when sample 1 changes,", 0.0)

    def shape(self, x: Tensor, shape: Iterable[int], what: str, dtype: torch.dtype = torch.float32) -> None:
        shape = list(shape)
        self.require(list(x.shape) == shape, "shapes", f"{what} is {list(x.shape)}, expected {shape}")
        self.require(x.dtype == dtype, "dtype", f"{what} is {x.dtype}, expected {dtype}")
        bad = (~torch.isfinite(x)).sum().item()
        self.require(bad == 0, "finite values", f"{what} has {bad} of {x.numel()} entries that are NaN or infinite")

    def fields(self, x: Latent | LatentDist, spec: LatentSpec, batch: int, time: int, what: str) -> None:
        wanted = Latent if what.startswith(("latent", "prediction")) else LatentDist
        self.require(isinstance(x, wanted), "types", f"{what} is {type(x).__name__}, expected {wanted.__name__}")
        tensors = x.values if isinstance(x, Latent) else x.params
        for group, field in spec.keys():
            f, name = spec.field((group, field)), f"{what} {group}.{field}"
            width = f.dim if isinstance(x, Latent) else f.dist.param_dim(f.dim)
            codes = isinstance(x, Latent) and f.dist.codes
            self.shape(tensors[group, field], (batch, time, spec.group(group).size, width), name,
                       torch.int64 if codes else torch.float32)
            if codes:
                low, high = tensors[group, field].aminmax()
                self.require(0 <= low and high <= f.dist.support[1], "codes", f"{name} holds {low} to {high}, expected "
                             f"0 to {f.dist.support[1]}")

    def gradients(self, module: nn.Module, loss: Tensor, *, ignore: Iterable[str] = ()) -> None:
        missing = without_gradient(module, loss, ignore)
        self.require(not missing, "gradient reaches every parameter",
                     f"{len(missing)} without (or with NaN): {', '.join(missing[:8])}")

    @contextmanager
    def refusing(self, prop: str, detail: str) -> Iterator[None]:
        try:
            yield
        except WorldkitError:
            return
        except Exception as error:
            self.fail(prop, f"{detail}: raised {type(error).__name__} ({error}) instead of a WorldkitError")
        self.fail(prop, f"{detail} was accepted")

    def config(self, config: Any) -> None:
        again = type(config).parse(json.loads(config.to_json()))
        self.require(again == config, "config JSON round trip", f"{config.to_dict()} became {again.to_dict()}")
        with self.refusing("unknown options are refused", "option 'no_such_option'"):
            type(config).parse({**config.to_dict(), "no_such_option": 1})

    def reload(
        self, module: nn.Module, make: Callable[[], nn.Module], run: Callable[[nn.Module], list[Tensor]]
    ) -> None:
        copy = make()
        put(copy, module.state_dict())
        for index, (a, b) in enumerate(zip(run(copy.eval()), run(module), strict=True)):
            self.equal(a, b, "save and load", f"output {index} of the reloaded copy", 0.0)


def prepare(registry: Registry, component: str | type, options: Mapping[str, Any]) -> tuple[type, Any, Reporter]:
    name = registry.resolve(component) if isinstance(component, str) else None
    cls = registry.get(name) if name is not None else component
    check_class(registry.kind, name or getattr(cls, "__name__", "?"), cls)
    if issubclass(cls, Dynamics):
        check_predicts(name or cls.__name__, cls)
    default = name or cls.Config.model_fields["name"].default
    small = SMALL.get(registry.kind, {}).get(default, {}) if cls.__module__.startswith("worldkit.") else {}
    config = cls.Config.parse({"name": default, **small, **options})
    report = Reporter(f"{registry.kind} '{name or cls.__name__}'")
    report.config(config)
    return cls, config, report


def shake(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return module.eval()


def tensors(x: Latent | LatentDist) -> list[Tensor]:
    return list((x.values if isinstance(x, Latent) else x.params).values())


def score(tensors: Iterable[Tensor]) -> Tensor:
    """A scalar every entry of which has a different, random weight."""
    generator = torch.Generator().manual_seed(7)
    return sum((t * torch.randn(t.shape, generator=generator)).sum() for t in tensors)  # type: ignore[return-value]
