"""The base class of the tasks: no row of a split is left out, the wait for data is logged, earlier names of
configuration keys work.
"""

import logging
import time
from typing import Any, Optional

from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf, open_dict

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


class BaseTask(FairseqTask):
    """With required_batch_size_multiple above 1 (8, unless fairseq-validate is told otherwise) fairseq drops
    a last batch that is no multiple of it, and says nothing. Here batches have any size.

    Logs data_wait: the share of the training time, 0 to 1, in which this process had no batch to work on,
    from the end of an update to the first batch of the next. Validation, and a checkpoint written after it,
    are no part of either. Read off the host's clock; nothing waits for the device.
    """

    normalised = True  # whether datasets give waveforms zero mean and unit variance; known with the model
    _batch_asked: Optional[float] = None  # when the next update's batches were asked for
    _batch_came: Optional[float] = None  # when the first of them was there
    _batch_wait_s = 0.0  # between the two

    def __init__(self, cfg: Any, **kwargs: Any) -> None:
        use_new_names("task", cfg)
        super().__init__(cfg, **kwargs)
        keep_freed_memory()

    def build_model(self, cfg: Any, from_checkpoint: bool = False) -> Any:
        """As fairseq's; cfg may have earlier names of keys, as those of old checkpoints do."""
        use_new_names("model", cfg)
        return super().build_model(cfg, from_checkpoint)

    def settle_normalize(
        self, cfg: Any, trained: Optional[bool], source: Any, name: str = "normalize"
    ) -> None:
        """Decide model.normalize, write it into cfg, which is saved, and let datasets follow it.

        cfg: of the model. trained: what the checkpoint `source`, from which training starts, was trained
        with; None: there is none, or it does not say. name: of the field.
        Raises: ConfigError if the field is given and is not what the checkpoint was trained with.
        """
        asked = cfg.get(name, None)
        if asked is not None and trained is not None and bool(asked) != trained:
            kind = "normalised" if trained else "raw"
            got = f"{str(bool(asked)).lower()}, but {source} was trained on {kind} waveforms"
            raise ConfigError(f"model.{name}", [f"{got}; leave it null, or give {str(trained).lower()}"])
        known = asked if asked is not None else trained
        self.normalised = True if known is None else bool(known)
        with open_dict(cfg):
            cfg[name] = self.normalised

    def get_batch_iterator(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's, with required_batch_size_multiple=1; its callers give that option by name."""
        return super().get_batch_iterator(dataset, *args, **{**kwargs, "required_batch_size_multiple": 1})

    def begin_epoch(self, epoch: int, model: Any) -> None:
        super().begin_epoch(epoch, model)
        self._batch_asked = time.perf_counter()

    def begin_valid_epoch(self, epoch: int, model: Any) -> None:
        super().begin_valid_epoch(epoch, model)
        self._batch_asked = None

    def train_step(self, *args: Any, **kwargs: Any) -> Any:
        """As fairseq's: forward and backward of one of an update's batches."""
        if self._batch_asked is not None:
            self._batch_came = time.perf_counter()
            self._batch_wait_s, self._batch_asked = self._batch_came - self._batch_asked, None
        return super().train_step(*args, **kwargs)

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """The criterion's means, and at the end of an update data_wait."""
        super().reduce_metrics(logging_outputs, criterion)
        if not criterion.training:
            return
        self._batch_asked = time.perf_counter()
        if self._batch_came is not None:
            seconds = self._batch_wait_s + self._batch_asked - self._batch_came
            metrics.log_scalar("data_wait", self._batch_wait_s / seconds, weight=seconds, round=3)
            self._batch_came = None
