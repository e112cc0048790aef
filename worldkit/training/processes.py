"""Training in several processes: replicated weights (DDP) or sharded ones (FSDP), behind one small interface.

Processes are started by ``torchrun``; accelerate finds out about them. Evaluation and files need a
model with whole weights: ``whole()`` gives one.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError, require_extra


def make_accelerator(precision: str) -> Any:
    """Accelerate's view of this process: device, number of processes, precision.

    Raises:
        MissingExtraError: without accelerate.
        TrainingError: for "fp16" on a CPU, where it would be ignored.
    """
    accelerate = require_extra("accelerate", "train", "training")
    if precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("precision 'fp16' needs a GPU; on a CPU take 'bf16' or 'no'")
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


def in_any(accelerator: Any, *flags: bool) -> list[bool]:
    """Whether each of some flags is true in any process; call it in every process."""
    if accelerator.num_processes == 1:
        return list(flags)
    values = torch.tensor(flags, dtype=torch.float32, device=accelerator.device)
    return (accelerator.reduce(values, "sum") > 0).tolist()


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number of some tensors, of this process's share of sharded ones, is finite."""
    own = (x.to_local() if hasattr(x, "to_local") else x for x in tensors)
    return all(bool(torch.isfinite(x).all()) for x in own)


class Replicated:
    """Every process holds all weights; gradients are averaged (DDP). Also the case of one process."""

    def __init__(self, accelerator: Any, model: nn.Module):
        self.accelerator, self.model = accelerator, model

    def wrap(self) -> nn.Module:
        """The module to call in training."""
        return self.accelerator.prepare(self.model)

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        """The model with whole weights (in the main process), to evaluate or save it; call it in every process."""
        yield self.model

    def no_sync(self, engine: nn.Module) -> Any:
        """Context of a backward pass whose gradients are not yet exchanged."""
        return self.accelerator.no_sync(engine)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """State of the optimiser for a file; call it in every process."""
        return optimizer.state_dict()

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Go on from the weights of `whole`'s model and from `optimizer_state`'s answer."""
        optimizer.load_state_dict(state)


class Sharded:
    """Every process holds a share of weights, gradients and optimiser state (FSDP); weights meet for each step.

    A copy of the model in main memory serves evaluation and files.
    """

    def __init__(self, accelerator: Any, model: nn.Module):
        from torch.distributed.checkpoint.state_dict import StateDictOptions
        from torch.distributed.fsdp import fully_shard

        self.accelerator, self.copy = accelerator, copy.deepcopy(model).cpu()
        for parameter in model.parameters():  # weights of convolutions are kept channels last; FSDP takes no strides
            parameter.data = parameter.data.contiguous()
        self.model = fully_shard(model)
        self.options = StateDictOptions(full_state_dict=True, cpu_offload=True)

    def wrap(self) -> nn.Module:
        return self.model

    @contextmanager
    def whole(self) -> Iterator[nn.Module]:
        from torch.distributed.checkpoint.state_dict import get_model_state_dict

        state = get_model_state_dict(self.model, options=self.options)
        if self.accelerator.is_main_process:  # the others get nothing
            self.copy.load_state_dict(state)
            self.copy.to(self.accelerator.device)
        yield self.copy
        self.copy.cpu()

    @contextmanager
    def no_sync(self, engine: nn.Module) -> Iterator[None]:
        self.model.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.model.set_requires_gradient_sync(True)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

        return get_optimizer_state_dict(self.model, optimizer, options=self.options)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        from torch.distributed.checkpoint.state_dict import set_state_dict

        # of tensors with several names (tied weights) torch would shard one and leave whole what the others stand for
        once = {n for named in (model.named_parameters, model.named_buffers) for n, _ in named()}
        weights = {n: x for n, x in model.state_dict().items() if n in once}
        set_state_dict(self.model, optimizer, model_state_dict=weights, optim_state_dict=state,
                       options=replace(self.options, strict=len(weights) == len(model.state_dict())))


STRATEGIES = {"ddp": Replicated, "fsdp": Sharded}


def whole_tensor(x: Tensor) -> Tensor:
    """A sharded tensor put together (call it in every process); any other as it is."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def distribute_like(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, the same in every process, sharded as ``like`` is."""
    if not hasattr(like, "full_tensor"):
        return x
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
