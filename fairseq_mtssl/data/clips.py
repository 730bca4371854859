"""The fairseq dataset of a manifest's waveforms: cut, normalised and, if asked, augmented."""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import soxr
import torch
from fairseq.data import FairseqDataset
from torch import Tensor

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, normalise, read_audio
from fairseq_mtssl.data.clip_labels import RowLabels, collate_labels
from fairseq_mtssl.data.manifest import AudioManifest
from fairseq_mtssl.errors import ConfigError, ManifestError, MtsslError

logger = logging.getLogger(__name__)

WIDTH_STEP = 3200
"""Training batches are padded to a multiple of this many samples (0.2 s): kernels are prepared anew for each
new width, which on a CPU costs more than the padding."""


def bucket_widths(sizes: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Return the widths in samples to which training batches are padded: ascending quantiles of the sizes.

    count: the most widths to return; 0 gives none. longest: the greatest possible length of a clip, which is
    the last width; the others are multiples of WIDTH_STEP. Raises: ConfigError if count is negative.
    """
    if count < 0:
        raise ConfigError("task.num_batch_buckets", [f"got {count}, wanted 0 or more"])
    if count == 0:
        return np.empty(0, dtype=np.int64)
    ends = np.quantile(sizes, np.arange(1, count + 1) / count, method="higher").astype(np.int64)
    ends[-1] = longest
    return np.unique(np.minimum(-(-ends // WIDTH_STEP) * WIDTH_STEP, longest))


def collate_speech(clips: Sequence[Tensor], width: int = 0) -> dict[str, Tensor]:
    """Pad clips with zeros: {"source": (B, S) float, "lengths": (B,) long samples}.

    S is the length of the longest clip, or width if that is greater.
    """
    lengths = torch.tensor([clip.numel() for clip in clips])
    source = torch.zeros(len(clips), max(width, int(lengths.max())))
    for row, clip in zip(source, clips, strict=True):
        row[: clip.numel()] = clip
    return {"source": source, "lengths": lengths}


def long_enough(manifest: AudioManifest, min_samples: int) -> np.ndarray:
    """Return the rows of a manifest with at least min_samples samples, (N,) int; logs those dropped.

    Raises: ManifestError if no row is left.
    """
    rows = np.flatnonzero(manifest.sizes >= min_samples)
    dropped = len(manifest) - len(rows)
    if dropped:
        short = np.flatnonzero(manifest.sizes < min_samples)[:5]
        logger.warning(
            "%s: dropped %d of %d utterances shorter than %.3g s (%s%s)",
            manifest.path,
            dropped,
            len(manifest),
            min_samples / SAMPLE_RATE_HZ,
            ", ".join(manifest.files[row] for row in short),
            ", …" if dropped > len(short) else "",
        )
    if not len(rows):
        got = f"no utterance of {min_samples / SAMPLE_RATE_HZ:.3g} s or more"
        raise ManifestError(manifest.path, [f"{got}; lower task.min_duration_s or add audio"])
    return rows


@dataclass(frozen=True)
class ClipOptions:
    """The options with which a dataset reads, changes and sorts clips.

    training: shuffles every epoch, applies speed perturbation and noise, and skips files that cannot be read
        (each is logged and counted). Otherwise such a file is an error, since it would change the evaluation.
    seed: of the random numbers, which are drawn from (seed, epoch, row): they are the same in every worker
        and after resuming.
    max_samples: the length to which longer clips are cut; None: that of the longest clip.
    resample: resamples audio that is not at 16 kHz; False: it is refused.
    normalised: gives each clip zero mean and unit variance; False leaves the waveform as in the file.
    speed_perturb: p resamples each clip by a factor drawn from [1 − p, 1 + p], which changes the pitch too.
    noise_snr_db: (low, high) adds white noise at a signal-to-noise ratio drawn from this range; None: none.
    length_pool: sorts this many shuffled clips at a time by length, so that batches need less padding.
    num_buckets: number of widths to which training batches are padded, see `bucket_widths`; a clip then
        counts as long as its bucket when batches are cut to max_tokens. 0: any multiple of WIDTH_STEP.
    """

    training: bool
    seed: int
    max_samples: int | None = None
    resample: bool = False
    normalised: bool = True
    speed_perturb: float = 0.0
    noise_snr_db: tuple[float, float] | None = None
    length_pool: int = 0
    num_buckets: int = 0


class ClipDataset(FairseqDataset):
    """The waveforms of a manifest, one per row, each cut to its first max_samples samples.

    labels: the label sets of the rows, for clips that begin at 0 and keep their speed; None: no labels.
    """

    def __init__(
        self, manifest: AudioManifest, options: ClipOptions, labels: RowLabels | None = None
    ) -> None:
        super().__init__()
        self.audio = manifest
        self.options = options
        self.training = options.training
        self.labels = labels
        self.epoch = 1
        self.speed_perturb = options.speed_perturb if self.training else 0.0
        longest = int(manifest.sizes.max(initial=0))
        self.max_samples = longest if options.max_samples is None else options.max_samples
        self._sizes = np.minimum(manifest.sizes, self.max_samples)
        slowest = math.ceil(longest / (1.0 - self.speed_perturb))
        buckets = options.num_buckets if self.training else 0
        self.widths = bucket_widths(self._sizes, buckets, min(slowest, self.max_samples))
        self._tokens = self._sizes
        if len(self.widths):
            self._tokens = self.widths[np.searchsorted(self.widths, self._sizes)]
        self._skipped = multiprocessing.Value("l", 0)

    def __len__(self) -> int:
        return len(self.audio)

    @property
    def sizes(self) -> np.ndarray:
        return self._sizes

    @property
    def skipped(self) -> int:
        """Number of clips skipped so far because their file could not be read, over all workers."""
        return int(self._skipped.value)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return not self.training

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def rng(self, row: int, purpose: int) -> np.random.Generator:
        """Return a random generator for this row in this epoch; each purpose has its own."""
        return np.random.default_rng([self.options.seed, self.epoch, row, purpose])

    def ordered_indices(self) -> np.ndarray:
        """Return all rows; in training shuffled anew in each epoch, each length pool sorted by length."""
        if not self.training:
            return np.arange(len(self))
        rows = np.random.default_rng([self.options.seed, self.epoch]).permutation(len(self))
        size = self.options.length_pool
        for start in range(0, len(rows), size) if size > 0 else ():
            pool = rows[start : start + size]
            rows[start : start + size] = pool[np.argsort(self._sizes[pool], kind="stable")]
        return rows

    def num_tokens(self, index: int) -> int:
        return int(self._tokens[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self._tokens[indices]

    def size(self, index: int) -> int:
        return int(self._sizes[index])

    def caption(self, index: int) -> Tensor:
        """Return (T,) float: the row's waveform, augmented in training."""
        path, rng = self.audio.audio_path(index), self.rng(index, purpose=0)
        factor = 1.0 + self.speed_perturb * rng.uniform(-1.0, 1.0)
        limit = int(self.max_samples * max(factor, 1.0))
        wav = read_audio(path, max_samples=limit, resample=self.options.resample)
        if self.speed_perturb > 0:
            wav = soxr.resample(wav, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="LQ")
        wav = wav[: self.max_samples]
        if not np.any(wav):
            logger.warning("%s is silent: kept as zeros", path)
        wav = self._as_trained(wav)
        if self.training and self.options.noise_snr_db is not None:
            amplitude = 10.0 ** (-rng.uniform(*self.options.noise_snr_db) / 20.0)
            if not self.options.normalised:
                amplitude *= float(wav.std())
            noise = np.float32(amplitude) * rng.standard_normal(wav.shape, dtype=np.float32)
            wav = self._as_trained(wav + noise)
        return torch.from_numpy(wav)

    def read_speech_file(self, path: str) -> Tensor:
        """Read any audio file as (T,) float, resampled if necessary, cut and normalised as this dataset's."""
        return self.prepare_speech(read_audio(path, max_samples=self.max_samples, resample=True))

    def prepare_speech(self, wav: np.ndarray) -> Tensor:
        """Cut and normalise a waveform (S,) float32 at 16 kHz as this dataset's clips are: (T,) float."""
        return torch.from_numpy(self._as_trained(wav[: self.max_samples]))

    def _as_trained(self, wav: np.ndarray) -> np.ndarray:
        """Normalise a waveform (T,) float32 if this dataset does."""
        return normalise(wav) if self.options.normalised else wav

    def _or_skip(self, read: Any) -> Any:
        """Return what ``read`` returns; if it fails in training, log and count the error and return None."""
        try:
            return read()
        except MtsslError as error:
            if not self.training:
                raise
            with self._skipped.get_lock():
                self._skipped.value += 1
            logger.warning("skipped in training (%d so far): %s", self.skipped, error)
            return None

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.labelled({"id": int(index), "clip": self._or_skip(lambda: self.caption(int(index)))})

    def labelled(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Add "labels" to a sample with "id" and "clip", if the dataset has labels; returns the sample."""
        if self.labels is not None and sample["clip"] is not None:
            index = sample["id"]
            sample["labels"] = self.labels.of(index, sample["clip"].numel(), self.first_frame(index))
        return sample

    def first_frame(self, index: int) -> int:
        """Return the frame of an utterance at which its clip begins."""
        return 0

    def collate_speech(self, clips: Sequence[Tensor]) -> dict[str, Tensor]:
        """Pad clips to {"source": (B, S), "lengths": (B,)}.

        In training S is the width of a bucket or, without a bucket that is wide enough, a multiple of
        WIDTH_STEP or max_samples.
        """
        longest = max(clip.numel() for clip in clips)
        wide_enough = self.widths[self.widths >= longest]
        if len(wide_enough):
            return collate_speech(clips, int(wide_enough[0]))
        width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, self.max_samples) if self.training else 0
        return collate_speech(clips, width)

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return {"id": (B,), "net_input": {"source", "lengths"}}, or {} if every file failed.

        With label sets there is "labels" too: per set (B, T) padded with 1, T frames of the longest clip.
        """
        samples = [sample for sample in samples if sample["clip"] is not None]
        if not samples:
            return {}
        speech = self.collate_speech([sample["clip"] for sample in samples])
        batch = {
            "id": torch.tensor([sample["id"] for sample in samples]),
            "net_input": speech,
            "ntokens": int(speech["lengths"].sum()),
            "nsentences": len(samples),
        }
        if self.labels is not None:
            batch["labels"] = collate_labels([sample["labels"] for sample in samples])
        return batch

    def draw(self, row: int, count: float) -> Iterator[dict[str, Any]]:
        """Draw ``count`` samples on average for a row of another dataset; unreadable ones are left out."""
        rng = self.rng(row, purpose=1)
        number = int(count) + int(rng.random() < count - int(count))
        for index in rng.integers(len(self), size=number):
            sample = self[int(index)]
            if sample["clip"] is not None:
                yield sample
