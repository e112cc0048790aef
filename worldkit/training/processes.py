"""Training in several processes: replicated weights (DDP) or sharded ones (FSDP), behind one small interface.

Processes are started by ``torchrun``; accelerate finds out about them. Evaluation and files need whole weights:
`Replicated.whole` and `Sharded.whole` give them for a while.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import require_extra


def make_accelerator(precision: str) -> Any:
    """Accelerate's view of this process: device, number of processes, precision.

    Raises:
        MissingExtraError: without accelerate.
    """
    accelerate = require_extra("accelerate", "train", "training")
    if not torch.distributed.is_initialized():
        accelerate.state.AcceleratorState._reset_state()  # a process may train in one precision after the other
    # Some parameters get no gradient in some steps (warm-up, dropped conditions).
    unused = accelerate.utils.DistributedDataParallelKwargs(find_unused_parameters=True)
    return accelerate.Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available(),
                                  kwargs_handlers=[unused])


@contextmanager
def main_process_first() -> Iterator[None]:
    """The main process does it first (fills a cache), the others afterwards."""
    accelerate = require_extra("accelerate", "train", "training")
    with accelerate.PartialState(cpu=not torch.cuda.is_available()).main_process_first():
        yield


class Replicated:
    """Every process holds all weights; gradients are averaged (DDP). Also the case of one process."""

    def __init__(self, accelerator: Any, model: nn.Module):
        self.accelerator, self.model = accelerator, model

    def wrap(self) -> nn.Module:
        """The module to call in training."""
        return self.accelerator.prepare(self.model)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Whole weights in this process."""
        yield

    def no_sync(self, engine: nn.Module) -> Any:
        """Context of a backward pass whose gradients are not yet exchanged."""
        return self.accelerator.no_sync(engine)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """State of the optimiser for a file; call it in every process."""
        return optimizer.state_dict()

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Go on from `optimizer_state`'s answer."""
        optimizer.load_state_dict(state)


class Sharded:
    """Every process holds a share of weights, gradients and optimiser state (FSDP); weights meet for each step."""

    def __init__(self, accelerator: Any, model: nn.Module):
        from torch.distributed.fsdp import fully_shard

        self.accelerator, self.model = accelerator, fully_shard(model)

    def wrap(self) -> nn.Module:
        return self.model

    @contextmanager
    def whole(self) -> Iterator[None]:
        self.model.unshard()
        try:
            yield
        finally:
            self.model.reshard()

    @contextmanager
    def no_sync(self, engine: nn.Module) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return get_optimizer_state_dict(self.model, optimizer, options=options)

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=False)
        set_optimizer_state_dict(self.model, optimizer, state, options=options)


STRATEGIES = {"ddp": Replicated, "fsdp": Sharded}


def whole_tensor(x: Tensor) -> Tensor:
    """A sharded tensor put together (call it in every process); any other as it is."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x
