"""Run by test_two_ranks.py: one of two gloo ranks, which trains and writes down what happens.

Usage: python two_ranks.py FOLDER RANK. FOLDER/runs.pt holds the runs by name: their data, recipe and
settings; a run writes to FOLDER/NAME, and rank r what it has seen of each (see `Watch`) to FOLDER/rank{r}.pt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from training import train

from fairseq_mtssl import fairseq_patches


class Watch:
    """What the updates of a run leave, and what happens meanwhile.

    updates: of the start and of each update the `weights`; the names of parameters `with_gradient`; and
    `events` in their order: "batch" at the forward pass of one, "bucket" when gradients are sent, a
    parameter's name when its gradient of a batch is there.
    """

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.updates: list[dict[str, Any]] = []
        self.events: list[str] = []
        self.model: nn.Module | None = None

    def attach(self, model: nn.Module) -> None:
        self.model = model
        model.register_forward_pre_hook(self.begin_batch)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(lambda _, name=name: self.events.append(name))
        self.end_update()

    def begin_batch(self, *_: Any) -> None:
        self.events.append("batch")
        # One random number more on rank 1, so that layerdrop skips other layers there; it does on CPUs where
        # the draws of dropout depend on a batch's shape.
        torch.rand(self.rank)

    def end_update(self) -> None:
        assert self.model is not None
        named = dict(self.model.named_parameters())
        self.updates.append(
            {
                "weights": {name: p.detach().clone() for name, p in named.items()},
                "with_gradient": {name for name, p in named.items() if p.grad is not None},
                "events": self.events.copy(),
            }
        )
        self.events.clear()


watch = Watch(0)


class Watched(DistributedDataParallel):
    """Says when a bucket is sent; buckets are small enough for the tiny models to fill several."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "bucket_cap_mb": 0.01})
        # torch refuses a hook whose annotations are strings, hence none
        self.register_comm_hook(None, lambda group, bucket: send(group, bucket))


def send(group: Any, bucket: Any) -> torch.futures.Future[Tensor]:
    """What DistributedDataParallel does by itself, told to the watch."""
    watch.events.append("bucket")
    return allreduce_hook(group, bucket)


def watch_trainer() -> None:
    from fairseq.trainer import Trainer

    step = Trainer.train_step

    def watched(self: Trainer, *args: Any, **kwargs: Any) -> Any:
        if watch.model is None:
            watch.attach(self.get_model())
        result = step(self, *args, **kwargs)
        watch.end_update()
        return result

    Trainer.train_step = watched
    fairseq_patches.DistributedDataParallel = Watched


def main(folder: Path, rank: int) -> None:
    global watch
    distributed = {
        "distributed_training.distributed_backend": "gloo",
        "distributed_training.distributed_init_method": f"file://{folder}/store",
        "distributed_training.distributed_world_size": 2,
        "distributed_training.distributed_rank": rank,
        "distributed_training.distributed_no_spawn": True,
        "common.cpu": True,
    }
    watch_trainer()
    results = {}
    for name, run in torch.load(folder / "runs.pt", weights_only=False).items():
        watch = Watch(rank)
        train(run["data"], folder / name, run["recipe"], {**run["settings"], **distributed})
        results[name] = watch.updates
    torch.save(results, folder / f"rank{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
