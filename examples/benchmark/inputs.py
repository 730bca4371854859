"""Made-up speech, and batches of it for an update: in memory, or read from files by worker processes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from examples.benchmark.parts import Size
from examples.benchmark.sides import model_config
from fairseq_mtssl.data.audio import normalise
from fairseq_mtssl.frames import SAMPLE_RATE_HZ, conv_length, parse_conv_layers
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.tasks.mt4ssl import Mt4sslTask, Mt4sslTaskConfig


def waveform(seconds: float, seed: int) -> np.ndarray:
    """(S,) float32 in [−1, 1], 16 kHz: voiced and unvoiced stretches of 50 to 250 ms with three formants."""
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
    """A waveform of each length."""
    return [waveform(seconds, seed + place) for place, seconds in enumerate(lengths_s)]


SPECIAL_SYMBOLS = 4  # at the beginning of fairseq's dictionaries


def batch(shape: tuple[int, float], size: Size, seed: int) -> dict[str, Any]:
    """Clips of one length as in the output of the collater, with a mask. shape: (clips, seconds)."""
    clips, seconds = shape
    wavs = [torch.from_numpy(normalise(waveform(seconds, 1000 * seed + row))) for row in range(clips)]
    source = torch.stack(wavs)
    frames = frames_of(source.size(1), size)
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(SPECIAL_SYMBOLS, size.classes, (clips, frames), generator=generator)
    lengths = torch.full((clips,), source.size(1), dtype=torch.long)
    return {
        "id": torch.arange(clips),
        "net_input": {"source": source, "lengths": lengths, "mask": mask(clips, frames, size, seed)},
        "labels": [labels],
        "ntokens": source.numel(),
        "nsentences": clips,
    }


def frames_of(samples: int, size: Size) -> int:
    """The number of frames of a clip."""
    return conv_length(samples, parse_conv_layers(model_config(size).conv_feature_layers))


def mask(clips: int, frames: int, size: Size, seed: int) -> torch.Tensor:
    """(B, T) bool, with the masking of the recipe."""
    cfg = model_config(size)
    masking = Masking(cfg.mask_prob, cfg.mask_length, 1, cfg.mask_min_spans, cfg.same_mask_count)
    return masking.draw(torch.full((clips,), frames), frames, torch.arange(clips), update=seed)


def in_memory(size: Size, shape: tuple[int, float]) -> Iterator[dict[str, Any]]:
    """Two batches in turn, without end."""
    return itertools.cycle([batch(shape, size, seed) for seed in (1, 2)])


def from_files(size: Size, shape: tuple[int, float], workers: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Two batches in turn, without end, which workers read from WAVE files and collate."""
    clips, seconds = shape
    cfg = corpus(size, shape, folder)
    dataset = Mt4sslTask(cfg).load_dataset("train")
    order: Any = itertools.cycle([list(range(clips)), list(range(clips, 2 * clips))])
    loader: Any = torch.utils.data.DataLoader(
        dataset, batch_sampler=order, collate_fn=dataset.collater, num_workers=workers
    )
    chosen = mask(clips, frames_of(round(seconds * SAMPLE_RATE_HZ), size), size, 1)
    for found in loader:
        found["net_input"]["mask"] = chosen
        yield found


def corpus(size: Size, shape: tuple[int, float], folder: Path) -> Mt4sslTaskConfig:
    """Write audio, manifest and labels of two batches. Returns: the configuration of the task."""
    clips, seconds = shape
    clusters = size.classes - SPECIAL_SYMBOLS
    rng = np.random.default_rng(0)
    names, ids = [str(folder)], []
    for row in range(2 * clips):
        wav = waveform(seconds, row)
        soundfile.write(folder / f"{row}.wav", wav, SAMPLE_RATE_HZ)
        names.append(f"{row}.wav\t{len(wav)}")
        ids.append(" ".join(map(str, rng.integers(clusters, size=frames_of(len(wav), size)))))
    labels = folder / "labels"
    labels.mkdir()
    (folder / "train.tsv").write_text("\n".join(names) + "\n")
    (labels / "train.km").write_text("\n".join(ids) + "\n")
    (labels / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(clusters)))
    (labels / "targets.json").write_text(f'{{"rate_hz": 50.0, "clusters": {clusters}}}')
    cfg = Mt4sslTaskConfig(data=str(folder), labels=[str(labels)], min_duration_s=0.1)
    cfg.max_duration_s, cfg.conv_feature_layers = seconds, model_config(size).conv_feature_layers
    cfg.phase_ratio, cfg.seed, cfg.train_subset, cfg.max_update = None, 1, "train", 0
    return cfg


def move(sample: Any, device: torch.device) -> Any:
    """A batch on a device."""
    if torch.is_tensor(sample):
        return sample.to(device, non_blocking=True)
    if isinstance(sample, dict):
        return {name: move(value, device) for name, value in sample.items()}
    return [move(value, device) for value in sample] if isinstance(sample, list) else sample
