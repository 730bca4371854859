"""Training in several processes without GPUs: what fairseq's trainer lacks for it.

fairseq takes it that several processes mean CUDA: it wraps modules with the number of a device, which torch
refuses on a CPU, and gathers what is logged through GPU memory. With NCCL everything stays fairseq's.

Each rank R of N is a command of its own, with common.cpu=true and these of distributed_training:
distributed_backend=gloo distributed_init_method=tcp://HOST:PORT distributed_no_spawn=true
distributed_world_size=N distributed_rank=R
"""

from __future__ import annotations

from typing import Any

import torch.distributed as dist
from fairseq import utils
from fairseq.distributed import utils as distributed_utils
from fairseq.models import distributed_fairseq_model
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_gather_on_gpus = distributed_utils.all_gather_list


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


def install() -> None:
    """Put these in fairseq's place; may be repeated."""
    distributed_fairseq_model.DistributedDataParallel = wrap
    distributed_utils.all_gather_list = all_gather_list
