"""Training in several processes: replicated weights (DDP) or sharded ones (FSDP), behind one small interface.

Processes are started by ``torchrun``; accelerate finds out about them. Evaluation and files need a
model with whole weights: ``whole()`` gives one.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import TrainingError, require_extra


def make_accelerator(precision: str, device: str | None = None) -> Any:
    """Accelerate's view of this process: device, number of processes, precision.

    Args:
        precision: As `TrainConfig` has it.
        device: Likewise; None: the GPU if there is one.
    Raises:
        MissingExtraError: without accelerate.
        TrainingError: for "fp16" on a CPU, where it would be ignored, or a device that is not there.
    """
    accelerate = require_extra("accelerate", "train", "training")
    on_cpu = _on_cpu(device)
    if precision == "fp16" and on_cpu:
        raise TrainingError("precision 'fp16' needs a GPU; on a CPU take 'bf16' or 'no'")
    if not torch.distributed.is_initialized():
        # a process may train in one precision after the other, and on one device after the other
        accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
    # Some parameters get no gradient in some steps (warm-up, dropped conditions).
    unused = accelerate.utils.DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = accelerate.Accelerator(mixed_precision=precision, cpu=on_cpu, kwargs_handlers=[unused])
    if device is not None and torch.device(device).type != accelerator.device.type:
        raise TrainingError(f"device '{device}' was asked for, accelerate takes {accelerator.device}")
    return accelerator


def _on_cpu(device: str | None) -> bool:
    """Whether to train on the CPU; makes a numbered GPU the current one.

    Raises:
        TrainingError: for a device that is not there, or a numbered one for several processes.
    """
    if device is None:
        return not torch.cuda.is_available()
    check_device(device)
    chosen = torch.device(device)
    if chosen.type == "cuda" and chosen.index is not None:
        if "LOCAL_RANK" in os.environ:
            raise TrainingError(f"of several processes each takes a GPU of its own: device 'cuda', not '{device}'")
        torch.cuda.set_device(chosen)
    return chosen.type == "cpu"


def check_device(name: str) -> None:
    """Whether a device can be computed on.

    Raises:
        TrainingError: naming the reason.
    """
    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # torch's answers to no GPU, no such name
        reason = str(error).splitlines()[0]
        raise TrainingError(f"device '{name}' cannot be used here ({reason}); 'cpu' always works") from error


@contextmanager
def main_process_first(device: str | None = None) -> Iterator[None]:
    """The main process does it first (fills a cache), the others afterwards."""
    accelerate = require_extra("accelerate", "train", "training")
    with accelerate.PartialState(cpu=_on_cpu(device)).main_process_first():
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

    def prepare(self, look: Callable[[nn.Module], None]) -> None:
        """Let something use the model, and set its buffers, before training begins; call it in every process."""
        look(self.model)

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

    def prepare(self, look: Callable[[nn.Module], None]) -> None:
        with self.whole() as model:
            if self.accelerator.is_main_process:
                look(model)
        found = dict(self.copy.named_buffers())
        for name, buffer in self.model.named_buffers():
            value = found[name].to(buffer.device)
            sent = value.to(torch.uint8) if value.dtype == torch.bool else value.contiguous()
            torch.distributed.broadcast(sent, 0)
            buffer.copy_(sent)

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

        # Loading asks for the state of all. Parameters without a gradient so far (a part that rests) get Adam's first.
        for parameter in (p for group in optimizer.param_groups for p in group["params"] if p not in optimizer.state):
            optimizer.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(parameter),
                                          "exp_avg_sq": torch.zeros_like(parameter)}
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
