"""The processes that train together: sums over all of them, and nothing when there is only one.

In: tensors of this rank. Out: the same tensors, summed or averaged in place over the world.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from image_classification.backends.base import World
from image_classification.errors import AlgorithmError

_MEETING_TIMEOUT = timedelta(minutes=15)
_SUM_TIMEOUT = timedelta(days=5)
"""The others wait in a sum while the first rank validates and saves; who watches for lost ranks is
the core (`training/lifeline`)."""


class Ranks:
    """Membership in the process group of a world.

    Args:
        world: its rank, its size and where the ranks meet.
        device: where the tensors live: NCCL carries them on GPUs, gloo on CPUs.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        self.size = world.size
        if self.size > 1:
            try:
                _meet(world, "nccl" if device.type == "cuda" else "gloo")
            except RuntimeError as error:  # DistError and its kin
                raise AlgorithmError(f"the hosts of this job did not meet: {error}") from error

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: one message for all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        try:
            distributed.all_reduce(flat)
        except RuntimeError as error:
            raise AlgorithmError(
                f"another host of this job ended or is out of reach; its log says why ({error})"
            ) from error
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def average(self, tensors: Sequence[torch.Tensor], has_samples: bool) -> None:
        """Replace each tensor by its mean over the ranks that had samples in this step."""
        if self.size == 1 or not tensors:
            return
        count = tensors[0].new_tensor(float(has_samples))
        shares = [tensor * count for tensor in tensors]
        self.sum([count, *shares])
        if count > 0:
            for tensor, share in zip(tensors, shares, strict=True):
                tensor.copy_(share / count)

    def leave(self) -> None:
        """Leave the process group.

        Its threads drop their last tensors a moment later, and need the interpreter for it: one
        that ends meanwhile aborts (seen in 1 of 30 jobs). Collecting the group joins its threads.
        """
        if self.size > 1:
            distributed.destroy_process_group()
            gc.collect()


def _meet(world: World, backend: str) -> None:
    """Join the process group; a rank that never comes ends the wait, a slow validation does not."""
    host, _, port = world.addresses[0].rpartition(":")
    store = distributed.TCPStore(
        host,
        int(port),
        world.size,
        is_master=world.rank == 0,
        timeout=_MEETING_TIMEOUT,
    )
    distributed.init_process_group(
        backend, store=store, rank=world.rank, world_size=world.size, timeout=_SUM_TIMEOUT
    )


def device_of(world: World) -> torch.device:
    """The CUDA device of this rank, else the CPU."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False  # predictions promise 1e-4; training has bfloat16
    return torch.device("cuda", world.rank % torch.cuda.device_count())
