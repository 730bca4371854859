"""Every function of fairseq that this package replaces, and why; all as of fairseq 0.12.3 (fairseq-fixed).

`install` puts them in place when the package is imported.

- `distributed_fairseq_model.DistributedDataParallel` and `distributed.utils.all_gather_list`: fairseq assumes
  that several processes mean CUDA. It wraps modules with the number of a device, which torch refuses on a
  CPU, and gathers what is logged through GPU memory. With NCCL everything stays fairseq's.
- `checkpoint_utils.load_checkpoint`: fairseq compares optimizers by their classes, which a wrapper for half
  precision hides; of weights that do not fit it says only that architectures should match; and it does not
  know how waveforms were normalised. Trainings of ours check these first and name the setting to give.

To train in several processes on CPUs, each rank R of N is a command of its own, with common.cpu=true and
these of distributed_training: distributed_backend=gloo distributed_init_method=tcp://HOST:PORT
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
    """DistributedDataParallel as fairseq asks for it; on a CPU without device numbers."""
    if next(module.parameters()).device.type == "cpu":
        options.update(device_ids=None, output_device=None)
    return DistributedDataParallel(module, **options)


def all_gather_list(data: Any, group: Any = None, max_size: int = 16384) -> list[Any]:
    """What every rank has, in rank order; as fairseq's, but with gloo of any size and without a GPU."""
    group = distributed_utils.get_global_group() if group is None else group
    if dist.get_backend(group) != "gloo":
        return list(_gather_on_gpus(data, group, max_size))
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, utils.move_to_cpu(data), group=group)
    return found


def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
    """As fairseq's, but a training of ours checks what the checkpoint says before any of it is used.

    cfg: the section `checkpoint`. Raises: ConfigError naming every contradiction.
    """
    if not is_ours(str(trainer.cfg.model._name)):
        return _load_checkpoint(cfg, trainer, **options)
    read = checkpoint_utils.load_checkpoint_to_cpu

    def read_and_check(path: str, *args: Any, **kwargs: Any) -> Any:
        state = read(path, *args, **kwargs)
        anew = cfg.reset_optimizer or path == cfg.finetune_from_model
        errors = resume_errors(state, trainer.cfg, trainer.get_model().state_dict(), keep_optimizer=not anew)
        if errors:
            raise ConfigError(path, errors)
        return state

    checkpoint_utils.load_checkpoint_to_cpu = read_and_check
    try:
        return _load_checkpoint(cfg, trainer, **options)
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = read


def install() -> None:
    """Put these in fairseq's place; may be repeated."""
    distributed_fairseq_model.DistributedDataParallel = wrap
    distributed_utils.all_gather_list = all_gather_list
    checkpoint_utils.load_checkpoint = load_checkpoint
