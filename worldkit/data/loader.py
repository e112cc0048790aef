"""`make_loader`, and `ResumableSampler`: an order of batches that is a function of seed and epoch alone.

A run that stops after batch 17 of epoch 3 goes on with ``sampler.set_state(epoch=3, start_batch=17)`` and sees exactly
the batches it would have seen. The loader never touches torch's global random state.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from ..errors import DataError
from .clips import ClipDataset, collate


class ResumableSampler(Sampler[list[int]]):
    """Batches of indices; every pass over it is the next epoch.

    Args:
        num_items: Size of the data set.
        batch_size: Items per batch.
        seed: The order of epoch ``e`` depends on ``(seed, e)`` only.
        shuffle: False: the natural order in every epoch.
        drop_last: Leave out the last batch if it is smaller than the others.
        rank, world: Of the processes that train together, this one takes the ``rank``-th of every ``world`` batches,
            so that all together see what one process with a ``world`` times larger batch would see.
    Attributes:
        epoch: Epoch of the next pass.
        start_batch: First batch of the next pass; later passes start at 0.
    Raises:
        DataError: if there is not even one batch.
    Example:
        >>> sampler = ResumableSampler(6, 2, seed=1)
        >>> first, second = list(sampler), list(sampler)
        >>> sampler.set_state(epoch=1, start_batch=2)
        >>> list(sampler) == second[2:]
        True
    """

    # No method named set_epoch: accelerate would call it with its own count and undo set_state.

    def __init__(
        self, num_items: int, batch_size: int = 1, *, seed: int = 0, shuffle: bool = True, drop_last: bool = False,
        rank: int = 0, world: int = 1,
    ):
        if batch_size < 1:
            raise DataError(f"batch_size must be at least 1, got {batch_size}")
        self.num_items, self.batch_size, self.seed = num_items, batch_size, seed
        self.shuffle, self.drop_last = shuffle, drop_last
        self.rank, self.world = rank, world
        self.epoch, self.start_batch = 0, 0
        if world > 1 and not drop_last:
            raise DataError("several processes need batches of one size: use drop_last=True")
        if len(self) == 0:
            each = f" in each of {world} processes" if world > 1 else ""
            raise DataError(
                f"{num_items} clips make no full batch of {batch_size}{each}: use batch_size="
                f"{max(num_items // world, 1)} or less (of a training: -o train.batch_size=...)"
            )

    def set_state(self, epoch: int, start_batch: int = 0) -> None:
        """Let the next pass be epoch ``epoch`` from batch ``start_batch`` on; ``start_batch == len(self)`` is allowed.

        Raises:
            DataError: if an argument is out of range.
        """
        if epoch < 0 or not 0 <= start_batch <= len(self):
            raise DataError(
                f"cannot start at epoch {epoch}, batch {start_batch}: an epoch has {len(self)} batches of "
                f"{self.batch_size} (were data or batch size changed since the run was saved?)"
            )
        self.epoch, self.start_batch = epoch, start_batch

    def order(self, epoch: int) -> list[int]:
        """All indices in the order of an epoch."""
        if not self.shuffle:
            return list(range(self.num_items))
        # hash((seed, epoch)) would do, but must not depend on the Python version
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
        return torch.randperm(self.num_items, generator=generator).tolist()

    def __len__(self) -> int:
        """Batches of a whole epoch, in each process."""
        full, rest = divmod(self.num_items, self.batch_size * self.world)
        return full + (rest > 0 and not self.drop_last)

    def __iter__(self) -> Iterator[list[int]]:
        # A generator, so that the state moves on with the first batch: DataLoader may call iter() twice before that.
        epoch, start = self.epoch, self.start_batch
        self.epoch, self.start_batch = epoch + 1, 0
        order = self.order(epoch)
        for batch in range(start, len(self)):
            first = (batch * self.world + self.rank) * self.batch_size
            yield order[first : first + self.batch_size]


def make_loader(
    dataset: ClipDataset,
    batch_size: int,
    *,
    shuffle: bool = True,
    num_workers: int = 0,
    seed: int = 0,
    drop_last: bool = False,
    device: torch.device | str = "cpu",
    rank: int = 0,
    world: int = 1,
) -> DataLoader:
    """A loader of `Batch`, uint8 on the CPU; move each with ``batch.to(device, non_blocking=True)``.

    Args:
        dataset: Clips.
        batch_size: Clips per batch.
        shuffle: Random order, another one in every epoch.
        num_workers: Processes that read; they live as long as the loader.
        seed: Decides the order.
        drop_last: Leave out a last batch that is smaller.
        device: Where the batches will go; memory is pinned for ``"cuda"``.
        rank, world: Which of how many processes this is; see `ResumableSampler`.
    Returns:
        A DataLoader; ``loader.batch_sampler`` is its `ResumableSampler`.
    Raises:
        DataError: if there is not even one batch.
    Example:
        >>> import numpy as np; from worldkit.data import ArraySource
        >>> clips = ClipDataset(ArraySource([{"video": np.zeros((7, 3, 8, 8), np.uint8)}]), num_frames=4)
        >>> [batch.video.shape[0] for batch in make_loader(clips, 3)]
        [3, 1]
    """
    sampler = ResumableSampler(
        len(dataset), batch_size, seed=seed, shuffle=shuffle, drop_last=drop_last, rank=rank, world=world
    )
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        worker_init_fn=_end_by_parent_only,
        persistent_workers=num_workers > 0,
        pin_memory=torch.device(device).type == "cuda",
        generator=torch.Generator().manual_seed(seed),  # else every epoch would draw from the global state
    )


def _end_by_parent_only(worker: int) -> None:
    """Let a worker take SIGTERM and SIGINT from its parent only, which ends it so when it exits.

    Who signals a whole process group (``timeout``, a cluster, Ctrl-C) means the parent, which may want another batch
    before it leaves. To ignore these signals outright would leave an exiting parent waiting for ever.
    """
    if not hasattr(signal, "sigwaitinfo"):  # macOS, Windows
        return
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)

    def wait() -> None:
        while signal.sigwaitinfo(signals).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
