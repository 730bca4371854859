"""The task of visual grounding: trains on pairs along a schedule of phases, and validates by retrieval.

Source: Khorrami et al. 2023, arXiv 2306.02972.
"""

import logging
import math
import time
from dataclasses import dataclass, field
from typing import Any, Optional

import torch
from fairseq.dataclass import ChoiceEnum
from fairseq.logging import metrics
from fairseq.tasks import register_task
from omegaconf import II, MISSING, OmegaConf

from fairseq_mtssl import checkpoints
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.data.clips import ClipDataset, ClipOptions
from fairseq_mtssl.data.images import RegionFeatures
from fairseq_mtssl.data.manifest import read_pair_manifest
from fairseq_mtssl.data.pairs import ImageStore, PairDataset, longer_pairs
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.retrieval import RetrievalAccumulator
from fairseq_mtssl.image_encoders.base import takes_regions
from fairseq_mtssl.renamed import earlier_name
from fairseq_mtssl.schedule import Phase, Schedule, StepWeights, parse_phases, parse_schedule, run_length
from fairseq_mtssl.tasks.base import BucketConfig
from fairseq_mtssl.tasks.health_watch import HealthWatch, WatchedTask
from fairseq_mtssl.tasks.phases import begin_update, forget_gradients, keep_schedule

logger = logging.getLogger(__name__)

RECALLS = ("s2i_r1", "s2i_r5", "s2i_r10", "i2s_r1", "i2s_r5", "i2s_r10")
"""Validation metrics: R@k of speech → image and image → speech, in percent."""
CHANCES = ("s2i_chance10", "i2s_chance10", "captions", "images")
"""Further validation metrics: R@10 of a random ranking, in percent, and numbers of captions and images."""


@dataclass
class VgsRetrievalTaskConfig(BucketConfig):
    data: str = field(default=MISSING, metadata={"help": "folder of {split}.tsv and {split}.pairs"})
    # speech
    max_duration_s: float = field(default=8.0, metadata={"help": "seconds; longer training clips are cut"})
    eval_max_duration_s: float = field(
        default=10.0, metadata={"help": "seconds; longer clips are cut in evaluation"}
    )
    min_duration_s: float = field(
        default=0.1, metadata={"help": "seconds; shorter clips are dropped, which is logged"}
    )

    speed_perturb: float = field(
        default=0.0,
        metadata={"help": "p resamples each training clip by a factor from [1-p, 1+p], pitch included"},
    )
    noise_snr_db: Any = field(
        default=None,
        metadata={
            "help": "[low, high] in dB: add white noise to training clips, with an SNR from this range"
        },
    )
    length_pool: int = field(
        default=0,
        metadata={
            "help": "number of shuffled training clips that are sorted by length at a time before they are "
            "cut into batches; a few batches' worth saves most of the padding; 0: no sorting"
        },
    )
    # images
    # fairseq-validate composes a configuration without a model; the checkpoint then has this value
    image_encoder: str = "${oc.select:model.image_encoder,regions}"
    image_size: int = field(default=224, metadata={"help": "side to which raw images are scaled, pixels"})
    region_features: Optional[str] = field(
        default=None,
        metadata={"help": "HDF5 file of region features, for image encoders of them such as regions"},
    )
    relevance: ChoiceEnum(["image", "label"]) = field(  # type: ignore[valid-type]
        default="image",
        metadata={"help": "which images are relevant to a caption: its own image, or all of its label"},
    )
    re_pairing: bool = field(
        default=False,
        metadata={"help": "in training draw each caption's image from all images of its label"},
    )
    repair: Any = earlier_name("repair")
    # schedule
    schedule: str = field(
        default="vgs",
        metadata={
            "help": "one of the paper's nine: w2v2, vgs, vgsplus, or two of them joined by _, as w2v2_vgs"
        },
    )
    lengths: Any = field(
        default_factory=lambda: ["rest"],
        metadata={"help": "one per phase: '20 epochs', '1000 updates', '40 %'; for the last also 'rest'"},
    )
    warmup: float = field(
        default=0.1, metadata={"help": "share of each phase in which the learning rate rises"}
    )
    decay: ChoiceEnum(["linear", "cosine", "constant"]) = field(  # type: ignore[valid-type]
        default="linear", metadata={"help": "how the learning rate falls after the warm-up"}
    )
    first_course: Optional[str] = field(
        default=None,
        metadata={
            "help": "for schedules of two phases: length of the learning-rate course that the first phase "
            "begins, in the notation of lengths ('100 %': the whole run); null: the length of the phase, so "
            "that the rate falls to 0 in it"
        },
    )
    phases: Any = field(
        default=None,
        metadata={
            "help": "phases, instead of schedule and lengths: a list of {alpha, length, name, "
            "warmup, decay, lr_scale, reset, course}; alpha is the weight of L_AV, [first, last] ramps it"
        },
    )
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    update_freq: Any = II("optimization.update_freq")
    lr: Any = II("optimization.lr")


@register_task("vgs_retrieval", dataclass=VgsRetrievalTaskConfig)
class VgsRetrievalTask(WatchedTask):
    """Trains on pairs of spoken captions and images; validation measures retrieval over the whole split."""

    def __init__(self, cfg: VgsRetrievalTaskConfig) -> None:
        super().__init__(cfg)
        self.phases = read_phases(cfg)
        self.schedule: Optional[Schedule] = None
        self.updates_per_epoch = 0
        self._step: Optional[StepWeights] = None
        self._began: Optional[tuple[float, int]] = None  # time (s) and number of this process's first update
        self._retrieval = RetrievalAccumulator()
        self._valid_dataset: Optional[PairDataset] = None
        self._scores: Optional[dict[str, float]] = None

    # -- data

    def load_dataset(self, split: str, task_cfg: Any = None, **_: Any) -> PairDataset:
        """Read a split's manifest. Raises: ManifestError listing every error."""
        cfg = task_cfg or self.cfg
        training = split == self.cfg.train_subset
        manifest = longer_pairs(
            read_pair_manifest(str(cfg.data), split), round(cfg.min_duration_s * SAMPLE_RATE_HZ)
        )
        images = ImageStore(manifest, int(cfg.image_size), self._region_features())
        self.datasets[split] = PairDataset(
            manifest,
            images,
            self.clip_options(training),
            relevance=str(cfg.relevance),
            re_pairing=self.cfg.re_pairing,
            requirements=self._requirements if training else self._valid_requirements,
            **self._extra(split),
        )
        logger.info("%s: %d captions of %d images", split, len(manifest), len(manifest.unique_image_ids))
        return self.datasets[split]

    def clip_options(self, training: bool, **options: Any) -> ClipOptions:
        cfg, noise = self.cfg, self.cfg.noise_snr_db
        seconds = cfg.max_duration_s if training else cfg.eval_max_duration_s
        return super().clip_options(
            training,
            max_samples=round(seconds * SAMPLE_RATE_HZ),
            speed_perturb=cfg.speed_perturb,
            length_pool=int(cfg.length_pool),
            num_buckets=int(cfg.num_batch_buckets),
            noise_snr_db=None if noise is None else (float(noise[0]), float(noise[1])),
            **options,
        )

    def _region_features(self) -> Optional[RegionFeatures]:
        if not takes_regions(str(self.cfg.image_encoder)):
            return None
        if not self.cfg.region_features:
            raise ConfigError(
                "task.region_features",
                [
                    f"model.image_encoder={self.cfg.image_encoder} needs the HDF5 file of the features; give "
                    "its path, or take a raw-image encoder (cnn, patches, timm:<name>)"
                ],
            )
        return RegionFeatures(self.cfg.region_features)

    def _extra(self, split: str) -> dict[str, Any]:
        """Return further options of PairDataset."""
        return {}

    def _requirements(self, epoch: int) -> tuple[bool, bool]:
        """Return whether an epoch's batches need images and speech-only clips; called when it begins.

        Epochs may differ by a few batches, so updates before and after the epoch are considered too;
        train_step reads images that are missing nevertheless.
        """
        if self.schedule is None:
            return True, True
        slack = 1 + self.updates_per_epoch // 20
        first = (epoch - 1) * self.updates_per_epoch if self._step is None else self._step.update + 1
        first, last = first - slack, first + self.updates_per_epoch + slack
        return self.schedule.uses_vgs(first, last), self.schedule.uses_ssl(first, last)

    def _valid_requirements(self, epoch: int) -> tuple[bool, bool]:
        """Return the same for validation: images are needed unless the schedule never trains VGS."""
        return any(max(phase.alpha) > 0 for phase in self.phases), False

    def get_batch_iterator(self, dataset: ClipDataset, *args: Any, **kwargs: Any) -> Any:
        iterator = super().get_batch_iterator(dataset, *args, **kwargs)
        if dataset is self.datasets.get(self.cfg.train_subset):
            self._resolve_schedule(len(iterator))
        else:
            self._valid_dataset = dataset
            self._retrieval.reset()
        return iterator

    def _resolve_schedule(self, batches: int) -> None:
        """Resolve the phases' lengths. batches: number of batches of an epoch on one rank."""
        freq = list(self.cfg.update_freq)
        if len(freq) > 1 and any(phase.length.unit == "epochs" for phase in self.phases):
            raise ConfigError(
                "optimization.update_freq",
                [f"{freq} with phases in epochs; give one number, or lengths in updates"],
            )
        self.updates_per_epoch = math.ceil(batches / freq[-1])
        if self.schedule is None:
            total = run_length(int(self.cfg.max_update), int(self.cfg.max_epoch), self.updates_per_epoch)
            self.schedule = Schedule.resolve(self.phases, total, self.updates_per_epoch)

    def _begin_session(self, schedule: Schedule, optimizer: Any, update_num: int) -> HealthWatch:
        """Called before the first update of this process; a resumed run continues its own schedule."""
        setting = f"{self.phases} {self.cfg.max_update} {self.cfg.max_epoch}"
        self.schedule = schedule = keep_schedule(optimizer, schedule, setting)
        self._began = time.monotonic(), update_num
        phases = zip(schedule.starts, [phase.name for phase in self.phases], strict=True)
        return HealthWatch(list(phases), schedule.total)

    # -- model

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; a new training starts from the weights of ``model.init_from`` if given."""
        if from_checkpoint:
            cfg.image_weights = (
                None  # the checkpoint contains the weights, and the file may not exist any more
            )
        start = checkpoints.read_start(cfg.init_from) if cfg.init_from and not from_checkpoint else None
        # only a speech encoder fixes how waveforms are normalised
        takes_speech = not cfg.init_parts or "speech_encoder" in cfg.init_parts
        trained = start.normalised if start is not None and takes_speech else None
        self.settle_normalize(cfg, trained, cfg.init_from)
        model = super().build_model(cfg, from_checkpoint)
        if start is not None:
            names = list(model.modules_of(cfg.init_parts))
            has_teacher = checkpoints.initialise(model, start, "ssl_head.teacher.", names)
            if not has_teacher and hasattr(model, "reset_branch"):
                model.reset_branch()
        return model

    # -- training

    def train_step(
        self,
        sample: dict[str, Any],
        model: Any,
        criterion: Any,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> Any:
        if self.schedule is None:
            raise ConfigError("task", ["no training data has been loaded; load the train split first"])
        self.health = self.health or self._begin_session(self.schedule, optimizer, update_num)
        self.health.reach(update_num)
        self._step = self.schedule.at(update_num)
        begin_update(optimizer, self.schedule, self._step, float(self.cfg.lr[0]))
        model.begin_batch(counted=not ignore_grad)
        if ignore_grad:
            sample = self.without_weight(sample)
        if self._step.vgs_weight > 0 and sample["net_input"]["images"] is None:
            self.datasets[self.cfg.train_subset].load_images(sample)
        sample = {**sample, "step": self._step}
        return super().train_step(sample, model, criterion, optimizer, update_num, ignore_grad)

    def without_weight(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Prepare the batch that fairseq gives to a rank without batches left; its gradient is ignored.

        The rank runs it nevertheless, since all ranks must take part in the same reductions.
        """
        return sample

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        step = self._step
        if step is not None:
            inactive = model.inactive_parameters(vgs=step.vgs_weight > 0, ssl=step.ssl_weight > 0)
            forget_gradients(optimizer, inactive)
        super().optimizer_step(optimizer, model, update_num)

    # -- validation

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any, **kwargs: Any) -> Any:
        """Validate a batch as fairseq does; during training, with the loss weights of the last update."""
        if self._step is not None:
            sample = {**sample, "step": self._step}
        return super().valid_step(sample, model, criterion, **kwargs)

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Called by fairseq on every rank; shares buffers, so that all validate what checkpoints contain."""
        super().begin_valid_epoch(epoch, model)
        model.share_buffers()

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the criterion's means and, in validation, retrieval over the batches seen so far."""
        batches = [log.pop("embeddings") for log in logging_outputs if "embeddings" in log]
        super().reduce_metrics(logging_outputs, criterion)
        for batch in batches:
            self._collect(batch)
        if batches:
            for name in (*RECALLS, *CHANCES, "score"):
                metrics.log_derived(name, lambda _, name=name: self._recalls()[name])
        elif not criterion.training:
            metrics.log_scalar("score", 0.0, weight=0)
        if criterion.training:
            metrics.log_scalar("left_min", self._minutes_left(), weight=0, round=1)

    def _minutes_left(self) -> float:
        """Return the minutes to the end of the schedule at this process's average speed with validation."""
        if self._began is None or self._step is None or self.schedule is None:
            return 0.0
        began, first = self._began
        done = self._step.update + 1 - first
        return (time.monotonic() - began) / done * (self.schedule.total - first - done) / 60

    def _collect(self, batch: dict[str, torch.Tensor]) -> None:
        if self._valid_dataset is None:
            raise ConfigError("task", ["no validation data has been loaded; load a split first"])
        groups = torch.from_numpy(self._valid_dataset.groups)
        labels = groups[batch["image_row"]][batch["image_index"]]
        self._retrieval.add(
            batch["speech"], batch["image"], batch["id"], batch["image_index"], batch["image_row"], labels
        )
        self._scores = None

    def _recalls(self) -> dict[str, float]:
        """Return the recalls in percent, and ``score``, by which the best checkpoint is selected: the mean
        R@10 of both directions while VGS is trained, and 0 while it is not.
        """
        if self._scores is None:
            # the dataset's groups stand for relevance: one group per image, or one per label
            result = self._retrieval.result("label", split="valid").to_json()
            ways = {"s2i": result["speech_to_image"], "i2s": result["image_to_speech"]}
            chance = result["chance"]
            self._scores = {
                **{name: round(ways[name[:3]][name[4:]], 2) for name in RECALLS},
                "s2i_chance10": round(chance["speech_to_image"]["r10"], 2),
                "i2s_chance10": round(chance["image_to_speech"]["r10"], 2),
                **{name: result[name] for name in ("captions", "images")},
            }
            trained = self._step is None or self._step.vgs_weight > 0
            score = (self._scores["s2i_r10"] + self._scores["i2s_r10"]) / 2
            self._scores["score"] = score if trained else 0.0
        return self._scores


def read_phases(cfg: VgsRetrievalTaskConfig) -> list[Phase]:
    """Read the phases of a task config. Raises: ConfigError naming every error."""
    if cfg.phases is not None:
        phases = OmegaConf.to_container(cfg.phases) if OmegaConf.is_config(cfg.phases) else cfg.phases
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise ConfigError("task.phases", [f"got {phases!r}, wanted a list of {{alpha: …, length: …}}"])
        return parse_phases(phases)
    course = (float(cfg.warmup), str(cfg.decay), cfg.first_course)
    return parse_schedule(str(cfg.schedule), list(cfg.lengths), *course)
