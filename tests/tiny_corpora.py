"""Tiny corpora of tones and grey squares, their labels and their transcripts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from fairseq_mtssl.data.manifest import PairRow, write_pair_manifest


def make_pairs(folder: Path, split: str, count: int, seed: int = 0, seconds: float = 0.4) -> None:
    """Tones of different heights paired with grey squares of different brightness, labelled low or high."""
    rng = np.random.default_rng([seed, len(split)])
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    (folder / "images").mkdir(exist_ok=True)
    rows = []
    for number in range(count):
        name = f"{split}_{number}"
        samples = int(16_000 * (seconds + 0.05 * (number % 3)))
        pitch = 200 + 1500 * number / count
        wav = 0.3 * np.sin(2 * np.pi * pitch * np.arange(samples) / 16_000)
        soundfile.write(folder / "audio" / f"{name}.wav", wav + 0.01 * rng.standard_normal(samples), 16_000)
        grey = np.full((16, 16, 3), int(250 * number / count), dtype=np.uint8)
        Image.fromarray(grey).save(folder / "images" / f"{name}.png")
        label = "low" if number < count / 2 else "high"
        rows.append(PairRow(f"{name}.wav", samples, name, f"{name}.png", name, label, "s0", f"tone {number}"))
    write_pair_manifest(folder, split, rows, audio_root="audio", image_root="images")


def make_corpus(folder: Path) -> Path:
    """A folder with train (10 pairs), valid (6) and test (6)."""
    for split, count in (("train", 10), ("valid", 6), ("test", 6)):
        make_pairs(folder, split, count)
    return folder


def make_labels(folder: Path, data: Path, clusters: int = 6, rate_hz: float = 50.0, seed: int = 0) -> Path:
    """A label folder for all splits of a corpus: random labels, as many as the audio has frames."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for table in data.glob("*.tsv"):
        sizes = [int(line.split("\t")[1]) for line in table.read_text().splitlines()[1:]]
        counts = [int((size - 400) // (16_000 / rate_hz)) + 1 for size in sizes]
        rows = [" ".join(map(str, rng.integers(clusters, size=count))) for count in counts]
        (folder / f"{table.stem}.km").write_text("".join(f"{row}\n" for row in rows))
    (folder / "dict.km.txt").write_text("".join(f"{label} 1\n" for label in range(clusters)))
    (folder / "targets.json").write_text(json.dumps({"rate_hz": rate_hz, "clusters": clusters}))
    return folder


def write_transcripts(data: Path) -> None:
    """Three letters and a word end an utterance, by its number."""
    for table in data.glob("*.tsv"):
        count = len(table.read_text().splitlines()) - 1
        lines = [f"{'AB'[row % 2]} {'BC'[row % 3 % 2]} |" for row in range(count)]
        (data / f"{table.stem}.ltr").write_text("".join(f"{line}\n" for line in lines))
    (data / "dict.ltr.txt").write_text("| 10\nA 5\nB 8\nC 3\n")
