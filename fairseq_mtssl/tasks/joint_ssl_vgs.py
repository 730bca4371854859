"""Joint SSL + VGS: pairs for both losses, and if wanted a speech-only corpus for the SSL loss beside them.

Source: Khorrami et al. 2023, arXiv 2306.02972; the second corpus: FaST-VGS+, arXiv 2202.03543.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from fairseq.tasks import register_task

from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import ClipDataset, long_enough
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.tasks.vgs_retrieval import VgsRetrievalTask, VgsRetrievalTaskConfig


@dataclass
class JointSslVgsTaskConfig(VgsRetrievalTaskConfig):
    schedule: str = field(
        default="w2v2_vgs",
        metadata={
            "help": "one of the paper's nine: w2v2, vgs, vgsplus or two of them joined by _, as w2v2_vgs"
        },
    )
    lengths: Any = field(
        default_factory=lambda: ["20 epochs", "rest"],
        metadata={"help": "one a phase: '20 epochs', '1000 updates', '40 %', the last also 'rest'"},
    )
    ssl_data: Optional[str] = field(
        default=None,
        metadata={
            "help": "speech-only corpus for the SSL loss beside the pairs: a fairseq .tsv, or a folder "
            "with one named as dataset.train_subset"
        },
    )
    ssl_ratio: float = field(
        default=1.0, metadata={"help": "clips of ssl_data for each paired clip of a batch, above 0"}
    )


@register_task("joint_ssl_vgs", dataclass=JointSslVgsTaskConfig)
class JointSslVgsTask(VgsRetrievalTask):
    """The VGS task with an optional speech-only corpus."""

    def _extra(self, split: str) -> dict[str, Any]:
        if not self.cfg.ssl_data or split != self.cfg.train_subset:
            return {}
        if self.cfg.ssl_ratio <= 0:
            raise ConfigError(
                "task.ssl_ratio", [f"got {self.cfg.ssl_ratio}, wanted more than 0, or no ssl_data"]
            )
        path = Path(self.cfg.ssl_data)
        manifest = read_audio_manifest(path / f"{split}.tsv" if path.is_dir() else path)
        rows = long_enough(manifest, round(self.cfg.min_duration_s * SAMPLE_RATE_HZ), str(manifest.path))
        kept = AudioManifest(
            manifest.path, manifest.root, [manifest.files[row] for row in rows], manifest.sizes[rows]
        )
        return {
            "extra": ClipDataset(kept, **self.clip_options(training=True)),
            "extra_ratio": float(self.cfg.ssl_ratio),
        }
