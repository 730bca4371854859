"""Sums over the ranks of a training, by which several ranks train as one with the batches of all of them."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fairseq_mtssl.modules.contrastive import world_size

_groups: dict[Any, Any] = {}


def statistics_group() -> Any:
    """A process group of all ranks for sums of statistics, made when it is first asked for.

    DistributedDataParallel sends gradients in the default group while the backward pass goes on. Layerdrop
    may make a bucket ready earlier on one rank than on another, so that in that group the two kinds of
    collective calls would not come in the same order everywhere. Every rank has to ask for it, at the same
    place.
    """
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()
        _groups[world] = dist.new_group()
    return _groups[world]


class RankSums:
    """What a model and its layers share to take statistics over all ranks.

    counted: whether this rank's present batch counts. A rank that has run out of batches is given one of
        fairseq's dummy batches: it takes part in every collective call, and adds nothing.

    Every method that sums or shares is a collective call: all ranks have to make the same ones in the same
    order. The gradient of a sum is the sum of what all ranks send back. So after DistributedDataParallel's
    average over ranks, parameter gradients are those of the mean of the ranks' losses.
    """

    def __init__(self) -> None:
        self.counted = True

    @staticmethod
    def several() -> bool:
        """Whether there are other ranks."""
        return world_size() > 1

    @staticmethod
    def reduce(x: Tensor) -> Tensor:
        """The sum of all ranks' tensors of one shape, without gradient, float32."""
        total = x.detach().to(torch.float32, copy=True).contiguous()
        dist.all_reduce(total, group=statistics_group())
        return total

    def sum(self, x: Tensor) -> Tensor:
        """The sum over the ranks that count, without gradient, float32."""
        return self.reduce(x if self.counted else torch.zeros_like(x))

    def sum_with_grad(self, x: Tensor) -> Tensor:
        """As `sum`; gradients find their way back."""
        total: Tensor = _Sum.apply(x, self)
        return total

    def mean_rows(self, x: Tensor) -> Tensor:
        """(N, …), N of this rank alone -> (…): the mean over the rows of all ranks, with gradient."""
        count = x.new_full((1,), len(x), dtype=torch.float32)
        # (N, G, V) -> (G·V + 1,): the count travels with the sums
        total = self.sum_with_grad(torch.cat([x.float().sum(0).flatten(), count]))
        return (total[:-1] / total[-1].detach().clamp(min=1)).view(x.shape[1:])

    def mean_count(self, count: int | Tensor, device: torch.device) -> Tensor:
        """A scalar: the mean of a count over the ranks that count.

        Divided by it instead of this rank's own count, a sum of this rank is its share of the mean over what
        all ranks have counted.
        """
        total = self.sum(torch.stack([torch.as_tensor(count, device=device), torch.ones((), device=device)]))
        return total[0] / total[1].clamp(min=1)

    @staticmethod
    def share_buffers(module: nn.Module) -> None:
        """Give every rank the first one's buffers: the running statistics of batch norms."""
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
