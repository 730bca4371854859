"""Span masks over frames, reproducible from (seed, update, utterance)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """The rule by which spans of masked frames are drawn.

    The rule is that of fairseq's compute_mask_indices with two differences. A mask depends only on (seed,
    update, id, view), so that it is the same in every process and after resuming, while fairseq's generator
    has no seed. And a clip that is too short for its spans is partly masked, where fairseq raises an error.

    prob: expected share of frames that the spans cover, if they do not overlap; length: frames of a span;
    min_spans: smallest number of spans per row; same_count: reduces the number of masked frames of every row
    to that of the row with the fewest.
    Source: Baevski et al. 2020, arXiv 2006.11477, section 3.1.
    """

    prob: float
    length: int
    seed: int
    min_spans: int = 2
    same_count: bool = True

    def draw(self, lengths: Tensor, total: int, ids: Tensor, update: int, view: int = 0) -> Tensor:
        """Draw the masks of a batch.

        lengths: (B,) valid frames; total: frames of the padded batch; ids: (B,) ints, one per clip.
        update: number of the update; -1 in evaluation, so that masks are always the same.
        view: number of the mask, if several are drawn for the same rows.
        Returns: (B, total) bool on the device of ``lengths``, True where masked. Padding is never masked, and
            at least one frame of each row is not masked.
        """
        draws = []
        for frames, number in zip(lengths.tolist(), ids.tolist(), strict=True):
            rng = np.random.default_rng([self.seed, update + 1, number, *([view] if view else [])])
            draws.append((rng, self._row(rng, int(frames))))
        fewest = min((len(masked) for _, masked in draws), default=0)
        mask = np.zeros((len(draws), total), dtype=bool)
        for row, (rng, masked) in zip(mask, draws, strict=True):
            if self.same_count and len(masked) > fewest:
                masked = rng.choice(masked, fewest, replace=False)
            row[masked] = True
        return torch.from_numpy(mask).to(lengths.device)

    def _row(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Draw the masked frames of one row, ascending; at most frames − 1 of them."""
        prob, length = self.prob, self.length
        if prob <= 0 or frames < 2:
            return np.empty(0, dtype=np.int64)
        # the random number rounds up with a probability equal to the fractional part
        spans = max(int(prob * frames / length + rng.random()), self.min_spans)
        # spans stay inside the clip, unless there would be fewer different starts than spans
        room = frames - length if frames - length > spans else spans + 1
        starts = rng.choice(min(room, frames), min(spans, room, frames), replace=False)
        # (spans, 1) + (length,) -> (spans · length,)
        masked = np.unique((starts[:, None] + np.arange(length)).ravel())
        masked = masked[masked < frames]
        if len(masked) >= frames:
            masked = np.sort(rng.choice(frames, min(max(round(prob * frames), 1), frames - 1), replace=False))
        return masked


def ids_of_clips(source: Tensor, lengths: Tensor) -> Tensor:
    """Return (B,) int64 checksums of the samples, which serve as ids for masks if a caller knows no others.

    source: (B, S) float; lengths: (B,) samples. A clip has the same id in every batch, on every rank and with
    any padding. Different clips have different ids, so that the batches of one update have different masks.
    """
    rows = source.detach().float().cpu().numpy()
    sizes = lengths.tolist()
    return torch.tensor([zlib.crc32(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)])
