"""Errors for users. Each message has the location, what was got, what was wanted, and a hint."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class MtsslError(Exception):
    """Base class of all errors that this package raises on a user's input."""


class ConfigError(MtsslError):
    """Errors of one configuration, reported together.

    place: the field or section; errors: what was got, what was wanted and a hint for each.
    """

    def __init__(self, place: str, errors: Sequence[str]) -> None:
        self.errors = list(errors)
        super().__init__(f"{place}: " + "; ".join(self.errors))


class ManifestError(MtsslError):
    """Errors of one manifest or table, reported together.

    path: the file; errors: a line of text for each, with the line number, the value and a hint.
    """

    max_listed = 20

    def __init__(self, path: str | Path, errors: Sequence[str]) -> None:
        self.path = str(path)
        self.errors = list(errors)
        listed = "\n".join(f"  {error}" for error in self.errors[: self.max_listed])
        more = len(self.errors) - self.max_listed
        tail = f"\n  … and {more} more" if more > 0 else ""
        noun = "error" if len(self.errors) == 1 else "errors"
        super().__init__(f"{path}: {len(self.errors)} {noun}\n{listed}{tail}")


class FileError(MtsslError):
    """A file that cannot be used. got: what is wrong with it; hint: what to do."""

    def __init__(self, path: str | Path, got: str, hint: str) -> None:
        self.path = str(path)
        super().__init__(f"{path}: {got}. {hint}")


class AudioError(FileError):
    """An audio file that cannot be used."""


class ImageError(FileError):
    """An image, or an image's region features, that cannot be used."""


class CheckpointError(FileError):
    """A checkpoint that cannot be read or does not fit."""


class TrainingLogError(FileError):
    """A training log without anything to plot."""


class PairCountError(MtsslError):
    """Numbers of speech and image rows that differ, although the rows should be pairs."""

    def __init__(self, speech: int, image: int) -> None:
        super().__init__(
            f"contrastive loss: {speech} speech rows for {image} image rows; "
            "row i of each must be a pair. Give both sides the same batch."
        )


class ClipTooShortError(MtsslError):
    """A clip that is shorter than one frame of the encoder."""

    def __init__(self, samples: int, needed: int) -> None:
        super().__init__(
            f"a clip of {samples} samples gives no frame; the encoder needs at least {needed}. "
            "Drop shorter clips (task.min_duration_s) or pad them before encoding."
        )


class RetrievalError(MtsslError):
    """Embeddings or relevance for which retrieval cannot be measured."""


class NonFiniteEmbeddingError(RetrievalError):
    """Embeddings with NaN or infinity, whose ranking would be arbitrary."""

    def __init__(self, side: str, bad_rows: Sequence[int], rows: int) -> None:
        self.bad_rows = list(bad_rows)
        super().__init__(
            f"{side} embeddings: {len(self.bad_rows)} of {rows} rows hold NaN or infinity "
            f"(first: row {bad_rows[0]}); wanted finite numbers. "
            "The training has diverged, or this input is broken: look at the losses."
        )


class MissingExtraError(MtsslError):
    """A function that needs a package outside the core installation."""

    def __init__(self, purpose: str, package: str, extra: str) -> None:
        super().__init__(
            f"{purpose} needs {package}, which is not installed. "
            f'Install it with: pip install "fairseq-mtssl[{extra}]"'
        )


def import_extra(module: str, purpose: str, package: str, extra: str) -> Any:
    """Import a module of a package outside the core installation. Raises: MissingExtraError without it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(purpose, package, extra) from error


class StageError(MtsslError):
    """A stage of an example that failed; finished stages are kept, and the next run continues from there."""

    def __init__(self, stage: str, got: str) -> None:
        super().__init__(f"stage {stage} {got}")


class TargetError(ManifestError):
    """Errors of features, labels, a codebook or a folder of targets on disk, reported together."""
