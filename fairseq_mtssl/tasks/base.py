"""The base class of all tasks: batches of any size, normalisation of waveforms, data_wait, renamed keys."""

import logging
import time
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import II, OmegaConf, open_dict

from fairseq_mtssl.data.clips import ClipOptions
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.kernels.allocator import keep_freed_memory
from fairseq_mtssl.renamed import RENAMED

logger = logging.getLogger(__name__)


def use_new_names(section: str, cfg: Any) -> None:
    """Move the values that a section of the configuration has under earlier names to today's, and warn."""
    for old, new in RENAMED.items():
        value = cfg.get(old, None) if OmegaConf.is_config(cfg) else None
        if value is not None:
            logger.warning("%s.%s is now called %s.%s and sets it to %r", section, old, section, new, value)
            with open_dict(cfg):
                cfg[old], cfg[new] = None, value


@dataclass
class BaseTaskConfig(FairseqDataclass):
    """The fields of every task."""

    resample: bool = field(
        default=False, metadata={"help": "resample audio that is not at 16 kHz instead of refusing it"}
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")


@dataclass
class BucketConfig(BaseTaskConfig):
    """The fields of tasks that pad training batches to buckets."""

    num_batch_buckets: int = field(
        default=0,
        metadata={
            "help": "number of lengths to which training batches are padded (quantiles of the clips' "
            "lengths), for model.compile, which compiles code for each; with max_tokens, padding counts. "
            "0: pad to multiples of 0.2 s"
        },
    )


class BaseTask(FairseqTask):
    """A task whose batches have any size, and which logs how long training waits for data.

    With required_batch_size_multiple above 1 (fairseq-validate's default is 8) fairseq silently drops a last
    batch whose size is not a multiple of it, so this task sets it to 1.

    Logs data_wait: the share of the training time, 0 to 1, in which this process waited for a batch, from the
    end of an update to the first batch of the next. Validation, and a checkpoint written after it, count
    neither as waiting nor as training. The host's clock is read without waiting for the device.
    """

    normalised = True  # whether datasets normalise waveforms; decided when the model is built
    _batch_asked: Optional[float] = None  # when the batches of the next update were requested
    _batch_came: Optional[float] = None  # when the first of them arrived
    _batch_wait_s = 0.0  # the time between the two

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        use_new_names("task", cfg)
        super().__init__(cfg, **kwargs)
        keep_freed_memory()

    @classmethod
    def setup_task(cls, cfg: Any, **_: Any) -> Any:
        """Called by fairseq, which also passes ``from_checkpoint`` when it loads a model."""
        return cls(cfg)

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """As fairseq's; cfg may have earlier names of keys, as those of old checkpoints do."""
        use_new_names("model", cfg)
        return super().build_model(cfg, from_checkpoint)

    def settle_normalize(
        self, cfg: Any, trained: Optional[bool], source: Any, name: str = "normalize"
    ) -> None:
        """Decide whether waveforms are normalised; write it into cfg, which is saved, and use it in datasets.

        cfg: the model's configuration; name: its field. trained: the setting with which the checkpoint
        `source`, from which training starts, was trained; None if there is none or it does not say.
        Raises: ConfigError if the field is given and contradicts the checkpoint.
        """
        given = cfg.get(name, None)
        if given is not None and trained is not None and bool(given) != trained:
            kind = "normalised" if trained else "raw"
            got = f"{str(bool(given)).lower()}, but {source} was trained on {kind} waveforms"
            raise ConfigError(f"model.{name}", [f"{got}; leave it null, or give {str(trained).lower()}"])
        decided = given if given is not None else trained
        self.normalised = True if decided is None else bool(decided)
        with open_dict(cfg):
            cfg[name] = self.normalised

    def clip_options(self, training: bool, **options: Any) -> ClipOptions:
        """Return the options with which the clips of a split are read. options: those of this task alone."""
        same = {"resample": self.cfg.resample, "normalised": self.normalised}
        return ClipOptions(training, int(self.cfg.seed), **same, **options)

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Call fairseq's with required_batch_size_multiple=1, an option that its callers pass by name."""
        return super().get_batch_iterator(dataset, *args, **{**kwargs, "required_batch_size_multiple": 1})

    def begin_epoch(self, epoch: int, model: Any) -> None:
        super().begin_epoch(epoch, model)
        self._batch_asked = time.perf_counter()

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        super().begin_valid_epoch(epoch, model)
        self._batch_asked = None

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """Run forward and backward of one of an update's batches, as fairseq does, and note the time."""
        if self._batch_asked is not None:
            self._batch_came = time.perf_counter()
            self._batch_wait_s, self._batch_asked = self._batch_came - self._batch_asked, None
        return super().train_step(*args, **kwargs)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Log the criterion's means and, at the end of an update, data_wait."""
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training:
            return
        self._batch_asked = time.perf_counter()
        if self._batch_came is not None:
            seconds = self._batch_wait_s + self._batch_asked - self._batch_came
            metrics.log_scalar("data_wait", self._batch_wait_s / seconds, weight=seconds, round=3)
            self._batch_came = None
