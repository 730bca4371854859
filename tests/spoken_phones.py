"""A corpus whose phones are tones: manifests and phones, as aligned_phones.py writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import soundfile

from fairseq_mtssl.corpora.base import prepare

TONES_HZ = {
    "sil": 0,
    "lo": 300,
    "mi": 1000,
    "hi": 3000,
}  # whole periods in 20 ms: frames of a phone are alike
SEGMENT_SAMPLES = 1760  # 5.5 frames


def make_spoken_phones(folder: Path, utterances: int = 6, segments: int = 6) -> Path:
    """A data folder: speakers a and b in train, c in valid, d in test, each with so many utterances."""
    rng = np.random.default_rng(0)
    (folder / "wav").mkdir(parents=True)
    rows = ["utterance\tstart_s\tend_s\tphone\tword\tspeaker"]
    for place, speaker in enumerate("abcd"):
        for number in range(utterances):
            name = f"{speaker}{number}"
            phones = ["sil", *rng.choice(["lo", "mi", "hi"], size=segments - 1)]
            hertz = np.repeat([TONES_HZ[phone] for phone in phones], SEGMENT_SAMPLES)
            loudness = 0.3 + 0.1 * place
            wav = loudness * np.sin(2 * np.pi * hertz * np.arange(len(hertz)) / 16_000)
            wav += 0.01 * rng.standard_normal(len(wav))
            soundfile.write(folder / "wav" / f"{name}.wav", wav, 16_000)
            for segment, phone in enumerate(phones):
                start, end = (SEGMENT_SAMPLES * each / 16_000 for each in (segment, segment + 1))
                rows.append(f"{name}\t{start:.4f}\t{end:.4f}\t{phone}\t\t{speaker}")
    (folder / "phones.tsv").write_text("".join(f"{row}\n" for row in rows))
    words = ["--audio", folder / "wav", "--alignment", folder / "phones.tsv", "--out", folder / "data"]
    words += ["--valid-speakers", "c", "--test-speakers", "d"]
    prepare("aligned_phones", [str(word) for word in words])
    return folder / "data"
