"""Log-mel filterbank energies at 100 Hz as in Kaldi, computed in blocks of frames."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.frames import SAMPLE_RATE_HZ, frame_count
from fairseq_mtssl.kernels.side_by_side import side_by_side

HOP_SAMPLES = SAMPLE_RATE_HZ // 100
WINDOW_SAMPLES = SAMPLE_RATE_HZ // 40
LOW_HZ, PRE_EMPHASIS, SPECTRUM_SIZE = 20.0, 0.97, 512
FLOOR = float(np.finfo(np.float32).eps)
BLOCK_FRAMES = 256  # frames whose windows and spectra, 1 MB, stay in the cache of a core


@torch.no_grad()
def log_mel(source: Tensor, bins: int) -> Tensor:
    """Compute log-mel energies: (B, S) waveforms -> (B, T, bins) float32, logarithms of each filter's power.

    The defaults are Kaldi's without dither and energy: windows of 25 ms every 10 ms, from which the mean is
    subtracted, pre-emphasis 0.97, Povey's window, triangular filters from 20 Hz to 8 kHz; T = frame_count(S).
    The computation is in float32 for every precision of the model, and without gradient.
    """
    frames = frame_count(source.size(1), HOP_SAMPLES, WINDOW_SAMPLES)
    source = source.float()
    energies = source.new_empty(len(source), frames, bins)
    if frames == 0:
        return energies
    window, mel = _matrices(bins, source.device)
    # Kaldi subtracts the mean of each window before the pre-emphasis. Both are linear, so here the
    # pre-emphasis of the whole waveform comes first, and the emphasised mean is subtracted from each window.
    # Only the first sample of a window differs, and its weight is 0.
    emphasised = source.clone()
    emphasised[:, 1:].sub_(source[:, :-1], alpha=PRE_EMPHASIS)
    # (B, S) -> (B, T, 400)
    emphasised = emphasised.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES)
    means = source.unfold(1, WINDOW_SAMPLES, HOP_SAMPLES).mean(2, keepdim=True) * (1 - PRE_EMPHASIS)
    step = max(1, BLOCK_FRAMES // len(source)) if source.device.type == "cpu" else frames

    def transform(start: int) -> None:
        part = slice(start, min(start + step, frames))
        padded = source.new_empty(len(source), part.stop - start, SPECTRUM_SIZE)
        padded[..., WINDOW_SAMPLES:] = 0
        inside = padded[..., :WINDOW_SAMPLES]
        torch.sub(emphasised[:, part], means[:, part], out=inside)
        inside.mul_(window)
        # (B, t, 257) complex -> (B, t, 514): real and imaginary part of each frequency in turn. The product
        # with the filters, which have two rows per frequency, adds their squares up.
        squares = torch.view_as_real(torch.fft.rfft(padded)).flatten(-2).square_()
        energies[:, part] = (squares @ mel).clamp_(min=FLOOR).log_()

    with torch.autocast(source.device.type, enabled=False):
        side_by_side(transform, range(0, frames, step))
    return energies


@lru_cache(maxsize=8)
@torch.inference_mode(False)  # cached tensors that are made in inference mode could only be used in it
def _matrices(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return Povey's window (400,) and the mel filters (514, bins), which have two rows per frequency."""
    time = torch.arange(WINDOW_SAMPLES, dtype=torch.float64)
    window = (0.5 - 0.5 * torch.cos(2 * math.pi * time / (WINDOW_SAMPLES - 1))) ** 0.85
    low, high = mel_of(torch.tensor([LOW_HZ, SAMPLE_RATE_HZ / 2], dtype=torch.float64)).tolist()
    edges = torch.linspace(low, high, bins + 2, dtype=torch.float64)
    hertz = torch.arange(SPECTRUM_SIZE // 2 + 1, dtype=torch.float64) * SAMPLE_RATE_HZ / SPECTRUM_SIZE
    frequencies = mel_of(hertz)[:, None]
    left, centre, right = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies - left) / (centre - left)
    falling = (right - frequencies) / (right - centre)
    mel = torch.minimum(rising, falling).clamp(min=0)
    return window.float().to(device), mel.float().repeat_interleave(2, dim=0).to(device)


def mel_of(hertz: Tensor) -> Tensor:
    """Convert frequencies in Hz to the mel scale."""
    return 1127 * torch.log1p(hertz / 700)


def hertz_of(mel: Tensor) -> Tensor:
    """Convert frequencies on the mel scale to Hz."""
    return 700 * torch.expm1(mel / 1127)
