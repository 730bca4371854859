"""Pre-training on speech alone: audio, cluster labels, and the step of the slow teacher.

Source: Ma et al. 2023, arXiv 2211.07321.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, List, Optional

from fairseq.data import Dictionary
from fairseq.dataclass import FairseqDataclass
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II, MISSING

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import long_enough
from fairseq_mtssl.data.labelled_clips import LabelledClipDataset
from fairseq_mtssl.data.labels import (
    FrameLabels,
    dictionary_of,
    read_frame_labels,
    read_label_dictionary,
    read_label_rate_hz,
)
from fairseq_mtssl.data.manifest import AudioManifest, read_audio_manifest
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import parse_conv_layers

logger = logging.getLogger(__name__)

WAV2VEC2_CONV_LAYERS = "[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2"


@dataclass
class Mt4sslTaskConfig(FairseqDataclass):
    data: str = field(default=MISSING, metadata={"help": "folder of {split}.tsv"})
    labels: Any = field(
        default_factory=list,
        metadata={
            "help": "folders of cluster labels, one a label set: {split}.km, dict.km.txt, targets.json; "
            "empty: online targets alone"
        },
    )
    label_rate_hz: Optional[Any] = field(
        default=None,
        metadata={"help": "labels a second, one number or one a label set; null: as targets.json says"},
    )
    max_duration_s: float = field(default=20.0, metadata={"help": "seconds of a crop"})
    min_duration_s: float = field(
        default=2.0, metadata={"help": "shorter utterances are dropped, counted and named"}
    )
    resample: bool = field(
        default=False,
        metadata={"help": "resample audio that is not at 16 kHz, else refuse it; needs labels=[]"},
    )
    # fairseq-validate composes a configuration without a model; the checkpoint then brings its own.
    conv_feature_layers: Optional[str] = "${oc.select:model.conv_feature_layers,null}"
    phase_ratio: Any = "${oc.select:lr_scheduler.phase_ratio,null}"
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    max_update: int = II("optimization.max_update")


@register_task("mt4ssl", dataclass=Mt4sslTaskConfig)
class Mt4sslTask(FairseqTask):
    """Utterances with the labels of their frames. The symbols of the dictionaries go into checkpoints."""

    def __init__(self, cfg: Mt4sslTaskConfig) -> None:
        super().__init__(cfg)
        self.label_folders = [cfg.labels] if isinstance(cfg.labels, str) else list(cfg.labels or [])
        check_config(cfg, len(self.label_folders))
        self.conv_layers = parse_conv_layers(cfg.conv_feature_layers or WAV2VEC2_CONV_LAYERS)
        self.state.add_factory("symbols", self._read_symbols)

    @classmethod
    def setup_task(cls, cfg: Mt4sslTaskConfig, **_: Any) -> "Mt4sslTask":
        """Called by fairseq, which passes ``from_checkpoint`` too when it loads a model."""
        return cls(cfg)

    # -- dictionaries

    def _read_symbols(self) -> List[List[str]]:
        return [list(read_label_dictionary(folder).symbols) for folder in self.label_folders]

    @property
    def dictionaries(self) -> List[Dictionary]:
        """One a label set: a checkpoint's, or those of the label folders."""
        return [dictionary_of(symbols) for symbols in self.state.symbols]

    @property
    def label_classes(self) -> List[int]:
        """Classes of each label set, the four special symbols of fairseq's dictionaries included."""
        return [len(symbols) for symbols in self.state.symbols]

    def state_dict(self) -> dict[str, Any]:
        """Plain lists of symbols: any version of torch reads them without unpickling a class."""
        return {"symbols": self.state.symbols}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint's dictionaries; those of fairseq's hubert_pretraining too."""
        symbols = state_dict.get("symbols")
        if symbols is None:
            symbols = [list(each.symbols) for each in state_dict.get("dictionaries", [])]
        self.state.merge_state_dict({"symbols": symbols})

    # -- data

    def load_dataset(
        self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any
    ) -> LabelledClipDataset:
        """Read a split's manifest and labels. Raises: ManifestError naming every fault of a file."""
        cfg = self.cfg
        manifest = read_audio_manifest(Path(cfg.data) / f"{split}.tsv")
        labels = self._read_labels(split, manifest)
        rows = long_enough(manifest, round(cfg.min_duration_s * SAMPLE_RATE_HZ), str(manifest.path))
        self.datasets[split] = LabelledClipDataset(
            manifest,
            rows,
            labels,
            self.conv_layers,
            max_samples=round(cfg.max_duration_s * SAMPLE_RATE_HZ),
            training=split == cfg.train_subset,
            seed=int(cfg.seed),
            resample=cfg.resample,
        )
        hours = manifest.sizes[rows].sum() / SAMPLE_RATE_HZ / 3600
        logger.info("%s: %d utterances, %.2f h, %d label sets", split, len(rows), hours, len(labels))
        return self.datasets[split]

    def _read_labels(self, split: str, manifest: AudioManifest) -> List[FrameLabels]:
        if not self.label_folders:
            return []
        if len(self.label_folders) != len(self.label_classes):
            got = (
                f"{len(self.label_folders)} folders for the {len(self.label_classes)} label sets of the model"
            )
            raise ConfigError("task.labels", [f"{got}; give as many, in the same order, or none"])
        given = self.cfg.label_rate_hz
        rates = list(given) if hasattr(given, "__iter__") else [given] * len(self.label_folders)
        return [
            read_frame_labels(
                Path(folder) / f"{split}.km",
                manifest,
                dictionary,
                read_label_rate_hz(folder) if rate is None else float(rate),
                self.conv_layers,
            )
            for folder, dictionary, rate in zip(self.label_folders, self.dictionaries, rates, strict=True)
        ]

    def max_positions(self) -> None:
        return None

    # -- model

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; for a new training start it from ``model.init_from``."""
        model = super().build_model(cfg, from_checkpoint)
        if (
            cfg.init_from
            and not from_checkpoint
            and not checkpoints.initialise(model, cfg.init_from, "ssl_head.teacher.")
        ):
            model.reset_teacher()
        return model

    # -- training

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        """Step the optimizer, then the teacher: once an update, however many batches it gathers.

        A half-precision overflow is raised before this is called; an AMP one leaves the weights as they
        are and is known by the lowered loss scale.
        """
        before = _loss_scale(optimizer)
        super().optimizer_step(optimizer, model, update_num)
        if _loss_scale(optimizer) >= before:
            model.update_teacher(update_num + 1)


def _loss_scale(optimizer: Any) -> float:
    """AMP's loss scale; 0 with any other optimizer, whose steps are never left out silently."""
    return float(optimizer.scaler.get_scale()) if isinstance(optimizer, AMPOptimizer) else 0.0


def check_config(cfg: Any, label_sets: int) -> None:
    """Raises: ConfigError naming every fault of a task configuration at once."""
    faults = []
    if not 0 < cfg.min_duration_s <= cfg.max_duration_s:
        faults.append(
            f"min_duration_s {cfg.min_duration_s} and max_duration_s {cfg.max_duration_s}: "
            "wanted 0 < min ≤ max"
        )
    if cfg.resample and label_sets:
        faults.append("resample with labels: their counts are checked at 16 kHz; resample the files first")
    rates = cfg.label_rate_hz
    if hasattr(rates, "__iter__") and len(rates) != label_sets:
        faults.append(f"label_rate_hz {list(rates)}: wanted one for each of {label_sets} label sets")
    ratio, updates = cfg.phase_ratio, int(cfg.max_update or 0)
    if ratio and updates and int(updates * ratio[2]) < 1:
        faults.append(
            f"lr_scheduler.phase_ratio {list(ratio)} of {updates} updates leaves none for the decay, which "
            "tri_stage divides by; train longer or give the decay a larger share"
        )
    if faults:
        raise ConfigError("task", faults)
