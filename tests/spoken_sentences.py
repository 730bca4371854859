"""Two folders laid out as those of the speechocean example, tones for speech, and the data made of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from examples.speechocean import speech
from examples.speechocean.run import TEST_SHARE, VALID_SHARE
from fairseq_mtssl.corpora.base import prepare
from fairseq_mtssl.data.manifest import read_audio_manifest

RATE_HZ = 16_000
SPEAKERS, TAKES = 6, 2


def write_tones(path: Path, seconds: float, hertz: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(round(seconds * RATE_HZ)) / RATE_HZ
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * hertz * time), RATE_HZ)


def make_folders(folder: Path) -> tuple[Path, Path]:
    """Aligned and further speech: 6 speakers × 2 aligned takes of 1 s, 3 other recordings of 2 s."""
    aligned, more = folder / "speechocean", folder / "speechocean-more"
    texts, phones = ["utt\tspeaker\twords\tphones"], ["utt\tstart\tend\tphone\tword"]
    for number in range(SPEAKERS * TAKES):
        name = f"{number:04d}"
        write_tones(aligned / "wav" / f"{name}.flac", 1.0, 200 + 10 * number)
        texts.append(f"{name}\ts{number // TAKES}\twe call it\tW IY K")
        ends = [("SIL", 0.0, 0.2), ("W", 0.2, 0.5), ("IY", 0.5, 0.53), ("K", 0.53, 0.9), ("SIL", 0.9, 1.0)]
        phones += [f"{name}\t{start}\t{end}\t{phone}\twe" for phone, start, end in ends]
    (aligned / "text.tsv").write_text("\n".join(texts) + "\n")
    (aligned / "phones.tsv").write_text("\n".join(phones) + "\n")
    lines = ["utt\tspeaker\twords"]
    for number in range(3):
        write_tones(more / "audio" / f"m{number}.wav", 2.0, 300)
        lines.append(f"m{number}\tt{number}\tit was a bear")
    (more / "text.tsv").write_text("\n".join(lines) + "\n")
    return aligned, more


def make_data(folders: tuple[Path, Path], out: Path, minutes: float = 0.1) -> Path:
    """The first two stages of the example."""
    aligned, more = folders
    words = ["--audio", aligned / "wav", "--alignment", aligned / "phones.tsv", "--item-span", "phone"]
    words += ["--speakers", aligned / "text.tsv", "--out", out]
    words += ["--valid-share", VALID_SHARE, "--test-share", TEST_SHARE]
    prepare("aligned_phones", [str(word) for word in words])
    add_speech(folders, out, minutes)
    return out


def add_speech(folders: tuple[Path, Path], out: Path, minutes: float) -> None:
    """The second stage alone. minutes: of labelled speech."""
    words = ["--data", out, "--speech", folders[0], "--more", folders[1], "--minutes", minutes]
    speech.main([str(word) for word in words])


def utterances(data: Path, split: str) -> list[str]:
    """The names of a split's recordings, in the order of its manifest."""
    return [Path(file).stem for file in read_audio_manifest(data / f"{split}.tsv").files]
