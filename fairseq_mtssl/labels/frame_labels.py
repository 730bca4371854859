"""Cluster labels made beforehand: read, checked against the audio, laid on the encoder's frames.

A label folder holds `{split}.km` (one utterance a line, space-separated labels, in the order of
`{split}.tsv`), its binary twin `{split}.km.bin`, which is mapped into memory and made where it is absent,
`dict.km.txt` (`<label> 1` a line) and `targets.json` with their rate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from fairseq.data import Dictionary

from fairseq_mtssl.data.manifest import AudioManifest, read_lines
from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.frames import (
    IGNORED_LABEL,
    SAMPLE_RATE_HZ,
    ConvLayer,
    frame_rate_hz,
    min_samples,
)
from fairseq_mtssl.labels.km_files import open_labels

_AGAIN = "Make the labels again from this manifest (mtssl make-targets)."


def read_label_dictionary(folder: str | Path) -> Dictionary:
    """`dict.km.txt` as fairseq reads it: four special symbols, then the labels in the file's order.

    Raises: ManifestError if it is absent, empty, malformed or repeats a label, or if `targets.json`
    counts other clusters.
    """
    path = Path(folder) / "dict.km.txt"
    dictionary, errors = Dictionary(), []
    for number, line in enumerate(read_lines(path), start=1):
        label, _, count = line.partition(" ")
        if not label or not count.isdigit():
            errors.append(f"line {number}: got {line!r}, wanted <label> <count>.")
        elif label in dictionary:
            errors.append(f"line {number}: label {label!r} is there already. Name each label once.")
        else:
            dictionary.add_symbol(label, int(count))
    found = len(dictionary) - dictionary.nspecial
    clusters = _targets(folder).get("clusters")
    if not found and not errors:
        errors.append(f"holds no label. {_AGAIN}")
    if isinstance(clusters, int) and found > clusters and not errors:
        errors.append(f"{found} labels, but targets.json counts {clusters} clusters. {_AGAIN}")
    if errors:
        raise ManifestError(path, errors)
    return dictionary


def dictionary_of(symbols: Sequence[str]) -> Dictionary:
    """A dictionary of these symbols, the four special ones at the front included."""
    dictionary = Dictionary()
    for symbol in symbols[dictionary.nspecial :]:
        dictionary.add_symbol(symbol)
    return dictionary


def read_label_rate_hz(folder: str | Path) -> float:
    """Labels a second, as `targets.json` has them. Raises: ManifestError if it does not say."""
    rate = _targets(folder).get("rate_hz")
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < SAMPLE_RATE_HZ:
        raise ManifestError(
            Path(folder) / "targets.json",
            [f"rate_hz is {rate!r}, wanted labels a second, as 50 or 100. Say it by task.label_rate_hz."],
        )
    return float(rate)


def _targets(folder: str | Path) -> dict[str, object]:
    """`targets.json`, or nothing where there is none (label folders of other programs)."""
    path = Path(folder) / "targets.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ManifestError(path, [f"no JSON ({error}). {_AGAIN}"]) from error
    return content if isinstance(content, dict) else {}


@dataclass(frozen=True, eq=False)
class FrameLabels:
    """Labels of one split.

    values: labels of all utterances end to end, as places in indices; ends: (N + 1,) where each begins and
    ends; indices: (S,) int64 of the dictionary; per_frame: labels a frame of the encoder (2.0 for labels at
    100 Hz and frames at 50 Hz).
    """

    values: np.ndarray
    ends: np.ndarray
    indices: np.ndarray
    per_frame: float

    def __len__(self) -> int:
        return len(self.ends) - 1

    def frames(self, row: int, first: int, count: int) -> np.ndarray:
        """(count,) int64: the dictionary indices of frames first … first + count − 1 of an utterance.

        A frame past the last label has none (1). Of several labels a frame the first is taken, as fairseq's
        hubert does.
        """
        labels = self.values[self.ends[row] : self.ends[row + 1]]
        # 1e-6: so that a rate ratio such as 1 / 3 does not fall short of a whole number by rounding
        places = np.floor(np.arange(first, first + count) * self.per_frame + 1e-6).astype(np.int64)
        found = np.full(count, IGNORED_LABEL, dtype=np.int64)
        inside = places < len(labels)
        found[inside] = self.indices[labels[places[inside]]]
        return found


def read_frame_labels(
    path: str | Path,
    manifest: AudioManifest,
    dictionary: Dictionary,
    rate_hz: float,
    conv_layers: Sequence[ConvLayer],
) -> FrameLabels:
    """The labels of a `.km` file, checked against the manifest it belongs to.

    rate_hz: labels a second. conv_layers: of the encoder. An utterance may have one frame's worth of
    labels more or fewer than its samples give.
    Raises: ManifestError with every error: absent file, other number of lines than of utterances, other
    number of labels than the audio gives, a label that the dictionary lacks; all with line numbers.
    """
    path = Path(path)
    try:
        labels = open_labels(path)
    except OSError as error:
        raise ManifestError(
            path, [f"cannot be read: {error.strerror}. Give task.labels a folder of labels for this split."]
        ) from error
    per_frame = rate_hz / frame_rate_hz(conv_layers)
    slack = max(1, math.ceil(per_frame - 1e-6))
    errors: dict[int, list[str]] = {}  # of each line
    lengths = labels.wrong_lengths(manifest.sizes, rate_hz, min_samples(conv_layers), slack)
    for line, got, wrong in lengths:
        hint = _other_rate(got, int(manifest.sizes[line - 1]))
        errors[line] = [f"line {line}: {wrong}{hint} {_AGAIN}"]
    found = [dictionary.indices.get(symbol, -1) for symbol in labels.symbols]
    indices = np.array(found, dtype=np.int64)
    for line, (label, *_) in labels.lines_with(indices < dictionary.nspecial):
        unknown = f"line {line}: label {label!r} is not in dict.km.txt. Give the dictionary made with it."
        errors.setdefault(line, []).append(unknown)
    told = [each for line in sorted(errors) for each in errors[line]]
    if not labels.whole:
        told.append(f"the last line has no end: the file was cut short. {_AGAIN}")
    if len(labels) != len(manifest):
        told.append(
            f"{len(labels)} lines for the {len(manifest)} utterances of {manifest.path}; line i of each is "
            f"one utterance. Merge all shards in order, or m{_AGAIN[1:]}"
        )
    if told:
        raise ManifestError(path, told)
    return FrameLabels(labels.values, labels.ends, indices, per_frame)


def _other_rate(labels: int, samples: int) -> str:
    """The rate that so many labels would fit, if any does."""
    fit = [rate for rate in (25.0, 50.0, 100.0) if abs(labels - samples * rate / SAMPLE_RATE_HZ) <= 4]
    return f" They would fit {fit[0]:g} Hz: is rate_hz in targets.json right?" if fit else ""
