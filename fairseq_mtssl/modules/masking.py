"""Span masks over frames, reproducible from (seed, update, utterance)."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Masking:
    """How the frames that the student must predict are chosen.

    Spans as fairseq's compute_mask_indices draws them, with two differences: the draw follows from
    (seed, update, id, view) alone, the same in any process and after a resume, where fairseq's generator is
    unseeded; and a clip too short for its spans is masked in part, where fairseq raises.

    prob: expected share of frames covered before overlaps; length: frames of a span. min_spans: of each row.
    same_count: every row keeps as many masked frames as the row with the fewest.
    Source: Baevski et al. 2020, arXiv 2006.11477, section 3.1.
    """

    prob: float
    length: int
    seed: int
    min_spans: int = 2
    same_count: bool = True

    def draw(self, lengths: Tensor, total: int, ids: Tensor, update: int, view: int = 0) -> Tensor:
        """Draw the masks of a batch.

        lengths: (B,) valid frames; total: frames of the padded batch; ids: (B,) ints.
        update: of the training; negative in evaluation, so that masks stay the same.
        view: which of several masks of the same rows.
        Returns: (B, total) bool on the device of ``lengths``, True where masked; never at padding, and at
            least one frame of each row stays unmasked. A row of one frame is not masked.
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
        """Masked frames of one row, ascending; at most frames − 1 of them."""
        prob, length = self.prob, self.length
        if prob <= 0 or frames < 2:
            return np.empty(0, dtype=np.int64)
        # The random number rounds up or down in proportion to the fraction.
        spans = max(int(prob * frames / length + rng.random()), self.min_spans)
        # Keep spans inside the clip, and leave room for as many different starts.
        room = frames - length if frames - length > spans else spans + 1
        starts = rng.choice(min(room, frames), min(spans, room, frames), replace=False)
        # (spans, 1) + (length,) -> (spans · length,)
        masked = np.unique((starts[:, None] + np.arange(length)).ravel())
        masked = masked[masked < frames]
        if len(masked) >= frames:
            masked = np.sort(rng.choice(frames, min(max(round(prob * frames), 1), frames - 1), replace=False))
        return masked


def ids_of_clips(source: Tensor, lengths: Tensor) -> Tensor:
    """(B,) int64 checksums of the samples, to draw masks from where a caller knows no other ids.

    source: (B, S) float; lengths: (B,) samples. A clip has the same id in any batch, on any rank and however
    wide its batch is padded, and other clips have other ids, so that the batches of one update draw masks of
    their own.
    """
    rows = source.detach().float().cpu().numpy()
    sizes = lengths.tolist()
    return torch.tensor([zlib.crc32(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)])
