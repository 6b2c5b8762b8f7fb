"""The processes that train together: sums over all of them, and nothing when there is only one.

In: tensors of this rank. Out: the same tensors, summed or averaged in place over the world.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed

from image_classification.backends.base import World


class Ranks:
    """Membership in the process group of a world.

    Args:
        world: its rank, size and, in `extra`, `init_method`: a PyTorch rendezvous address such as
            `tcp://algo-1:29500`; without it the variables that torchrun sets are read.
        device: where the tensors live: NCCL carries them on GPUs, gloo on CPUs.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        self.size = world.size
        if self.size > 1:
            distributed.init_process_group(
                "nccl" if device.type == "cuda" else "gloo",
                init_method=world.extra.get("init_method", "env://"),
                rank=world.rank,
                world_size=world.size,
            )

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks: one message for all of them."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def average(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its mean over the ranks."""
        self.sum(tensors)
        if self.size > 1:
            for tensor in tensors:
                tensor.div_(self.size)

    def leave(self) -> None:
        """Leave the process group."""
        if self.size > 1:
            distributed.destroy_process_group()
