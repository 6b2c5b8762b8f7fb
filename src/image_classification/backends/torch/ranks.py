"""The processes that train together, as a process group of torch.distributed.

In: tensors of this rank. Out: the same tensors, summed or averaged in place over the ranks.
"""

import gc
import time
from collections.abc import Sequence
from datetime import timedelta

import torch
from torch import distributed

from image_classification.backends.base import World
from image_classification.backends.processes import await_listeners, launch
from image_classification.errors import AlgorithmError

__all__ = ["device_count", "launch"]

_FOREVER = timedelta(days=5)
"""Of a wait in a sum, while the first rank validates and saves, or another host still fetches its
data. `training/lifeline` detects lost ranks."""


def device_count() -> int:
    """See `base.Launcher`: the CUDA devices that this process may use."""
    return int(torch.cuda.device_count())


def device_of(world: World) -> torch.device:
    """Return the CUDA device of this rank, or the CPU if there is none."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.backends.cudnn.allow_tf32 = False  # predictions promise 1e-4; training has bfloat16
    device = torch.device("cuda", world.rank % torch.cuda.device_count())
    torch.cuda.set_device(device)  # or each process would also take memory on the first one
    return device


class Ranks:
    """Membership in the process group of a world with several ranks.

    Args:
        world: of this process.
        device: of the tensors. NCCL sums them on GPUs, gloo on CPUs and where several ranks share
            a GPU, which NCCL refuses.

    Raises:
        AlgorithmError: the ranks do not meet.
    """

    def __init__(self, world: World, device: torch.device) -> None:
        try:
            _meet(world, device if _has_gpu_each(world, device) else None)
        except RuntimeError as error:  # DistError and similar ones
            raise AlgorithmError(f"the hosts of this job did not meet: {error}") from error

    def sum(self, tensors: Sequence[torch.Tensor]) -> None:
        """Replace each tensor by its sum over the ranks; one message carries all tensors."""
        if not tensors:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        try:
            distributed.all_reduce(flat)
        except RuntimeError as error:
            raise AlgorithmError(
                "another host of this job ended or cannot be reached; see its log for the reason "
                f"({error})"
            ) from error
        for tensor, summed in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(summed.view(tensor.shape))

    def average(self, tensors: Sequence[torch.Tensor], has_samples: bool) -> None:
        """Replace each tensor by its mean over the ranks that had samples in this step."""
        if not tensors:
            return
        count = tensors[0].new_tensor(float(has_samples))
        shares = [tensor * count for tensor in tensors]
        self.sum([count, *shares])
        if count > 0:
            for tensor, share in zip(tensors, shares, strict=True):
                tensor.copy_(share / count)

    def leave(self) -> None:
        """Leave the process group.

        Its threads free their last tensors a moment later and need the interpreter for that: if it
        exits meanwhile, the process aborts (seen in 1 of 30 jobs). Collecting the group joins them.
        """
        distributed.destroy_process_group()
        gc.collect()


def _has_gpu_each(world: World, device: torch.device) -> bool:
    return device.type == "cuda" and world.local_size <= device_count()


def _meet(world: World, own_gpu: torch.device | None) -> None:
    """Wait for every rank and join the process group."""
    host, _, port = world.addresses[0].rpartition(":")
    if world.rank > 0:
        await_listeners(world.addresses[:1])
    store = distributed.TCPStore(
        host, int(port), is_master=world.rank == 0, timeout=_FOREVER, wait_for_workers=False
    )
    store.set(f"rank {world.rank}", "ready")
    while not store.check([f"rank {rank}" for rank in range(world.size)]):
        time.sleep(0.1)
    distributed.init_process_group(
        "gloo" if own_gpu is None else "nccl",
        store=store,
        rank=world.rank,
        world_size=world.size,
        timeout=_FOREVER,
        device_id=own_gpu,
    )
