"""Contrastive losses between paired speech and image embeddings, and negatives from other ranks."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from fairseq_mtssl.errors import PairCountError


def margin_info_nce(
    speech: Tensor, image: Tensor, margin: float = 1.0, same_image: Tensor | None = None
) -> Tensor:
    """Compute the paper's L_AV: margin softmax over the batch, in both directions.

    The scores are dot products, image · speechᵀ. From those on the diagonal `margin` is subtracted; those of
    other pairs of the same image become −∞, since they are not negatives. The loss is the cross-entropy over
    rows plus that over columns.

    speech, image: (B, D) float; row i of each is a pair. same_image: (B, B) bool, symmetric; its
    diagonal is ignored. Computed in float32 whatever the input and autocast.
    Returns: scalar in nats, the sum of both directions; 0 for B = 1, and with margin 0
        2·ln(B) when all rows tie (8.3 for 64).
    Raises: PairCountError if the two B differ; ValueError for a mask of another shape.
    Source: arXiv 2306.02972 (the published code has dot products where the text says cosine);
        Ilharco et al. 2019, arXiv 1909.08782, for the margin.
    """
    _check_pairs(speech, image, same_image)
    with torch.autocast(speech.device.type, enabled=False):
        scores = image.float() @ speech.float().T
        scores = scores - margin * torch.eye(len(scores), device=scores.device)
        return _both_directions(scores, same_image)


def info_nce(
    speech: Tensor, image: Tensor, scale: float | Tensor, same_image: Tensor | None = None
) -> Tensor:
    """Compute the L_AV of the preset `modern`: InfoNCE over scaled cosines, in both directions.

    speech, image: (B, D) float, rows of length 1, so that scores are cosines; row i of each is a pair.
    scale: > 0, a number or a learned scalar, multiplies the cosines; same_image: as in `margin_info_nce`.
    Computed in float32.
    Returns: scalar in nats, the *sum* of both directions (the common definition is their mean) so
        that curves compare with `margin_info_nce`: 2·ln(B) when all rows tie, 0 for B = 1.
    Raises: PairCountError if the two B differ; ValueError for a mask of another shape.
    Source: van den Oord et al. 2018, arXiv 1807.03748, eq. 4; Radford et al. 2021, arXiv 2103.00020.
    """
    _check_pairs(speech, image, same_image)
    with torch.autocast(speech.device.type, enabled=False):
        factor = scale.float() if isinstance(scale, Tensor) else scale
        return _both_directions(factor * (image.float() @ speech.float().T), same_image)


@torch.no_grad()
def tied_loss(same_image: Tensor, margin: float = 0.0) -> Tensor:
    """Return the value of both losses if all scores are equal: the loss at chance.

    same_image: (B, B) bool, symmetric, True on the diagonal; margin: of `margin_info_nce`, else 0.
    Returns: scalar in nats, the mean over rows of 2·ln(1 + n·exp(margin)), n being a row's number of
        negatives; 2·ln(B) with margin 0 and B different images.
    """
    negatives = (~same_image).sum(1).float()
    return 2.0 * torch.log1p(negatives * math.exp(margin)).mean()


def same_image_mask(image_ids: Tensor) -> Tensor:
    """Return which rows have the same image: (B,) int -> (B, B) bool, True on the diagonal."""
    return image_ids[:, None] == image_ids[None]


def _both_directions(scores: Tensor, same_image: Tensor | None) -> Tensor:
    """Return the cross-entropy over rows plus that over columns of (B, B) scores; row i matches column i."""
    pairs = torch.arange(len(scores), device=scores.device)
    if same_image is not None:
        is_ignored = same_image & ~torch.eye(len(scores), dtype=torch.bool, device=scores.device)
        scores = scores.masked_fill(is_ignored, float("-inf"))
    return F.cross_entropy(scores, pairs) + F.cross_entropy(scores.T, pairs)


def _check_pairs(speech: Tensor, image: Tensor, same_image: Tensor | None) -> None:
    if len(speech) != len(image) or len(speech) == 0:
        raise PairCountError(len(speech), len(image))
    wanted = (len(speech), len(speech))
    if same_image is not None and tuple(same_image.shape) != wanted:
        raise ValueError(f"same_image has shape {tuple(same_image.shape)}, wanted {wanted}")


def world_size(group: Any = None) -> int:
    """Return the number of ranks; 1 without torch.distributed."""
    return dist.get_world_size(group) if dist.is_available() and dist.is_initialized() else 1


def gather_with_grad(x: Tensor, group: Any = None) -> Tensor:
    """Concatenate the rows of all ranks in the order of ranks, with gradient.

    x: (B_r, …), any B_r ≥ 0 on each rank; the dtype and the other sizes are the same on all ranks. All ranks
    of `group` (None: all) must make the same calls in the same order.
    Returns: (Σ B_r, …), the same on all ranks; `x` itself without torch.distributed or on one rank.

    The backward pass *sums* the gradients of these rows over ranks. So after DistributedDataParallel's
    average over ranks, gradients of parameters are those of the mean of the ranks' losses. If every rank
    computes the same loss of all gathered rows, they equal those of one process with the whole batch, and no
    factor of the world size is needed (open_clip #616).
    """
    if world_size(group) == 1:
        return x
    return _Gather.apply(x, group)


def gather_rows(x: Tensor, group: Any = None) -> tuple[Tensor, list[int]]:
    """Concatenate the rows of all ranks without gradient; also return each rank's number of rows."""
    ranks = world_size(group)
    if ranks == 1:
        return x.detach(), [len(x)]
    counts = [torch.zeros(1, dtype=torch.long, device=x.device) for _ in range(ranks)]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device), group=group)
    rows = [int(count) for count in counts]
    padded = x.new_zeros((max(rows), *x.shape[1:]))
    padded[: len(x)] = x.detach()
    parts = [torch.empty_like(padded) for _ in range(ranks)]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)]), rows


def gather_pairs(
    speech: Tensor, image: Tensor, image_ids: Tensor, group: Any = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gather the pairs of all ranks, and find out which of them have the same image.

    speech, image: (B, D) of this rank, where B may differ between ranks and be 0; image_ids: (B,) int, which
    identify images on all ranks.
    Returns: speech (N, D), image (N, D), same_image (N, N) bool, for the N pairs of all ranks.
    """
    if len(speech) != len(image):
        raise PairCountError(len(speech), len(image))
    if world_size(group) > 1:
        # (B, D) + (B, D) -> (B, 2D): one collective forward and one backward instead of two.
        both = gather_with_grad(torch.cat([speech, image.to(speech.dtype)], dim=1), group)
        speech, image = both.chunk(2, dim=1)
        image_ids = gather_rows(image_ids, group)[0]
    return speech, image, same_image_mask(image_ids)


class _Gather(torch.autograd.Function):
    """All-gather forward; all-reduce (sum, float32) and slice backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Any) -> Tensor:
        gathered, rows = gather_rows(x, group)
        rank = dist.get_rank(group)
        ctx.group, ctx.start, ctx.size = group, sum(rows[:rank]), rows[rank]
        return gathered

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        # copied, since all_reduce writes into its argument, which might be a buffer of autograd
        total = grad.to(torch.float32, copy=True).contiguous()
        dist.all_reduce(total, group=ctx.group)
        return total[ctx.start : ctx.start + ctx.size].to(grad.dtype), None
