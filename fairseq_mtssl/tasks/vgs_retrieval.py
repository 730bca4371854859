"""Training and validating speech–image retrieval, in phases.

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
from fairseq_mtssl.data.clips import ClipDataset
from fairseq_mtssl.data.images import RegionFeatures
from fairseq_mtssl.data.manifest import read_pair_manifest
from fairseq_mtssl.data.pairs import ImageStore, PairDataset, longer_pairs
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.retrieval import RetrievalAccumulator
from fairseq_mtssl.renamed import earlier_name
from fairseq_mtssl.schedule import Phase, Schedule, StepWeights, parse_phases, parse_schedule, run_length
from fairseq_mtssl.tasks.buckets import BucketConfig
from fairseq_mtssl.tasks.health_watch import HealthWatch, WatchedTask
from fairseq_mtssl.tasks.phases import begin_update, forget_gradients, keep_schedule

logger = logging.getLogger(__name__)

RECALLS = ("s2i_r1", "s2i_r5", "s2i_r10", "i2s_r1", "i2s_r5", "i2s_r10")
"""Valid metrics: speech → image and image → speech R@k, percent."""
CHANCES = ("s2i_chance10", "i2s_chance10", "captions", "images")
"""Beside them: R@10 of a random ranking, percent, and how many there were to rank."""


@dataclass
class VgsRetrievalTaskConfig(BucketConfig):
    data: str = field(default=MISSING, metadata={"help": "folder of {split}.tsv and {split}.pairs"})
    # speech
    max_duration_s: float = field(default=8.0, metadata={"help": "seconds kept of a clip in training"})
    eval_max_duration_s: float = field(
        default=10.0, metadata={"help": "seconds kept of a clip in evaluation"}
    )
    min_duration_s: float = field(
        default=0.1, metadata={"help": "shorter clips are dropped, counted and named"}
    )
    resample: bool = field(
        default=False, metadata={"help": "resample audio that is not at 16 kHz, else refuse it"}
    )
    speed_perturb: float = field(
        default=0.0,
        metadata={"help": "p: play each training clip at a speed drawn from [1-p, 1+p], pitch included"},
    )
    noise_snr_db: Any = field(
        default=None,
        metadata={"help": "[low, high]: add white noise to training clips at an SNR drawn from it, dB"},
    )
    length_pool: int = field(
        default=0,
        metadata={
            "help": "training clips drawn at a time and sorted by length before batches are cut from them; "
            "some batches' worth saves most of the padding, 0 sorts none"
        },
    )
    # images
    # fairseq-validate composes a configuration without a model; the checkpoint then brings its own.
    image_encoder: str = "${oc.select:model.image_encoder,regions}"
    image_size: int = field(default=224, metadata={"help": "side that raw images are brought to, pixels"})
    region_features: Optional[str] = field(
        default=None, metadata={"help": "HDF5 file of region features, for model.image_encoder=regions"}
    )
    relevance: ChoiceEnum(["image", "label"]) = field(  # type: ignore[valid-type]
        default="image",
        metadata={"help": "what makes an image right for a caption: being its own, or having its label"},
    )
    re_pairing: bool = field(
        default=False, metadata={"help": "in training draw each caption's image anew from all of its label"}
    )
    repair: Any = earlier_name("repair")
    # schedule
    schedule: str = field(
        default="vgs",
        metadata={
            "help": "one of the paper's nine: w2v2, vgs, vgsplus or two of them joined by _, as w2v2_vgs"
        },
    )
    lengths: Any = field(
        default_factory=lambda: ["rest"],
        metadata={"help": "one a phase: '20 epochs', '1000 updates', '40 %', the last also 'rest'"},
    )
    warmup: float = field(
        default=0.1, metadata={"help": "share of each phase in which the learning rate rises"}
    )
    decay: ChoiceEnum(["linear", "cosine", "constant"]) = field(  # type: ignore[valid-type]
        default="linear", metadata={"help": "how the learning rate falls afterwards"}
    )
    first_course: Optional[str] = field(
        default=None,
        metadata={
            "help": "of schedules of two: length of the learning-rate course of which the first phase is the "
            "beginning, as 'lengths' ('100 %' is the whole run); null: the rate falls to 0 in the first phase"
        },
    )
    phases: Any = field(
        default=None,
        metadata={
            "help": "phases written out, instead of schedule and lengths: a list of {alpha, length, name, "
            "warmup, decay, lr_scale, reset, course}; alpha is the weight of L_AV, [first, last] ramps it"
        },
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    max_update: int = II("optimization.max_update")
    max_epoch: int = II("optimization.max_epoch")
    update_freq: Any = II("optimization.update_freq")
    lr: Any = II("optimization.lr")


@register_task("vgs_retrieval", dataclass=VgsRetrievalTaskConfig)
class VgsRetrievalTask(WatchedTask):
    """Pairs of spoken captions and images; retrieval over the whole validation set as valid metrics."""

    def __init__(self, cfg: VgsRetrievalTaskConfig) -> None:
        super().__init__(cfg)
        self.phases = read_phases(cfg)
        self.schedule: Optional[Schedule] = None
        self.updates_per_epoch = 0
        self._step: Optional[StepWeights] = None
        self._began: Optional[tuple[float, int]] = (
            None  # monotonic seconds and update of this session's first
        )
        self._retrieval = RetrievalAccumulator()
        self._valid_dataset: Optional[PairDataset] = None
        self._scores: Optional[dict[str, float]] = None

    @classmethod
    def setup_task(cls, cfg: VgsRetrievalTaskConfig, **_: Any) -> "VgsRetrievalTask":
        """Called by fairseq, which passes ``from_checkpoint`` too when it loads a model."""
        return cls(cfg)

    # -- data

    def load_dataset(
        self, split: str, combine: bool = False, task_cfg: Any = None, **kwargs: Any
    ) -> PairDataset:
        """Read a split's manifest. Raises: ManifestError naming every error."""
        cfg = task_cfg or self.cfg
        training = split == self.cfg.train_subset
        manifest = longer_pairs(
            read_pair_manifest(str(cfg.data), split), round(cfg.min_duration_s * SAMPLE_RATE_HZ)
        )
        regions = self._region_features()
        images = ImageStore(manifest, int(cfg.image_size), regions)
        self.datasets[split] = PairDataset(
            manifest,
            images,
            relevance=str(cfg.relevance),
            re_pairing=self.cfg.re_pairing,
            requirements=self._requirements if training else self._valid_requirements,
            **self._extra(split),
            **self.clip_options(training),
        )
        logger.info("%s: %d captions of %d images", split, len(manifest), len(manifest.unique_image_ids))
        return self.datasets[split]

    def clip_options(self, training: bool) -> dict[str, Any]:
        """How the speech of a split is read."""
        seconds = self.cfg.max_duration_s if training else self.cfg.eval_max_duration_s
        noise = self.cfg.noise_snr_db
        return {
            "max_samples": round(seconds * SAMPLE_RATE_HZ),
            "training": training,
            "seed": int(self.cfg.seed),
            "resample": self.cfg.resample,
            "normalised": self.normalised,
            "speed_perturb": self.cfg.speed_perturb,
            "length_pool": int(self.cfg.length_pool),
            "num_buckets": int(self.cfg.num_batch_buckets),
            "noise_snr_db": None if noise is None else (float(noise[0]), float(noise[1])),
        }

    def _region_features(self) -> Optional[RegionFeatures]:
        if str(self.cfg.image_encoder) != "regions":
            return None
        if not self.cfg.region_features:
            raise ConfigError(
                "task.region_features",
                [
                    "model.image_encoder=regions needs the HDF5 file of the features; give its path, "
                    "or take a raw-image encoder (cnn, patches, timm:<name>)"
                ],
            )
        return RegionFeatures(self.cfg.region_features)

    def _extra(self, split: str) -> dict[str, Any]:
        return {}

    def _requirements(self, epoch: int) -> tuple[bool, bool]:
        """Whether an epoch's batches need images, and speech-only clips; asked when the epoch begins.

        Epochs may differ by a few batches, hence the slack; images that are missing nevertheless are read by
        train_step.
        """
        if self.schedule is None:
            return True, True
        slack = 1 + self.updates_per_epoch // 20
        first = (epoch - 1) * self.updates_per_epoch if self._step is None else self._step.update + 1
        first, last = first - slack, first + self.updates_per_epoch + slack
        return self.schedule.uses_vgs(first, last), self.schedule.uses_ssl(first, last)

    def _valid_requirements(self, epoch: int) -> tuple[bool, bool]:
        """A schedule that never trains VGS has no retrieval to validate."""
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
        """Resolve the phases' lengths, once the batches of an epoch on one rank are known."""
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
        """Once, before the first update of this process: a resumed run goes on along its own schedule."""
        setting = f"{self.phases} {self.cfg.max_update} {self.cfg.max_epoch}"
        self.schedule = schedule = keep_schedule(optimizer, schedule, setting)
        self._began = time.monotonic(), update_num
        phases = zip(schedule.starts, [phase.name for phase in self.phases], strict=True)
        return HealthWatch(list(phases), schedule.total)

    def max_positions(self) -> None:
        return None

    # -- model

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """Build the model; for a new training start it from ``model.init_from``."""
        if from_checkpoint:
            cfg.image_weights = None  # they are in the checkpoint; the file may be gone
        start = checkpoints.read_start(cfg.init_from) if cfg.init_from and not from_checkpoint else None
        # the waveforms matter to the speech encoder alone
        is_heard = not cfg.init_parts or "speech_encoder" in cfg.init_parts
        trained = start.normalised if start is not None and is_heard else None
        self.settle_normalize(cfg, trained, cfg.init_from)
        model = super().build_model(cfg, from_checkpoint)
        if start is not None:
            names = list(model.modules_of(cfg.init_parts))
            brought_teacher = checkpoints.initialise(model, start, "ssl_head.teacher.", names)
            if not brought_teacher and hasattr(model, "reset_branch"):
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
        """A batch that fairseq gives a rank that has run out of its own, as this task trains on it.

        It adds nothing, but every rank has to make the same sums over all ranks.
        """
        return sample

    def optimizer_step(self, optimizer: Any, model: Any, update_num: int) -> None:
        step = self._step
        if step is not None:
            dead = model.inactive_parameters(vgs=step.vgs_weight > 0, ssl=step.ssl_weight > 0)
            forget_gradients(optimizer, dead)
        super().optimizer_step(optimizer, model, update_num)

    # -- validation

    def valid_step(self, sample: dict[str, Any], model: Any, criterion: Any, **kwargs: Any) -> Any:
        """As fairseq's; during a training with the weights of the update before."""
        if self._step is not None:
            sample = {**sample, "step": self._step}
        return super().valid_step(sample, model, criterion, **kwargs)

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        """Called by fairseq on every rank; all then validate the encoder that a checkpoint keeps."""
        super().begin_valid_epoch(epoch, model)
        model.share_buffers()

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the criterion's means and, in validation, retrieval over all that was seen of the split."""
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
        """Minutes to the end of the schedule at this session's average speed, validation included."""
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
        """Recalls in percent; ``score``, which picks the best checkpoint, is the mean R@10 of both
        directions while VGS is trained and 0 while it is not."""
        if self._scores is None:
            # The dataset's groups already say what is relevant: an image alone, or all of its label.
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
    """The phases of a task config, written out or by name. Raises: ConfigError naming every error."""
    if cfg.phases is not None:
        phases = OmegaConf.to_container(cfg.phases) if OmegaConf.is_config(cfg.phases) else cfg.phases
        if not isinstance(phases, list) or not all(isinstance(phase, dict) for phase in phases):
            raise ConfigError("task.phases", [f"got {phases!r}, wanted a list of {{alpha: …, length: …}}"])
        return parse_phases(phases)
    course = (float(cfg.warmup), str(cfg.decay), cfg.first_course)
    return parse_schedule(str(cfg.schedule), list(cfg.lengths), *course)
