"""The task of pre-training on speech alone, with or without cluster labels.

Source: Ma et al. 2023, arXiv 2211.07321.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fairseq.tasks import register_task
from omegaconf import II, MISSING

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import long_enough
from fairseq_mtssl.data.labelled_clips import LabelledClipDataset
from fairseq_mtssl.data.manifest import read_audio_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.tasks.base import BucketConfig
from fairseq_mtssl.tasks.health_watch import HealthWatch, WatchedTask
from fairseq_mtssl.tasks.label_sets import LabelConfig, SslTask, folders_of

logger = logging.getLogger(__name__)


@dataclass
class Mt4sslTaskConfig(BucketConfig, LabelConfig):
    data: str = field(default=MISSING, metadata={"help": "folder of {split}.tsv"})
    max_duration_s: float = field(default=20.0, metadata={"help": "longest crop, seconds"})
    min_duration_s: float = field(
        default=2.0, metadata={"help": "seconds; shorter utterances are dropped, which is logged"}
    )
    phase_ratio: Any = "${oc.select:lr_scheduler.phase_ratio,null}"
    ssl: str = "${oc.select:model.ssl,mt4ssl}"
    max_update: int = II("optimization.max_update")


@register_task("mt4ssl", dataclass=Mt4sslTaskConfig)
class Mt4sslTask(SslTask, WatchedTask):
    """Trains on crops of utterances with the labels of their frames."""

    def __init__(self, cfg: Mt4sslTaskConfig) -> None:
        check_config(cfg, len(folders_of(cfg.labels)))
        super().__init__(cfg)
        if cfg.max_update:
            self.health = HealthWatch([(0, str(cfg.ssl))], int(cfg.max_update))

    # -- data

    def load_dataset(self, split: str, **_: Any) -> LabelledClipDataset:
        """Read a split's manifest and labels. Raises: ManifestError naming every error of a file."""
        cfg = self.cfg
        manifest = read_audio_manifest(Path(cfg.data) / f"{split}.tsv")
        labels = self.read_labels(split, manifest)
        rows = long_enough(manifest, round(cfg.min_duration_s * SAMPLE_RATE_HZ))
        options = self.clip_options(
            training=split == cfg.train_subset,
            max_samples=round(cfg.max_duration_s * SAMPLE_RATE_HZ),
            num_buckets=cfg.num_batch_buckets,
        )
        self.datasets[split] = LabelledClipDataset(manifest, rows, labels, self.conv_layers, options)
        hours = manifest.sizes[rows].sum() / SAMPLE_RATE_HZ / 3600
        logger.info("%s: %d utterances, %.2f h, %d label sets", split, len(rows), hours, len(labels))
        return self.datasets[split]

    # -- model

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; a new training starts from the weights of ``model.init_from`` if given."""
        start = checkpoints.read_start(cfg.init_from) if cfg.init_from and not from_checkpoint else None
        self.settle_normalize(cfg, None if start is None else start.normalised, cfg.init_from)
        model = super().build_model(cfg, from_checkpoint)
        if start is not None and not checkpoints.initialise(model, start, "ssl_head.teacher."):
            model.reset_branch()
        return model

    # -- training

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        if self.health is not None:
            self.health.reach(update_num)
        super().optimizer_step(optimizer, model, update_num)


def check_config(cfg: Any, label_sets: int) -> None:
    """Check a task configuration. Raises: ConfigError naming every error at once."""
    errors = []
    if not 0 < cfg.min_duration_s <= cfg.max_duration_s:
        errors.append(
            f"min_duration_s {cfg.min_duration_s} and max_duration_s {cfg.max_duration_s}: "
            "wanted 0 < min ≤ max"
        )
    if cfg.resample and label_sets:
        errors.append("resample with labels: their counts are checked at 16 kHz; resample the files first")
    ratio, updates = cfg.phase_ratio, int(cfg.max_update or 0)
    if ratio and updates and int(updates * ratio[2]) < 1:
        errors.append(
            f"lr_scheduler.phase_ratio {list(ratio)} of {updates} updates leaves none for the decay, and "
            "tri_stage divides by their number; train longer or give the decay a larger share"
        )
    if errors:
        raise ConfigError("task", errors)
