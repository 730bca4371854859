"""Transcripts of a fine-tuned model: of a split, with its word errors, or of recordings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ, normalise, read_audio, read_header
from fairseq_mtssl.data.manifest import read_audio_manifest, read_lines
from fairseq_mtssl.decoding.vocabulary import Vocabulary
from fairseq_mtssl.errors import AudioError, ManifestError
from fairseq_mtssl.evaluation.transcription import TranscriptionResult, evaluate_transcription, import_jiwer
from fairseq_mtssl.features.base import batch_samples
from fairseq_mtssl.inference.recognition import Decoder, Recognised, recognise, vocabulary_of


class Transcriber:
    """A fine-tuned model with its vocabulary.

    batch_seconds: audio of a batch, None: as the device is fastest, 0: one recording at a time.
    Raises: CheckpointError for a checkpoint that was not fine-tuned.
    """

    def __init__(
        self, checkpoint: str | Path, device: torch.device, batch_seconds: float | None = None
    ) -> None:
        loaded = checkpoints.load_model(checkpoint)
        self.model, self.cfg, self.device = loaded.model.to(device), loaded.cfg, device
        self.vocabulary = vocabulary_of(loaded.task, checkpoint)
        self.batch_samples = batch_samples(batch_seconds, device)

    def transcribe_split(
        self, data: str | Path, split: str, decoder: Decoder
    ) -> tuple[TranscriptionResult, list[dict[str, str]]]:
        """The word errors of a split, and for each row file, hypothesis and reference.

        Raises: ManifestError if the manifest, the references or any recording cannot be used.
        """
        import_jiwer()
        manifest = read_audio_manifest(Path(data) / f"{split}.tsv")
        labels = str(self.cfg.task.labels)
        references = read_references(manifest.path, labels, self.vocabulary, len(manifest))
        paths = [manifest.audio_path(row) for row in range(len(manifest))]
        found = self._recognise(decoder, paths, manifest.sizes.tolist(), resample=False)
        if found.errors:
            errors = [f"line {row + 2}: {error}" for row, error in sorted(found.errors.items())]
            raise ManifestError(manifest.path, errors)
        texts = [found.texts[row] for row in range(len(manifest))]
        rows = zip(manifest.files, texts, references, strict=True)
        hypotheses = [{"file": file, "hypothesis": text, "reference": said} for file, text, said in rows]
        return evaluate_transcription(references, texts), hypotheses

    def transcribe_files(self, paths: Sequence[str], decoder: Decoder) -> Recognised:
        """The texts of recordings, resampled where needed, and what is wrong with those without a text."""
        return self._recognise(decoder, paths, [_claimed_samples(path) for path in paths], resample=True)

    def _recognise(
        self, decoder: Decoder, paths: Sequence[str], lengths: Sequence[int], resample: bool
    ) -> Recognised:
        """Waveforms are read as in training: normalised, or as the file has them."""
        normalised = checkpoints.trained_on_normalised(self.cfg)
        resample = resample or bool(getattr(self.cfg.task, "resample", False))

        def read(row: int) -> np.ndarray:
            wav = read_audio(paths[row], resample=resample)
            return normalise(wav) if normalised else wav

        return recognise(
            self.model,
            decoder,
            paths,
            lengths,
            read,
            device=self.device,
            batch_samples=self.batch_samples,
        )


def read_references(tsv: Path, labels: str, vocabulary: Vocabulary, rows: int) -> list[str]:
    """The words of a split, of its .wrd, or else of its labels.

    Raises: ManifestError if there is neither, another number of rows than the manifest has, or an empty row.
    """
    path = tsv.with_suffix(".wrd")
    spelled = tsv.with_suffix(f".{labels}")
    if not path.is_file() and not spelled.is_file():
        hint = "Write it with mtssl prepare-text, or name the recordings instead of --data"
        raise ManifestError(
            path, [f"is not there, nor is {spelled.name}: nothing to measure against. {hint}."]
        )
    if path.is_file():
        references = [" ".join(line.split()) for line in read_lines(path)]
    else:
        path = spelled
        references = [vocabulary.join(line.split()) for line in read_lines(path)]
    errors = [f"line {row} is empty. Drop the row." for row, said in enumerate(references, 1) if not said]
    if len(references) != rows:
        errors.append(f"{len(references)} lines for {rows} utterances of {tsv.name}. Write both again.")
    if errors:
        raise ManifestError(path, errors)
    return references


def _claimed_samples(path: str) -> int:
    """Samples at 16 kHz by the header; 0 for a file that cannot be read, which reading it will report."""
    try:
        samples, rate_hz = read_header(path)
    except AudioError:
        return 0
    return round(samples * SAMPLE_RATE_HZ / rate_hz)
