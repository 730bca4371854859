"""Joint training with SSL and VGS on pairs, optionally with a speech-only corpus for the SSL loss.

Source: Khorrami et al. 2023, arXiv 2306.02972; the second corpus: FaST-VGS+, arXiv 2202.03543.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional

import numpy as np
from fairseq.tasks import register_task

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clip_labels import RowLabels
from fairseq_mtssl.data.clips import ClipDataset, long_enough
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.tasks.label_sets import LabelConfig, SslTask, folders_of
from fairseq_mtssl.tasks.vgs_retrieval import VgsRetrievalTask, VgsRetrievalTaskConfig


@dataclass
class JointSslVgsTaskConfig(VgsRetrievalTaskConfig, LabelConfig):
    schedule: str = field(
        default="w2v2_vgs",
        metadata={
            "help": "one of the paper's nine: w2v2, vgs, vgsplus, or two of them joined by _, as w2v2_vgs"
        },
    )
    lengths: Any = field(
        default_factory=lambda: ["20 epochs", "rest"],
        metadata={"help": "one per phase: '20 epochs', '1000 updates', '40 %'; for the last also 'rest'"},
    )
    ssl_data: Optional[str] = field(
        default=None,
        metadata={
            "help": "speech-only corpus for the SSL loss beside the pairs: a fairseq .tsv, or a folder "
            "with one named as dataset.train_subset"
        },
    )
    ssl_ratio: float = field(
        default=1.0, metadata={"help": "clips of ssl_data per caption of a batch, above 0"}
    )
    ssl_on_pairs: bool = field(
        default=True,
        metadata={
            "help": "with ssl_data, in training: compute the SSL loss on the captions as well; false: on the "
            "clips of ssl_data alone, of which there are ssl_ratio per caption"
        },
    )

    ssl_labels: Any = field(
        default_factory=list,
        metadata={"help": "folders of cluster labels of ssl_data, in the order of labels"},
    )


@register_task("joint_ssl_vgs", dataclass=JointSslVgsTaskConfig)
class JointSslVgsTask(SslTask, VgsRetrievalTask):
    """The VGS task with an optional speech-only corpus, and with labels if the SSL branch predicts them."""

    def __init__(self, cfg: JointSslVgsTaskConfig) -> None:
        super().__init__(cfg)
        if self.label_folders and cfg.speed_perturb:
            raise ConfigError(
                "task.speed_perturb",
                [f"{cfg.speed_perturb} with labels: they would not fit their frames any more; set it to 0"],
            )
        if cfg.ssl_data and cfg.ssl_ratio <= 0:
            raise ConfigError("task.ssl_ratio", [f"got {cfg.ssl_ratio}, wanted more than 0, or no ssl_data"])
        if not cfg.ssl_on_pairs and (not cfg.ssl_data or cfg.ssl_ratio < 1):
            got = f"false with ssl_data {cfg.ssl_data} and ssl_ratio {cfg.ssl_ratio}"
            wanted = "wanted ssl_data and 1 or more, or some batch would have no clip for the SSL loss"
            raise ConfigError("task.ssl_on_pairs", [f"{got}; {wanted}"])

    def without_weight(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Add speech-only clips, which a batch of validation lacks, if training batches have them."""
        if not self.cfg.ssl_data or "extra" in sample:
            return sample
        speech = {name: sample["net_input"][name] for name in ("source", "lengths")}
        extra = {**speech, "id": sample["id"], "alone": not self.cfg.ssl_on_pairs}
        if "labels" in sample:
            extra["labels"] = sample["labels"]
        return {**sample, "extra": extra}

    def needs_branch(self, update: int) -> bool:
        return self.schedule is not None and self.schedule.uses_ssl(update, self.schedule.total - 1)

    def _labels(self, manifest: AudioManifest, split: str, folders: List[str]) -> Optional[RowLabels]:
        sets = self.read_labels(split, manifest, folders)
        rows = np.flatnonzero(manifest.sizes >= round(self.cfg.min_duration_s * SAMPLE_RATE_HZ))
        return RowLabels(rows, sets, self.conv_layers) if sets else None

    def _extra(self, split: str) -> dict[str, Any]:
        options: dict[str, Any] = {"labels": None}
        on_pairs = self.cfg.ssl_on_pairs or split != self.cfg.train_subset
        if self.label_folders and on_pairs:
            captions = read_audio_manifest(Path(self.cfg.data) / f"{split}.tsv")
            options["labels"] = self._labels(captions, split, self.label_folders)
        if not self.cfg.ssl_data or split != self.cfg.train_subset:
            return options
        path = Path(self.cfg.ssl_data)
        manifest = read_audio_manifest(path / f"{split}.tsv" if path.is_dir() else path)
        rows = long_enough(manifest, round(self.cfg.min_duration_s * SAMPLE_RATE_HZ))
        labels = self._labels(manifest, manifest.path.stem, folders_of(self.cfg.ssl_labels))
        if (labels is None) == bool(self.label_folders):
            raise ConfigError("task.ssl_labels", ["give folders for both task.labels and ssl_labels"])
        return {
            **options,
            "extra": ClipDataset(manifest.take(rows), self.clip_options(training=True), labels),
            "extra_ratio": float(self.cfg.ssl_ratio),
            "extra_alone": not self.cfg.ssl_on_pairs,
        }
