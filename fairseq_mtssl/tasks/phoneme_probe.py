"""The task of the phone probe: utterances with their phones, and frozen features that are computed once.

Source: Yang et al. 2021, arXiv 2105.01051; Khorrami et al. 2023, arXiv 2306.02972.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List

import numpy as np
import torch
from fairseq.tasks import register_task
from omegaconf import MISSING, open_dict

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import long_enough
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest, utterance_ids
from fairseq_mtssl.data.phone_clips import PhoneDataset
from fairseq_mtssl.data.phones import read_phone_frames, read_phone_names, read_phone_sequences
from fairseq_mtssl.data.transcripts import frames_needed
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.evaluation.probing import FrameMoments
from fairseq_mtssl.tasks.base import BaseTask, BaseTaskConfig

logger = logging.getLogger(__name__)

MFCC = "mfcc"
MEASURED_UTTERANCES = 1000  # training utterances from which the mean and standard deviation are computed


@dataclass
class PhonemeProbeTaskConfig(BaseTaskConfig):
    data: str = field(
        default=MISSING,
        metadata={"help": "folder that mtssl prepare aligned_phones wrote: {split}.tsv, .phn, .phones.tsv"},
    )
    silences: str = field(
        default="sil sp spn nsn <sil> <eps> +nsn+ +spn+ h# pau epi noise",
        metadata={"help": "phones that model.head=ctc leaves out, separated by spaces, in any case"},
    )

    cache_gb: float = field(
        default=4.0,
        metadata={
            "help": "memory for features, 1e9 bytes; those of a split that does not fit are computed in "
            "every epoch"
        },
    )
    length_pool: int = field(
        default=256, metadata={"help": "number of training utterances that are sorted by length at a time"}
    )


@register_task("phoneme_probe", dataclass=PhonemeProbeTaskConfig)
class PhonemeProbeTask(BaseTask):
    """Trains a probe; its checkpoints contain the phones and the encoder, and load without other files."""

    def __init__(self, cfg: PhonemeProbeTaskConfig) -> None:
        super().__init__(cfg)
        self.model: Any = None
        self._kept_bytes = 0
        self._too_large: set[str] = set()
        self.state.add_factory("phones", self._read_phones)

    def _read_phones(self) -> List[str]:
        return read_phone_names(Path(self.cfg.data) / "dict.phn.txt")

    @property
    def phones(self) -> List[str]:
        """The phones, from the checkpoint or else from task.data."""
        return list(self.state.phones)

    # -- model

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; a new training loads the encoder of ``model.checkpoint``."""
        source = None
        if cfg.encoder is None and cfg.checkpoint not in (None, MFCC):
            source = checkpoints.read_encoder(cfg.checkpoint)
            with open_dict(cfg):
                cfg.encoder = source.sizes
        trained = None if source is None else source.normalised
        self.settle_normalize(cfg, trained, cfg.checkpoint, name="normalised")
        model = super().build_model(cfg, from_checkpoint)
        if source is not None and not cfg.random_weights:
            checkpoints.load_weights(model.frozen.speech_encoder, source.weights, cfg.checkpoint)
            logger.info("probes layer %s of %s", cfg.layer, cfg.checkpoint)
        self.model = model
        return model

    # -- data

    def load_dataset(self, split: str, **_: Any) -> PhoneDataset:
        """Read a split's manifest and phones. Raises: ManifestError naming every error of a file."""
        cfg, model = self.cfg, self.model
        if model is None:
            raise ConfigError("task", ["no model has been built; build it before a split is loaded"])
        manifest = read_audio_manifest(Path(cfg.data) / f"{split}.tsv")
        targets = self._read_targets(split, manifest)
        training = split == cfg.train_subset
        rows = self._usable(manifest, targets, training)
        self.datasets[split] = PhoneDataset(
            manifest.take(rows),
            [targets[row] for row in rows],
            self.clip_options(training, length_pool=cfg.length_pool),
            sequences=model.is_ctc,
            hop_samples=model.frozen.hop_samples,
            window_samples=model.frozen.window_samples,
        )
        hours = manifest.sizes[rows].sum() / SAMPLE_RATE_HZ / 3600
        logger.info("%s: %d utterances, %.2f h, %d phones", split, len(rows), hours, len(self.phones))
        return self.datasets[split]

    def _read_targets(self, split: str, manifest: AudioManifest) -> List[np.ndarray]:
        data = Path(self.cfg.data)
        if not self.model.is_ctc:
            return read_phone_frames(data / f"{split}.phn", manifest, self.phones)
        return read_phone_sequences(
            data / f"{split}.phones.tsv",
            utterance_ids(data, split),
            self.phones,
            left_out=self.cfg.silences.lower().split(),
        )

    def _usable(self, manifest: AudioManifest, targets: List[np.ndarray], training: bool) -> np.ndarray:
        """Return the rows that have phones and frames and, in training with CTC, enough frames for them."""
        frozen = self.model.frozen
        rows = long_enough(manifest, frozen.window_samples)
        without_phones = np.array([len(targets[row]) == 0 for row in rows])
        short = np.zeros_like(without_phones)
        if training and self.model.is_ctc:
            needed = [frames_needed(torch.from_numpy(targets[row])) for row in rows]
            available = (manifest.sizes[rows] - frozen.window_samples) // frozen.hop_samples + 1
            short = available < np.array(needed)
        dropped = without_phones | short
        if dropped.any():
            logger.warning(
                "%s: dropped %d utterances without phones and %d with fewer frames than phones, of %d (%s …)",
                *(manifest.path, int(without_phones.sum()), int((short & ~without_phones).sum()), len(rows)),
                ", ".join(manifest.files[row] for row in rows[dropped][:5]),
            )
        if dropped.all():
            raise ManifestError(manifest.path, ["no utterance has phones. Align this split."])
        return rows[~dropped]

    # -- features

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Return fairseq's iterator, after computing features and their training statistics if necessary."""
        self._keep_features(dataset)
        if dataset.training and not bool(self.model.frozen.measured):
            self._measure(dataset)
        return super().get_batch_iterator(dataset, *args, **kwargs)

    def _keep_features(self, dataset: PhoneDataset) -> None:
        """Compute a split's features once, if they fit in the rest of task.cache_gb."""
        if dataset.features is not None:
            return
        frozen = self.model.frozen
        size = dataset.total_frames * len(frozen.layers) * frozen.dim * 4
        summary = f"features of {len(dataset)} utterances: {size / 1e9:.2f} GB"
        if self._kept_bytes + size > self.cfg.cache_gb * 1e9:
            left = self.cfg.cache_gb - self._kept_bytes / 1e9
            if summary not in self._too_large:
                text = "%s, but %.2f are left of task.cache_gb: they are computed in every epoch"
                logger.warning(text, summary, left)
            self._too_large.add(summary)
            return
        self._kept_bytes += size
        logger.info("%s, computed once and kept", summary)
        dataset.keep(frozen.stream(dataset.waveform, range(len(dataset))))

    def _measure(self, dataset: PhoneDataset) -> None:
        """Set the model's standardisation to the mean and standard deviation of the training features."""
        frozen = self.model.frozen
        moments = FrameMoments(len(frozen.layers), frozen.dim)
        rows = np.random.default_rng(int(self.cfg.seed)).permutation(len(dataset))[:MEASURED_UTTERANCES]
        if dataset.features is None:
            features = frozen.stream(dataset.waveform, rows.tolist())
        else:
            features = (dataset.features[row] for row in rows)
        for frames in features:
            moments.add(frames)
        frozen.measure(*moments.finish())
