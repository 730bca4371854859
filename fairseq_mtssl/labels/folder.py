"""Labels: given to frames by a codebook, read back, held to the frames of the utterances they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fairseq_mtssl.errors import TargetError
from fairseq_mtssl.frames import SAMPLE_RATE_HZ
from fairseq_mtssl.labels.km_files import LabelFile, open_labels
from fairseq_mtssl.labels.shards import DICTIONARY, read_dictionary

TARGETS = "targets.json"
WINDOW_SAMPLES = SAMPLE_RATE_HZ // 40  # 25 ms: of MFCCs and of wav2vec 2.0's convolutions
BLOCK_ROWS = 8192
AGAIN = "Dump features again from this manifest, then label again."


class Quantizer:
    """Gives each frame the number of the nearest centroid, the lowest on ties.

    Distances are ‖x‖² − 2x·c + ‖c‖² in float32; a frame whose two best are closer than float32 can tell is
    decided in float64, so that labels do not depend on which frames come together.
    centroids: (K, D) float32.
    """

    def __init__(self, centroids: np.ndarray, device: torch.device | str = "cpu") -> None:
        exact = torch.from_numpy(np.asarray(centroids, dtype=np.float64)).to(device)
        self._centre = exact.mean(0).float()
        self._exact = exact - self._centre  # shorter vectors, smaller errors
        self._fast = self._exact.float()
        self._squares = self._exact.pow(2).sum(1)
        self._longest = float(self._squares.max().sqrt())
        # of a product of D terms, twice, in two distances
        self._error = 4 * (exact.size(1) + 4) * float(torch.finfo(torch.float32).eps)

    def __call__(self, features: np.ndarray | Tensor) -> np.ndarray:
        """(T, D) -> (T,) int64. Raises: TargetError for NaN, infinity or another D."""
        rows = torch.as_tensor(features)
        if rows.ndim != 2 or rows.size(1) != self._exact.size(1):
            got = f"shape {tuple(rows.shape)}, wanted (T, {self._exact.size(1)})"
            raise TargetError("features", [f"{got}. Take the codebook learned from these features."])
        blocks = [self._block(rows[start : start + BLOCK_ROWS]) for start in range(0, len(rows), BLOCK_ROWS)]
        return torch.cat(blocks).cpu().numpy() if blocks else np.zeros(0, dtype=np.int64)

    def _block(self, rows: Tensor) -> Tensor:
        rows = rows.to(self._exact.device)
        near = rows.float() - self._centre
        norms = near.pow(2).sum(1)
        if not bool(torch.isfinite(norms).all()):
            bad = int(torch.where(~torch.isfinite(norms))[0][0])
            raise TargetError("features", [f"frame {bad} holds NaN or infinity; the model has diverged."])
        if len(self._fast) == 1:
            return torch.zeros(len(rows), dtype=torch.long)
        distances = torch.addmm(self._squares.float(), near, self._fast.T, alpha=-2)
        best, labels = distances.min(1)
        second = distances.scatter_(1, labels.unsqueeze(1), torch.inf).amin(1)
        unsure = torch.where(second - best <= self._error * self._longest * (norms.sqrt() + self._longest))[0]
        if len(unsure):
            labels[unsure] = self._decide(rows[unsure].double() - self._centre)
        return labels

    def _decide(self, exact: Tensor) -> Tensor:
        """In float64; what even that cannot tell apart, as equal centroids, goes to the lowest number."""
        distances = torch.addmm(self._squares, exact, self._exact.T, alpha=-2)
        within = 1e-12 * self._exact.size(1) * (exact.pow(2).sum(1) + self._longest**2)
        tied = distances <= distances.min(1, keepdim=True).values + within.unsqueeze(1)
        return tied.int().argmax(1)  # the first of them


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of a split. Indexing gives (T,) int32 of an utterance.

    file: the lines; numbers: (S,) int32, the cluster that each of its symbols names; step: one label in how
    many is taken; rate_hz: of those taken.
    """

    file: LabelFile
    numbers: np.ndarray
    step: int
    rate_hz: float
    clusters: int

    def __len__(self) -> int:
        return len(self.file)

    def __iter__(self) -> Iterator[np.ndarray]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> np.ndarray:
        first, end = self.file.ends[index : index + 2]
        return self.numbers[self.file.values[first : end : self.step]]

    @property
    def offsets(self) -> np.ndarray:
        """(N + 1,) int64: where each utterance would begin if all were laid end to end."""
        return np.concatenate([[0], np.cumsum(-(-np.diff(self.file.ends) // self.step))])


def hop_of(rate_hz: float, place: str | Path) -> int:
    """Samples of a frame. Raises: TargetError for a rate of no whole number of samples."""
    hop = round(SAMPLE_RATE_HZ / rate_hz) if rate_hz > 0 else 0
    if hop < 1 or abs(hop * rate_hz - SAMPLE_RATE_HZ) > 1e-6 * SAMPLE_RATE_HZ:
        got = f"rate_hz {rate_hz}, wanted {SAMPLE_RATE_HZ} divided by a whole number, such as 50 or 100"
        raise TargetError(place, [f"{got}. Give the rate of the features that were clustered."])
    return hop


def read_labels(
    path: str | Path,
    sizes: Sequence[int] | np.ndarray,
    *,
    clusters: int,
    rate_hz: float,
    wanted_rate_hz: float | None = None,
    subsample: bool = False,
    window_samples: int = WINDOW_SAMPLES,
) -> Labels:
    """Read a .km and hold every line to the frames of its utterance.

    sizes: (N,) samples, of the manifest's rows. rate_hz: of the labels; wanted_rate_hz: of whoever uses them.
    subsample: take one label in two, three, … where their rate is a multiple, instead of refusing it.
    Returns: labels at the wanted rate, as many as the file has: they may be one more or less than the frames.
    Raises: TargetError with every error: absent file, another number of lines, a line more than one label
    off its frames, a label that the dictionary lacks, a line cut off, another rate.
    """
    path = Path(path)
    step = label_step(path, rate_hz, wanted_rate_hz, subsample)
    hop_of(rate_hz, path)
    try:
        file = open_labels(path)
    except OSError as error:
        hint = "Make the targets of this split, or name another."
        raise TargetError(path, [f"no such file, or unreadable: {error.strerror}. {hint}"]) from error
    errors = []
    if len(file) != len(sizes):
        errors.append(f"{path.name}: {len(file)} lines for {len(sizes)} rows of the manifest. {AGAIN}")
    lengths = file.wrong_lengths(np.asarray(sizes), rate_hz, window_samples, slack=1)
    errors += [f"{path.name} line {line}: {wrong} {AGAIN}" for line, _, wrong in lengths]
    numbers = np.array([_number(symbol, clusters) for symbol in file.symbols], dtype=np.int32)
    for line, unknown in file.lines_with(numbers < 0):
        listed = ", ".join(sorted(unknown, key=lambda word: (len(word), word))[:5])
        listed += ", …" if len(unknown) > 5 else ""
        got = f"unknown labels {listed}; the dictionary has 0 to {clusters - 1}"
        hint = f"Take the {DICTIONARY} that was written with these labels, or label again."
        errors.append(f"{path.name} line {line}: {got}. {hint}")
    if not file.whole:
        errors.append(f"{path.name} line {len(file)}: cut off, with no line end. {AGAIN}")
    if errors:
        raise TargetError(path, errors)
    return Labels(file, numbers, step, rate_hz / step, clusters)


def _number(symbol: str, clusters: int) -> int:
    """The cluster that a symbol names, -1 if none."""
    known = symbol.isascii() and symbol.isdigit() and len(symbol) < 10 and int(symbol) < clusters
    return int(symbol) if known else -1


def label_step(path: Path, rate_hz: float, wanted_rate_hz: float | None, subsample: bool) -> int:
    """One label in how many is taken. Raises: TargetError if the rates do not fit, or not without asking."""
    if wanted_rate_hz is None or abs(rate_hz - wanted_rate_hz) < 1e-6:
        return 1
    step = round(rate_hz / wanted_rate_hz)
    got = f"labels at {rate_hz:g} Hz for a model at {wanted_rate_hz:g} Hz"
    if step < 2 or abs(step * wanted_rate_hz - rate_hz) > 1e-6:
        raise TargetError(path, [f"{got}. Make targets of features at {wanted_rate_hz:g} Hz."])
    if not subsample:
        hint = f"Ask for one label in {step} (subsample), or make targets at {wanted_rate_hz:g} Hz."
        raise TargetError(path, [f"{got}. {hint}"])
    return step


@dataclass(frozen=True)
class Targets:
    """A folder that make-targets wrote. about: all of its targets.json."""

    folder: Path
    rate_hz: float
    window_samples: int
    clusters: int
    about: dict[str, Any]

    def labels(
        self,
        split: str,
        sizes: Sequence[int] | np.ndarray,
        wanted_rate_hz: float | None = None,
        subsample: bool = False,
    ) -> Labels:
        """The labels of a split, as `read_labels`."""
        return read_labels(
            self.folder / f"{split}.km",
            sizes,
            clusters=self.clusters,
            rate_hz=self.rate_hz,
            wanted_rate_hz=wanted_rate_hz,
            subsample=subsample,
            window_samples=self.window_samples,
        )


def read_targets(folder: str | Path) -> Targets:
    """Open a folder of targets.

    Raises: TargetError if targets.json is absent or broken, or the dictionary has another number of labels.
    """
    path = Path(folder) / TARGETS
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        found = Targets(
            Path(folder), float(about["rate_hz"]), int(about["window_samples"]), int(about["clusters"]), about
        )
    except FileNotFoundError as error:
        hint = "Make them with mtssl make-targets, or finish making them with the same command"
        raise TargetError(path, [f"no such file: no finished targets. {hint}."]) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TargetError(path, [f"cannot be used ({error!r}). Make the targets again."]) from error
    entries = read_dictionary(Path(folder) / DICTIONARY)
    if entries != found.clusters:
        got = f"{DICTIONARY} has {entries} labels, {TARGETS} says {found.clusters}"
        raise TargetError(folder, [f"{got}. Make the targets again."])
    return found
