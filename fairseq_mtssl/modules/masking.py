"""Span masks over frames, reproducible from (seed, update, utterance)."""

from __future__ import annotations

import torch
from fairseq.data.data_utils import compute_mask_indices
from torch import Tensor

from fairseq_mtssl.frames import padding_mask


def span_mask(
    lengths: Tensor,
    total: int,
    *,
    prob: float,
    length: int,
    min_spans: int = 2,
    same_count: bool = True,
    seed: int,
    update: int,
    ids: Tensor,
) -> Tensor:
    """Choose the frames the student must predict.

    lengths: (B,) valid frames; total: frames of the padded batch.
    prob: expected share of frames covered before overlaps; length: frames of a span.
    same_count: every row keeps as many masked frames as the row with the fewest.
    seed, update, ids (B,): the same numbers give the same mask, in any process and after a resume;
        without them fairseq would draw from an unseeded generator.
    Returns: (B, total) bool on the device of ``lengths``, True where masked; never at padding.
    Source: Baevski et al. 2020, arXiv 2006.11477, section 3.1; fairseq's compute_mask_indices.
    """
    padded = padding_mask(lengths, total).cpu()
    usable = lengths.cpu() >= 2
    mask = torch.zeros(lengths.numel(), total, dtype=torch.bool)
    rows = usable.nonzero().squeeze(1)
    if rows.numel() and prob > 0:
        mask[rows] = torch.from_numpy(
            compute_mask_indices(
                (int(rows.numel()), total),
                padded[rows] if bool(padded.any()) else None,
                prob,
                length,
                min_masks=min_spans,
                require_same_masks=same_count,
                seed=seed,
                epoch=update,
                indices=ids.cpu()[rows],
            )
        )
    return mask.to(lengths.device)
