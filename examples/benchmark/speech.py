"""Sounds like speech enough to be measured on: voiced and unvoiced stretches through moving resonances."""

from __future__ import annotations

import numpy as np

from fairseq_mtssl.frames import SAMPLE_RATE_HZ


def waveform(seconds: float, seed: int) -> np.ndarray:
    """(S,) float32 in [−1, 1], 16 kHz: stretches of 50 to 250 ms, each with a pitch and three formants."""
    rng = np.random.default_rng([seed, 7])
    total = round(seconds * SAMPLE_RATE_HZ)
    out = np.empty(total, dtype=np.float32)
    pitch, begin = rng.uniform(90, 220), 0
    while begin < total:
        count = min(int(rng.uniform(0.05, 0.25) * SAMPLE_RATE_HZ), total - begin)
        formants = rng.uniform((250, 800, 2000), (850, 2300, 3500))
        noise = rng.standard_normal(count)
        if rng.random() < 0.7:
            phase = np.arange(count) * pitch * rng.uniform(0.9, 1.1) / SAMPLE_RATE_HZ
            noise = 0.05 * noise + 8 * (np.diff(np.floor(phase), prepend=0.0) > 0)
        hertz = np.fft.rfftfreq(count, 1 / SAMPLE_RATE_HZ)
        envelope = sum(1 / (1 + ((hertz - formant) / 120) ** 2) for formant in formants)
        out[begin : begin + count] = np.fft.irfft(np.fft.rfft(noise) * envelope, count)
        begin += count
    return out / np.abs(out).max()


def utterances(lengths_s: tuple[float, ...], seed: int = 0) -> list[np.ndarray]:
    """One waveform a length."""
    return [waveform(seconds, seed + place) for place, seconds in enumerate(lengths_s)]
