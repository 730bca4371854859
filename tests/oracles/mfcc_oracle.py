"""Kaldi's log-mel and MFCCs frame by frame in float64, from its documentation: what ours are held to."""

from __future__ import annotations

import numpy as np

RATE_HZ, WINDOW, HOP, FFT = 16_000, 400, 160, 512
BINS, LOW_HZ, CEPSTRA, LIFTER = 23, 20.0, 13, 22.0
FLOOR = float(np.finfo(np.float32).eps)


def mel(hz: float) -> float:
    return 1127.0 * np.log1p(hz / 700.0)


def mel_banks(bins: int) -> np.ndarray:
    """(bins, FFT / 2 + 1) triangles, even in mel; the last FFT bin is in none."""
    edges = np.linspace(mel(LOW_HZ), mel(RATE_HZ / 2), bins + 2)
    banks = np.zeros((bins, FFT // 2 + 1))
    for b in range(bins):
        left, centre, right = edges[b : b + 3]
        for i in range(FFT // 2):
            m = mel(i * RATE_HZ / FFT)
            if left < m < right:
                banks[b, i] = (m - left) / (centre - left) if m <= centre else (right - m) / (right - centre)
    return banks


def log_mel(wav: np.ndarray, bins: int) -> np.ndarray:
    """(S,) -> (T, bins)."""
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / (WINDOW - 1))) ** 0.85
    banks = mel_banks(bins)
    rows = []
    for start in range(0, len(wav) - WINDOW + 1, HOP):
        frame = wav[start : start + WINDOW].astype(np.float64)
        frame = frame - frame.mean()
        emphasised = frame - 0.97 * np.concatenate([frame[:1], frame[:-1]])
        power = np.abs(np.fft.rfft(emphasised * povey, FFT)) ** 2
        rows.append(np.log(np.maximum(banks @ power, FLOOR)))
    return np.array(rows)


def mfcc(wav: np.ndarray) -> np.ndarray:
    """(S,) -> (T, 13)."""
    rows = []
    for logs in log_mel(wav, BINS):
        row = []
        for k in range(CEPSTRA):
            scale = np.sqrt((1 if k == 0 else 2) / BINS)
            cepstrum = scale * sum(logs[n] * np.cos(np.pi * k * (n + 0.5) / BINS) for n in range(BINS))
            row.append(cepstrum * (1 + 0.5 * LIFTER * np.sin(np.pi * k / LIFTER)))
        rows.append(row)
    return np.array(rows)


def differences(frames: np.ndarray) -> np.ndarray:
    """(T, D) -> (T, D), term by term with repeated edges."""
    last = len(frames) - 1
    return np.array(
        [
            sum(n * (frames[min(t + n, last)] - frames[max(t - n, 0)]) for n in (1, 2)) / 10.0
            for t in range(len(frames))
        ]
    )
