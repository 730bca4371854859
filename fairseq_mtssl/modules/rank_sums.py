"""Sums over all ranks, with which several ranks train like one process with the batches of all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq_mtssl.modules.contrastive import world_size

_groups: dict[Any, Any] = {}


def statistics_group() -> Any:
    """Return a process group of all ranks for sums of statistics, which the first call on all ranks creates.

    DistributedDataParallel reduces gradients in the default group during the backward pass. With layerdrop, a
    bucket of gradients may be ready earlier on one rank than on another, so that in the default group
    gradients and statistics would be reduced in different orders on different ranks.
    """
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()
        _groups[world] = dist.new_group()
    return _groups[world]


class RankSums:
    """Sums over ranks; a model and its layers share one instance.

    counted: whether this rank's present batch counts. To a rank without batches left fairseq gives a dummy
        batch, with which it takes part in every collective call and adds zero to every sum.

    Every method that sums or shares is a collective call, which all ranks have to make in the same order. The
    gradient of a sum is the sum of the gradients of all ranks. So after DistributedDataParallel's average
    over ranks, the gradients of parameters are those of the mean of the ranks' losses.
    """

    def __init__(self) -> None:
        self.counted = True

    @staticmethod
    def several() -> bool:
        """Return whether there are other ranks."""
        return world_size() > 1

    @staticmethod
    def reduce(x: Tensor) -> Tensor:
        """Return the sum of the tensors of all ranks, of one shape, in float32 and without gradient."""
        total = x.detach().to(torch.float32, copy=True).contiguous()
        dist.all_reduce(total, group=statistics_group())
        return total

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks that count, in float32 and without gradient."""
        return self.reduce(x if self.counted else torch.zeros_like(x))

    def sum_with_grad(self, x: Tensor) -> Tensor:
        """Return the sum over the ranks that count, with gradient."""
        return _Sum.apply(x, self)

    def mean_rows(self, x: Tensor) -> Tensor:
        """Return the mean over the rows of all ranks, with gradient: (N, …) -> (…). N may differ by rank."""
        count = x.new_full((1,), len(x), dtype=torch.float32)
        # (N, G, V) -> (G·V + 1,): one collective call for the sums and the count
        total = self.sum_with_grad(torch.cat([x.float().sum(0).flatten(), count]))
        return (total[:-1] / total[-1].detach().clamp(min=1)).view(x.shape[1:])

    def mean_count(self, count: int | Tensor, device: torch.device) -> Tensor:
        """Return the mean of a count over the ranks that count, a scalar.

        If each rank divides a sum by this mean and not by its own count, the mean over ranks of the quotients
        is the mean over everything that all ranks have counted.
        """
        total = self.sum(torch.stack([torch.as_tensor(count, device=device), torch.ones((), device=device)]))
        return total[0] / total[1].clamp(min=1)

    @staticmethod
    def share_buffers(module: nn.Module) -> None:
        """Copy the buffers of the first rank, such as running statistics of batch norms, to all ranks."""
        for buffer in module.buffers():
            dist.broadcast(buffer, 0, group=statistics_group())


class _Sum(torch.autograd.Function):
    """All-reduce forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: RankSums) -> Tensor:
        ctx.counted, ctx.dtype = ranks.counted, x.dtype
        return ranks.sum(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total = RankSums.reduce(grad).to(ctx.dtype)
        return (total if ctx.counted else torch.zeros_like(total)), None
