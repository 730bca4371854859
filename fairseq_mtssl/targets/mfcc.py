"""MFCCs of whole utterances at 100 Hz: Kaldi's, computed in blocks of frames with matrices made once."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.frames import SAMPLE_RATE_HZ, frame_count

CEPSTRA, MEL_BINS, LIFTER = 13, 23, 22
LOW_HZ, PRE_EMPHASIS, SPECTRUM_SIZE = 20.0, 0.97, 512
FLOOR = float(np.finfo(np.float32).eps)
BLOCK_FRAMES = 256  # whose windows and spectra stay in a core's cache, 1 MB


class Mfcc:
    """13 MFCCs with first and second differences: 39 dimensions at 100 Hz, as HuBERT's first iteration.

    Kaldi's defaults without dither and energy: windows of 25 ms, 23 mel filters from 20 Hz, lifter 22.
    centred: from each coefficient its mean over the utterance is taken away, and with it much of what the
    microphone and the voice add to all frames alike.
    Source: Hsu et al. 2021, arXiv 2106.07447; the options of fairseq's dump_mfcc_feature.py.
    """

    dim = 3 * CEPSTRA
    hop_samples = SAMPLE_RATE_HZ // 100
    window_samples = SAMPLE_RATE_HZ // 40

    def __init__(self, centred: bool = False) -> None:
        self.centred = centred
        self.source: dict[str, Any] = {"features": "mfcc-cmn" if centred else "mfcc"}

    def extract(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See Features."""
        return [self._extract_one(wav) for wav in wavs]

    def _extract_one(self, wav: np.ndarray) -> np.ndarray:
        frames = frame_count(len(wav), self.hop_samples, self.window_samples)
        if frames == 0:
            return np.zeros((0, self.dim), dtype=np.float32)
        with torch.inference_mode():
            static = _cepstra(torch.from_numpy(np.ascontiguousarray(wav, dtype=np.float32)), frames).numpy()
        if self.centred:
            static -= static.mean(0)
        first = differences(static)
        return np.concatenate([static, first, differences(first)], axis=1)


def _cepstra(wav: Tensor, frames: int) -> Tensor:
    """(S,) -> (T, 13)."""
    window, mel, cosines = _matrices()
    size, hop = Mfcc.window_samples, Mfcc.hop_samples
    # Kaldi takes away the mean of each window and then emphasises. Both are linear: emphasise all, then take
    # away what that leaves of the mean. Only the first sample of a window would differ; its weight is 0.
    emphasised = torch.cat([wav[:1], wav[1:] - PRE_EMPHASIS * wav[:-1]]).unfold(0, size, hop)
    means = wav.unfold(0, size, hop).mean(1, keepdim=True) * (1 - PRE_EMPHASIS)
    padded = wav.new_zeros(min(frames, BLOCK_FRAMES), SPECTRUM_SIZE)
    found = wav.new_empty(frames, CEPSTRA)
    for start in range(0, frames, BLOCK_FRAMES):
        part = slice(start, min(start + BLOCK_FRAMES, frames))
        block = padded[: part.stop - part.start]
        torch.sub(emphasised[part], means[part], out=block[:, :size])
        block[:, :size].mul_(window)
        power = torch.view_as_real(torch.fft.rfft(block)).square_().sum(-1)
        torch.mm((power @ mel).clamp_(min=FLOOR).log_(), cosines, out=found[part])
    return found


@lru_cache(maxsize=1)
def _matrices() -> tuple[Tensor, Tensor, Tensor]:
    """Povey's window (400,), mel filters (257, 23), the cosine transform with its lifter (23, 13)."""
    time = torch.arange(Mfcc.window_samples, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * time / (Mfcc.window_samples - 1))) ** 0.85
    edges = torch.linspace(_mel(LOW_HZ), _mel(SAMPLE_RATE_HZ / 2), MEL_BINS + 2, dtype=torch.float64)
    hertz = torch.arange(SPECTRUM_SIZE // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / SPECTRUM_SIZE
    places = 1127 * torch.log1p(hertz / 700)
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (places[:, None] - left) / (centre - left)
    falling = (right - places[:, None]) / (right - centre)
    mel = torch.minimum(rising, falling).clamp(min=0)
    order = torch.arange(CEPSTRA, dtype=torch.float64)
    cosines = torch.cos(math.pi * order * (torch.arange(MEL_BINS)[:, None] + 0.5) / MEL_BINS)
    cosines *= torch.where(order == 0, 1.0, 2.0).div(MEL_BINS).sqrt()
    cosines *= 1 + LIFTER / 2 * torch.sin(math.pi * order / LIFTER)
    return window.float(), mel.float(), cosines.float()


def _mel(hertz: float) -> float:
    return 1127 * math.log1p(hertz / 700)


def differences(frames: np.ndarray) -> np.ndarray:
    """(T, D) -> (T, D): slope over five frames, the edges repeated; d_t = Σ n (c_{t+n} − c_{t−n}) / 10."""
    padded = np.pad(frames, ((2, 2), (0, 0)), mode="edge")
    slope = (padded[3:-1] - padded[1:-3]) + 2 * (padded[4:] - padded[:-4])
    return (slope / 10).astype(np.float32)
