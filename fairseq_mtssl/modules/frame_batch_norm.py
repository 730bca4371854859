"""Batch norm whose statistics are computed over the valid frames of a padded batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fairseq_mtssl.modules.rank_sums import RankSums


class FrameBatchNorm(nn.BatchNorm1d):
    """Batch norm over (B, C, T) whose statistics can be computed over the valid frames only, in float32.

    A single frame has no variance: it is normalised by the running statistics, and does not change them.
    ranks: computes the statistics over the batches of all ranks, so that all ranks have the same running
        statistics; None: over those of this process only, as in the paper's code.
    """

    ranks: RankSums | None = None

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        """Normalise a batch.

        x: (B, C, T), finite at padding too; keep: (B, 1, T), 1 at valid frames and 0 at padding, or None if
        all frames are valid.
        Returns: (B, C, T); in training with `keep`, padded frames have the value of the bias.
        """
        ranks = self.ranks if self.ranks is not None and self.ranks.several() else None
        if self.training and (keep is not None or ranks is not None):
            return self._masked(x, x.new_ones(len(x), 1, x.shape[2]) if keep is None else keep, ranks)
        if self.training and x.shape[0] * x.shape[2] > 1:
            return super().forward(x)
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _masked(self, x: Tensor, keep: Tensor, ranks: RankSums | None) -> Tensor:
        running = (self.running_mean, self.running_var)
        normed, mean, var, frames = _Normalise.apply(x.float(), keep.float(), *running, self.eps, ranks)
        self._track(mean, var, frames)
        if self.affine:
            normed = torch.addcmul(self.bias.float()[:, None], normed, self.weight.float()[:, None])
        return normed.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor, frames: Tensor) -> None:
        """Update the running statistics. mean, var: (C,), mean and biased variance of a batch of frames."""
        assert self.running_mean is not None and self.running_var is not None  # for mypy: always tracked
        assert self.num_batches_tracked is not None
        several = frames > 1
        momentum = torch.where(several, 0.1 if self.momentum is None else self.momentum, 0.0)
        unbiased = var * frames / (frames - 1).clamp(min=1)
        self.running_mean.add_((mean - self.running_mean) * momentum)
        self.running_var.add_((unbiased - self.running_var) * momentum)
        self.num_batches_tracked.add_(several)


class _Normalise(torch.autograd.Function):
    """Returns (x − mean) / √(var + eps) at valid frames and 0 at padding, the mean, the biased variance and
    the number of valid frames.

    Written with torch's operations, of which a dozen keep an array for the backward pass, it took a quarter
    of the speech head's time in the small recipes. Frames are masked by a multiplication: on a CPU,
    `masked_fill` with a mask that all channels share is several times slower. With ranks it computes what
    torch's SyncBatchNorm, which needs GPUs, would compute over the valid frames of all ranks.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        keep: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        eps: float,
        ranks: RankSums | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x: (B, C, T) float32; keep: (B, 1, T) float32; running_mean, running_var: (C,); ranks: as above.

        With a single valid frame the running statistics are used, and no gradient passes through them.
        """
        frames, sums = keep.sum(), (x * keep).sum((0, 2))
        if ranks is not None:
            # (C,) and a scalar -> (C + 1,): one collective call for both
            total = ranks.sum(torch.cat([sums, frames[None]]))
            sums, frames = total[:-1], total[-1].clone()
        several, count = frames > 1, frames.clamp(min=1)
        mean = sums / count
        squares = x.sub(mean[:, None]).mul_(keep).square_().sum((0, 2))
        var = (squares if ranks is None else ranks.sum(squares)) / count
        centre = torch.where(several, mean, running_mean.float())
        rstd = torch.rsqrt(torch.where(several, var, running_var.float()) + eps)
        normed = x.sub(centre[:, None]).mul_(rstd[:, None]).mul_(keep)
        # a batch that does not count is not part of the statistics, which then pass no gradient to it
        share = several / count if ranks is None or ranks.counted else torch.zeros_like(count)
        ctx.save_for_backward(normed, keep, rstd, share)
        ctx.ranks = ranks
        ctx.mark_non_differentiable(mean, var, frames)
        return normed, mean, var, frames

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> Any:
        normed, keep, rstd, share = ctx.saved_tensors
        slope = grad * keep
        mean, projection = slope.sum((0, 2)), (slope * normed).sum((0, 2))
        if ctx.ranks is not None:
            mean, projection = ctx.ranks.reduce(torch.stack([mean, projection]))
        mean, projection = mean * share, projection * share
        slope.sub_(mean[:, None]).addcmul_(normed, projection[:, None], value=-1.0).mul_(rstd[:, None])
        return slope.mul_(keep), None, None, None, None, None
