"""Errors a user can meet. Each says the place, what was got, what was wanted and the cure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class MtsslError(Exception):
    """Root of every error this package raises on what a user gave."""


class ConfigError(MtsslError):
    """A configuration that cannot work. All faults of one configuration are reported at once."""

    def __init__(self, place: str, faults: Sequence[str]) -> None:
        self.faults = list(faults)
        super().__init__(f"{place}: " + "; ".join(self.faults))


class ManifestError(MtsslError):
    """Faults of one manifest or table, all at once.

    path: the file; faults: one line each, already naming the line, the value and the cure.
    """

    max_listed = 20

    def __init__(self, path: str | Path, faults: Sequence[str]) -> None:
        self.path = str(path)
        self.faults = list(faults)
        listed = "\n".join(f"  {fault}" for fault in self.faults[: self.max_listed])
        more = len(self.faults) - self.max_listed
        tail = f"\n  … and {more} more" if more > 0 else ""
        noun = "fault" if len(self.faults) == 1 else "faults"
        super().__init__(f"{path}: {len(self.faults)} {noun}\n{listed}{tail}")


class AudioError(MtsslError):
    """An audio file that cannot be used."""

    def __init__(self, path: str | Path, got: str, cure: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {got}. {cure}")


class ImageError(MtsslError):
    """An image, or an image's region features, that cannot be used."""

    def __init__(self, path: str | Path, got: str, cure: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {got}. {cure}")


class CheckpointError(MtsslError):
    """A checkpoint that cannot be read or does not fit."""

    def __init__(self, path: str | Path, got: str, cure: str) -> None:
        super().__init__(f"{path}: {got}. {cure}")


class PairCountError(MtsslError):
    """Speech and image rows that should pair up but differ in number."""

    def __init__(self, speech: int, image: int) -> None:
        super().__init__(
            f"contrastive loss: {speech} speech rows for {image} image rows; "
            "row i of each must be a pair. Give both sides the same batch."
        )


class ClipTooShortError(MtsslError):
    """A clip shorter than one frame of the encoder."""

    def __init__(self, samples: int, needed: int) -> None:
        super().__init__(
            f"a clip of {samples} samples gives no frame; the encoder needs at least {needed}. "
            "Drop shorter clips (task.min_duration_s) or pad them before encoding."
        )


class RetrievalError(MtsslError):
    """Embeddings or relevance that retrieval cannot be measured on."""


class NonFiniteEmbeddingError(RetrievalError):
    """Embeddings with NaN or infinity: any ranking of them would be arbitrary."""

    def __init__(self, side: str, bad_rows: Sequence[int], rows: int) -> None:
        self.bad_rows = list(bad_rows)
        super().__init__(
            f"{side} embeddings: {len(self.bad_rows)} of {rows} rows hold NaN or infinity "
            f"(first: row {bad_rows[0]}); wanted finite numbers. "
            "The training has diverged, or this input is broken: look at the losses."
        )


class TrainingLogError(MtsslError):
    """A training log that holds nothing to draw."""

    def __init__(self, path: str | Path, got: str, cure: str) -> None:
        super().__init__(f"{path}: {got}. {cure}")


class MissingExtraError(MtsslError):
    """A part that needs a package outside the core installation."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed. "
            f'Install it with: pip install "fairseq-mtssl[{extra}]"'
        )


class StageError(MtsslError):
    """A stage of an example that failed; what it did is kept, and running it again goes on from there."""

    def __init__(self, stage: str, got: str) -> None:
        super().__init__(f"stage {stage} {got}")


class TargetError(ManifestError):
    """Faults of features, labels, a codebook or a folder of targets on disk, all at once."""
