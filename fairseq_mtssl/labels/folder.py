"""Label folders: the one reader of cluster labels, for trainings and for commands.

A label folder holds

- `{split}.km`: one utterance per line in the order of `{split}.tsv`, labels separated by spaces;
- `{split}.km.bin`: the same in binary, which is mapped into memory, and written where it is absent;
- `dict.km.txt`: `<label> <count>` per line, which is what fairseq's `Dictionary` reads;
- `targets.json`: their rate and where they come from. Folders of other programs may lack it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_mtssl.data.dictionary import read_symbols
from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.frames import (
    IGNORED_LABEL,
    SAMPLE_RATE_HZ,
    SPECIAL_SYMBOLS,
    ConvLayer,
    frame_rate_hz,
    min_samples,
)
from fairseq_mtssl.labels.km_files import LabelFile, open_labels

TARGETS, DICTIONARY = "targets.json", "dict.km.txt"

WINDOW_SAMPLES = SAMPLE_RATE_HZ // 40
"""25 ms: the window of MFCCs and of wav2vec 2.0's convolutions."""

SLACK_HZ = 50
"""An utterance may have one frame of this rate more or fewer: one label at 50 Hz, two labels at 100 Hz."""

_AGAIN = "Make the labels again from this manifest (mtssl make-targets)."


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a split. Indexing gives the labels of an utterance, (T,) int32, 0 to clusters − 1.

    file: the lines of the `.km`. numbers: (S,) int32, for each distinct word of the file its place among the
    labels of the dictionary. clusters: labels of the dictionary. per_frame: labels per frame in `frames`
    (2.0 for labels at 100 Hz and an encoder at 50 Hz).
    """

    file: LabelFile
    numbers: np.ndarray
    clusters: int
    rate_hz: float
    per_frame: float = 1.0

    def __len__(self) -> int:
        return len(self.file)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[row] for row in range(len(self)))

    def __getitem__(self, row: int) -> np.ndarray:
        return self.numbers[self.file.line(row)]

    def frames(self, row: int, first: int, count: int) -> np.ndarray:
        """(count,) int64: the classes of frames first … first + count − 1 of an utterance.

        A class is the label's index in fairseq's dictionary, whose first four entries are special symbols. Of
        several labels per frame the first is taken, as in fairseq's hubert. A frame past the last label has
        the class IGNORED_LABEL.
        """
        labels = self.file.line(row)
        # 1e-6: so that a rate ratio such as 1 / 3 does not fall short of a whole number by rounding
        places = np.floor(np.arange(first, first + count) * self.per_frame + 1e-6).astype(np.int64)
        classes = np.full(count, IGNORED_LABEL, dtype=np.int64)
        inside = places < len(labels)
        classes[inside] = SPECIAL_SYMBOLS + self.numbers[labels[places[inside]]]
        return classes


class LabelFolder:
    """A label folder; nothing is read before it is asked for."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """The content of `targets.json`, empty where there is none. Raises: TargetError if it is no JSON."""
        path = self.path / TARGETS
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise TargetError(path, [f"cannot be used ({error}). Delete it and run again."]) from error
        return content if isinstance(content, dict) else {}

    @cached_property
    def symbols(self) -> list[str]:
        """The labels of `dict.km.txt`, in its order.

        Raises: ManifestError as `read_symbols` does, or if there are more labels than `targets.json` counts
        clusters.
        """
        path = self.path / DICTIONARY
        symbols = read_symbols(path, "label", _AGAIN)
        clusters = self.about.get("clusters")
        if isinstance(clusters, int) and len(symbols) > clusters:
            got = f"{len(symbols)} labels, but {TARGETS} counts {clusters} clusters"
            raise TargetError(path, [f"{got}. {_AGAIN}"])
        return symbols

    @property
    def rate_hz(self) -> float:
        """Labels per second, as `targets.json` has them. Raises: TargetError if it does not say."""
        rate = self.about.get("rate_hz")
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < SAMPLE_RATE_HZ:
            what = f"rate_hz is {rate!r}" if self.about else "no finished targets"
            wanted = "wanted labels per second, such as 50 or 100"
            hint = "Finish mtssl make-targets, or give a training the rate as task.label_rate_hz"
            raise TargetError(self.path / TARGETS, [f"{what}, {wanted}. {hint}."])
        return float(rate)

    def labels(
        self,
        split: str,
        sizes: Sequence[int] | np.ndarray,
        *,
        symbols: Sequence[str] | None = None,
        rate_hz: float | None = None,
        conv_layers: Sequence[ConvLayer] | None = None,
    ) -> Labels:
        """Read `{split}.km` and check every line against its utterance.

        sizes: (N,) samples of the manifest's rows. symbols: the labels of a checkpoint's dictionary, in place
        of the folder's. rate_hz: labels per second, in place of the folder's. conv_layers: of the encoder
        whose frames `Labels.frames` gives; None: one frame per label.
        The number of labels that an utterance should have follows from its samples, the rate, and the window
        of `targets.json`, or where that says none, of the encoder. It may differ by a frame of SLACK_HZ.
        Raises: TargetError with every error: absent file, another number of lines than of utterances, a line
        with another number of labels than the audio gives, an unknown label, a line that is cut off.
        """
        path = self.path / f"{split}.km"
        rate_hz = self.rate_hz if rate_hz is None else rate_hz
        symbols = self.symbols if symbols is None else symbols
        try:
            file = open_labels(path)
        except OSError as error:
            hint = "Make the labels of this split, or give task.labels or --labels a folder that has them."
            raise TargetError(path, [f"no such file, or unreadable: {error.strerror}. {hint}"]) from error
        window = self.about.get("window_samples") or (min_samples(conv_layers) if conv_layers else None)
        places = {symbol: place for place, symbol in enumerate(symbols)}
        numbers = np.array([places.get(symbol, -1) for symbol in file.symbols], dtype=np.int32)
        errors = _errors(file, split, np.asarray(sizes), rate_hz, int(window or WINDOW_SAMPLES), numbers)
        if errors:
            raise TargetError(path, errors)
        per_frame = rate_hz / frame_rate_hz(conv_layers) if conv_layers else 1.0
        return Labels(file, numbers, len(symbols), rate_hz, per_frame)


def _errors(
    file: LabelFile, split: str, sizes: np.ndarray, rate_hz: float, window_samples: int, numbers: np.ndarray
) -> list[str]:
    """Everything that is wrong with a `.km`, in the order of its lines. numbers: see Labels; -1: unknown."""
    slack = max(1, math.ceil(rate_hz / SLACK_HZ - 1e-6))
    by_line: dict[int, list[str]] = {}
    for line, count, wrong in file.wrong_lengths(sizes, rate_hz, window_samples, slack):
        by_line[line] = [f"{wrong}{_other_rate(count, int(sizes[line - 1]))} {_AGAIN}"]
    for line, unknown in file.lines_with(numbers < 0):
        listed = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        noun = "label" if len(unknown) == 1 else "labels"
        hint = f"Take the {DICTIONARY} that was made with these labels, or label again."
        by_line.setdefault(line, []).append(f"{noun} {listed} not in {DICTIONARY}. {hint}")
    errors = [f"{split}.km line {line}: {each}" for line in sorted(by_line) for each in by_line[line]]
    if not file.whole:
        errors.append(f"{split}.km line {len(file)}: cut off, with no line end. {_AGAIN}")
    if len(file) != len(sizes):
        got = f"{len(file)} lines for the {len(sizes)} utterances of {split}.tsv"
        errors.append(f"{got}; line i of each is one utterance. Merge all shards in order, or label again.")
    return errors


def _other_rate(labels: int, samples: int) -> str:
    """A hint at the rate that so many labels would fit, if any does."""
    fit = [rate for rate in (25.0, 50.0, 100.0) if abs(labels - samples * rate / SAMPLE_RATE_HZ) <= 4]
    return f" They would fit {fit[0]:g} Hz: is rate_hz in targets.json right?" if fit else ""
