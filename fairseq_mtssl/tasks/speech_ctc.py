"""The task of fine-tuning a pre-trained encoder with CTC on transcribed utterances."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from fairseq.data import Dictionary
from fairseq.tasks import register_task
from omegaconf import MISSING, open_dict

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import long_enough
from fairseq_mtssl.data.dictionary import SPECIALS, read_symbols
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.data.tokenizers import word_joining
from fairseq_mtssl.data.transcripts import TranscribedDataset, read_transcripts, spellable
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.frames import parse_conv_layers
from fairseq_mtssl.tasks.base import BaseTask, BucketConfig
from fairseq_mtssl.tasks.label_sets import dictionary_of

logger = logging.getLogger(__name__)

AUTO = "auto"
"""Value of criterion.post_process with which the dictionary decides."""


@dataclass
class SpeechCtcTaskConfig(BucketConfig):
    data: str = field(
        default=MISSING, metadata={"help": "folder of {split}.tsv, {split}.ltr and dict.ltr.txt"}
    )
    labels: str = field(
        default="ltr", metadata={"help": "extension of the transcripts: ltr (letters) or spm (sentencepiece)"}
    )
    min_duration_s: float = field(
        default=0.0, metadata={"help": "seconds; shorter utterances are dropped, which is logged"}
    )
    max_duration_s: float = field(
        default=40.0, metadata={"help": "seconds; longer utterances are dropped from training, and logged"}
    )

    speed_perturb: float = field(
        default=0.0,
        metadata={"help": "p resamples each training clip by a factor from [1-p, 1+p], pitch included"},
    )
    length_pool: int = field(
        default=2048, metadata={"help": "number of training utterances that are sorted by length at a time"}
    )


@register_task("speech_ctc", dataclass=SpeechCtcTaskConfig)
class SpeechCtcTask(BaseTask):
    """Fine-tunes with CTC; checkpoints contain the dictionary and the encoder's sizes."""

    def __init__(self, cfg: SpeechCtcTaskConfig) -> None:
        super().__init__(cfg)
        self.conv_layers: Any = None
        self._dictionary: Optional[Dictionary] = None
        self.state.add_factory("symbols", self._read_symbols)

    def _read_symbols(self) -> list[str]:
        path = Path(self.cfg.data) / f"dict.{self.cfg.labels}.txt"
        return [*SPECIALS, *read_symbols(path, "symbol", "mtssl prepare-text writes it.")]

    @property
    def target_dictionary(self) -> Dictionary:
        """The dictionary of the checkpoint or else of task.data; the blank is its first symbol."""
        if self._dictionary is None:  # cached, since the criterion asks for it several times per utterance
            self._dictionary = dictionary_of(self.state.symbols)
        return self._dictionary

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the dictionary of a checkpoint."""
        super().load_state_dict(state_dict)
        self._dictionary = None

    @property
    def source_dictionary(self) -> None:
        return None

    def load_dataset(self, split: str, **_: Any) -> TranscribedDataset:
        """Read a split's manifest and transcripts. Raises: ManifestError naming every error of a file."""
        cfg, training = self.cfg, split == self.cfg.train_subset
        manifest = read_audio_manifest(Path(cfg.data) / f"{split}.tsv")
        path, dictionary = Path(cfg.data) / f"{split}.{cfg.labels}", self.target_dictionary
        transcripts = read_transcripts(path, manifest, dictionary)
        rows = long_enough(manifest, round(cfg.min_duration_s * SAMPLE_RATE_HZ))
        if training:
            rows = self._trainable(rows, manifest, transcripts)
        options = self.clip_options(
            training,
            speed_perturb=cfg.speed_perturb,
            length_pool=cfg.length_pool,
            num_buckets=cfg.num_batch_buckets,
        )
        self.datasets[split] = TranscribedDataset(
            manifest.take(rows), [transcripts[row] for row in rows], options, pad=dictionary.pad()
        )
        hours = manifest.sizes[rows].sum() / SAMPLE_RATE_HZ / 3600
        logger.info("%s: %d utterances, %.2f h, %d symbols", split, len(rows), hours, len(dictionary))
        return self.datasets[split]

    def _trainable(self, rows: np.ndarray, manifest: Any, transcripts: Any) -> np.ndarray:
        """Return the rows without utterances that are too long or have too few frames for their symbols."""
        sizes = manifest.sizes[rows]
        short_enough = sizes <= self.cfg.max_duration_s * SAMPLE_RATE_HZ
        keep = short_enough.copy()
        if self.conv_layers is not None:
            keep &= spellable(sizes, [transcripts[row] for row in rows], self.conv_layers)
        if not keep.all():
            logger.warning(
                "%s: dropped %d utterances over %g s and %d with fewer frames than symbols, of %d (%s …)",
                manifest.path,
                int((~short_enough).sum()),
                self.cfg.max_duration_s,
                int((short_enough & ~keep).sum()),
                len(rows),
                ", ".join(manifest.files[row] for row in rows[~keep][:5]),
            )
        if not keep.any():
            raise ManifestError(
                manifest.path,
                [f"no utterance to train on; is task.max_duration_s {self.cfg.max_duration_s:g} right?"],
            )
        return rows[keep]

    def build_criterion(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the criterion, whose word error rate joins symbols to words as the dictionary marks them.

        criterion.post_process=auto is replaced in cfg, so that checkpoints contain the mode that was used.
        Raises: ConfigError if the mode contradicts the dictionary: each utterance would then count as one
        word, and the word error rate, by which checkpoints are selected, would be a sentence error rate.
        """
        given = cfg.get("post_process", None)
        if given is not None:
            with open_dict(cfg):
                cfg.post_process = check_post_process(str(given), self.target_dictionary.symbols)
        return super().build_criterion(cfg, from_checkpoint)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; a new training loads the encoder of ``model.pretrained``."""
        source = None
        if cfg.encoder is None and cfg.pretrained:
            source = checkpoints.read_encoder(cfg.pretrained)
            layers = source.sizes["layers"]
            kept = layers if cfg.layers is None else cfg.layers
            if not 1 <= kept <= layers:
                got = f"layers {kept}: wanted 1 to {layers}, those of {cfg.pretrained}"
                raise ConfigError("model", [got])
            with open_dict(cfg):
                cfg.encoder = {**source.sizes, "layers": kept}
        self.settle_normalize(cfg, None if source is None else source.normalised, cfg.pretrained)
        model = super().build_model(cfg, from_checkpoint)
        self.conv_layers = parse_conv_layers(cfg.encoder["conv_layers"])
        if source is not None and not cfg.no_pretrained_weights:
            dropped = tuple(f"encoder.layers.{layer}." for layer in range(cfg.encoder["layers"], layers))
            weights = {
                name: weight for name, weight in source.weights.items() if not name.startswith(dropped)
            }
            checkpoints.load_weights(model.speech_encoder, weights, cfg.pretrained)
            logger.info("fine-tunes the speech encoder of %s", cfg.pretrained)
        return model


def check_post_process(given: str, symbols: list[str]) -> str:
    """Return the value of criterion.post_process for fairseq's ctc; the dictionary decides about `auto`.

    Raises: ConfigError for `letter` or `sentencepiece` if the dictionary marks words differently.
    """
    mode = word_joining(symbols)
    if given == AUTO:
        return mode
    if given in ("letter", "sentencepiece") and given != mode:
        marks = {"letter": "the symbol '|'", "sentencepiece": "symbols that begin with '▁'"}
        has = f"has {marks[mode]}" if mode in marks else "marks no words"
        hint = f"give {mode}, or {AUTO}, as the recipes do (fairseq's default is letter)"
        raise ConfigError("criterion.post_process", [f"{given}, but the dictionary {has}; {hint}"])
    return given
