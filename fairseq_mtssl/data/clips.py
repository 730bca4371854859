"""Waveforms of a manifest as a fairseq dataset: cut, normalised, optionally perturbed in speed."""

from __future__ import annotations

import logging
import math
import multiprocessing
from collections.abc import Iterator, Sequence
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
"""Training batches are padded to a multiple of so many samples (0.2 s): a kernel is prepared anew for each
width it meets, which on a CPU costs more than the padding."""


def bucket_widths(sizes: np.ndarray, count: int, longest: int) -> np.ndarray:
    """Widths that training batches are padded to, (≤ count,) ascending: quantiles of the sizes.

    All in samples. longest: that a clip may get, the last of the widths; the others are multiples of
    WIDTH_STEP. count: 0 gives none. Raises: ConfigError if it is negative.
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

    width: S at least; by default the longest clip's length.
    """
    lengths = torch.tensor([clip.numel() for clip in clips])
    source = torch.zeros(len(clips), max(width, int(lengths.max())))
    for row, clip in zip(source, clips, strict=True):
        row[: clip.numel()] = clip
    return {"source": source, "lengths": lengths}


def long_enough(manifest: AudioManifest, min_samples: int, place: str) -> np.ndarray:
    """Rows of a manifest with at least so many samples, (N,) int; logs how many were dropped and which.

    Raises: ManifestError if none is left.
    """
    rows = np.flatnonzero(manifest.sizes >= min_samples)
    dropped = len(manifest) - len(rows)
    if dropped:
        short = np.flatnonzero(manifest.sizes < min_samples)[:5]
        logger.warning(
            "%s: dropped %d of %d utterances shorter than %.3g s (%s%s)",
            place,
            dropped,
            len(manifest),
            min_samples / SAMPLE_RATE_HZ,
            ", ".join(manifest.files[row] for row in short),
            ", …" if dropped > len(short) else "",
        )
    if not len(rows):
        shortest = min_samples / SAMPLE_RATE_HZ
        raise ManifestError(
            place, [f"no utterance of {shortest:.3g} s or more; lower task.min_duration_s or add audio"]
        )
    return rows


class ClipDataset(FairseqDataset):
    """One waveform a row, from the start up to max_samples.

    normalised: give each clip zero mean and unit variance; False leaves the waveform as it is in the file.
    training: draw the order of every epoch anew, perturb the speed, and skip (named, counted) a file
    that cannot be read; otherwise such a file is an error, since it would change the evaluated set.
    speed_perturb: p resamples each clip by a factor drawn from [1 − p, 1 + p] (pitch moves with it).
    labels: the label sets of the rows, for clips that begin at 0 and keep their speed; None has none.
    noise_snr_db: (low, high) adds white noise at a signal-to-noise ratio drawn from the range; None none.
    length_pool: sort so many clips at a time by length, so that batches cut from them need little
        padding; 0 sorts none.
    num_buckets: widths that training batches are padded to, see `bucket_widths`; a clip then counts as
        its bucket's width when batches are cut to max_tokens. 0: any multiple of WIDTH_STEP.
    Everything random is drawn from (seed, epoch, row): the same in every worker and after a resume.
    """

    def __init__(
        self,
        manifest: AudioManifest,
        *,
        max_samples: int,
        training: bool,
        seed: int,
        resample: bool = False,
        speed_perturb: float = 0.0,
        noise_snr_db: tuple[float, float] | None = None,
        length_pool: int = 0,
        num_buckets: int = 0,
        labels: RowLabels | None = None,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.audio = manifest
        self.max_samples = max_samples
        self.training = training
        self.seed = seed
        self.resample = resample
        self.speed_perturb = speed_perturb if training else 0.0
        self.noise_snr_db = noise_snr_db if training else None
        self.length_pool = length_pool
        self.labels = labels
        self.normalised = normalised
        self.epoch = 1
        self._sizes = np.minimum(manifest.sizes, max_samples)
        slowest = math.ceil(int(manifest.sizes.max(initial=0)) / (1.0 - self.speed_perturb))
        self.widths = bucket_widths(self._sizes, num_buckets if training else 0, min(slowest, max_samples))
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
        """Clips skipped so far because their file could not be read, over all workers."""
        return int(self._skipped.value)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return not self.training

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def rng(self, row: int, purpose: int) -> np.random.Generator:
        """A generator of this row's own in this epoch."""
        return np.random.default_rng([self.seed, self.epoch, row, purpose])

    def ordered_indices(self) -> np.ndarray:
        """All rows; in training in an order drawn anew for each epoch, each pool of it sorted by length."""
        if not self.training:
            return np.arange(len(self))
        rows = np.random.default_rng([self.seed, self.epoch]).permutation(len(self))
        for start in range(0, len(rows), self.length_pool) if self.length_pool > 0 else ():
            pool = rows[start : start + self.length_pool]
            rows[start : start + self.length_pool] = pool[np.argsort(self._sizes[pool], kind="stable")]
        return rows

    def num_tokens(self, index: int) -> int:
        return int(self._tokens[index])

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self._tokens[indices]

    def size(self, index: int) -> int:
        return int(self._sizes[index])

    def caption(self, index: int) -> Tensor:
        """(T,) float: the row's waveform."""
        return self._clip(index, self.audio.audio_path(index))

    def read_speech_file(self, path: str) -> Tensor:
        """(T,) float: any audio file as this dataset would give it, resampled when needed."""
        return self.prepare_speech(read_audio(path, max_samples=self.max_samples, resample=True))

    def prepare_speech(self, wav: np.ndarray) -> Tensor:
        """(S,) float32 at 16 kHz -> (T,) float: cut and normalised as this dataset's clips are."""
        return torch.from_numpy(self._as_trained(wav[: self.max_samples]))

    def _as_trained(self, wav: np.ndarray) -> np.ndarray:
        """(T,) float32 -> the same of zero mean and unit variance, or as it is."""
        return normalise(wav) if self.normalised else wav

    def _clip(self, row: int, path: str) -> Tensor:
        rng = self.rng(row, purpose=0)
        factor = 1.0 + self.speed_perturb * rng.uniform(-1.0, 1.0)
        wav = read_audio(path, max_samples=int(self.max_samples * max(factor, 1.0)), resample=self.resample)
        if self.speed_perturb > 0:
            wav = soxr.resample(wav, SAMPLE_RATE_HZ * factor, SAMPLE_RATE_HZ, quality="LQ")
        wav = wav[: self.max_samples]
        if not np.any(wav):
            logger.warning("%s is silent: kept as zeros", path)
        wav = self._as_trained(wav)
        if self.noise_snr_db is not None:
            amplitude = 10.0 ** (-rng.uniform(*self.noise_snr_db) / 20.0)
            if not self.normalised:
                amplitude *= float(wav.std())
            noise = np.float32(amplitude) * rng.standard_normal(wav.shape, dtype=np.float32)
            wav = self._as_trained(wav + noise)
        return torch.from_numpy(wav)

    def _or_skip(self, read: Any) -> Any:
        """What ``read`` returns; in training None, with a named and counted warning, if it fails."""
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
        """Adds "labels" to a sample with "id" and "clip", where there are any; returns it."""
        if self.labels is not None and sample["clip"] is not None:
            index = sample["id"]
            sample["labels"] = self.labels.of(index, sample["clip"].numel(), self.first_frame(index))
        return sample

    def first_frame(self, index: int) -> int:
        """The frame of an utterance at which its clip begins."""
        return 0

    def collate_speech(self, clips: Sequence[Tensor]) -> dict[str, Tensor]:
        """{"source": (B, S), "lengths": (B,)}; in training S is one of the buckets' widths or, without
        buckets or beyond them, a multiple of WIDTH_STEP or max_samples.
        """
        longest = max(clip.numel() for clip in clips)
        wide_enough = self.widths[self.widths >= longest]
        if len(wide_enough):
            return collate_speech(clips, int(wide_enough[0]))
        width = min(-(-longest // WIDTH_STEP) * WIDTH_STEP, self.max_samples) if self.training else 0
        return collate_speech(clips, width)

    def collater(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """{"id": (B,), "net_input": {"source", "lengths"}}, and with label sets "labels", one tensor (B, T)
        a set, padded with 1, T being the frames of the longest clip; empty if every file failed.
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
        """Samples at random beside a row of another dataset: ``count`` on average, none unreadable."""
        rng = self.rng(row, purpose=1)
        number = int(count) + int(rng.random() < count - int(count))
        for index in rng.integers(len(self), size=number):
            sample = self[int(index)]
            if sample["clip"] is not None:
                yield sample
