"""The functions of fairseq 0.12.3 (fairseq-fixed) that this package replaces, each with its reason.

`install` replaces them when the package is imported.

- `distributed_fairseq_model.DistributedDataParallel` and `distributed.utils.all_gather_list`: fairseq assumes
  that several processes use CUDA. It wraps modules with a device number, which torch refuses on a CPU, and
  gathers logging outputs through GPU memory. With NCCL, fairseq's functions are used.
- `checkpoint_utils.load_checkpoint`: when a training is resumed, fairseq compares optimizers by their
  classes, which a wrapper for half precision hides; for weights that do not fit, it says only that
  architectures should match; and it does not compare how waveforms are normalised. Trainings of this
  package's models check these settings first, and their errors name the setting to change.

To train in several processes on CPUs, start one command for each rank R of N, with common.cpu=true and, in
distributed_training: distributed_backend=gloo distributed_init_method=tcp://HOST:PORT
distributed_no_spawn=true distributed_world_size=N distributed_rank=R
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from fairseq import checkpoint_utils, utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_mtssl.checkpoints import is_ours
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.resuming import resume_errors

_gather_on_gpus = distributed_utils.all_gather_list
_load_checkpoint = checkpoint_utils.load_checkpoint


def wrap(module: nn.Module, **options: Any) -> nn.Module:
    """Make fairseq's DistributedDataParallel, on a CPU without device numbers."""
    if next(module.parameters()).device.type == "cpu":
        options.update(device_ids=None, output_device=None)
    return DistributedDataParallel(module, **options)


def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
    """Gather the data of all ranks in rank order; with gloo, data of any size and without a GPU."""
    group = distributed_utils.get_global_group() if group is None else group
    if dist.get_backend(group) != "gloo":
        return list(_gather_on_gpus(data, group, max_size))
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, utils.move_to_cpu(data), group=group)
    return gathered


def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
    """Load a checkpoint as fairseq does; for this package's models, check its settings before it is used.

    cfg: the section `checkpoint`. Raises: ConfigError naming every contradiction.
    """
    if not is_ours(str(trainer.cfg.model._name)):
        return _load_checkpoint(cfg, trainer, **options)
    read = checkpoint_utils.load_checkpoint_to_cpu

    def read_and_check(path: str, *args: Any, **kwargs: Any) -> Any:
        state = read(path, *args, **kwargs)
        is_new = cfg.reset_optimizer or path == cfg.finetune_from_model
        errors = resume_errors(
            state, trainer.cfg, trainer.get_model().state_dict(), keep_optimizer=not is_new
        )
        if errors:
            raise ConfigError(path, errors)
        return state

    checkpoint_utils.load_checkpoint_to_cpu = read_and_check
    try:
        return _load_checkpoint(cfg, trainer, **options)
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = read


def install() -> None:
    """Replace fairseq's functions; may be called repeatedly."""
    distributed_fairseq_model.DistributedDataParallel = wrap
    distributed_utils.all_gather_list = all_gather_list
    checkpoint_utils.load_checkpoint = load_checkpoint
