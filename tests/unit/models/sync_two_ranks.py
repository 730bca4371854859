"""Run by test_sync_ranks.py: two gloo ranks on the loopback, each with a part of one batch.

Usage: python sync_two_ranks.py FOLDER. FOLDER/cases.pt holds the cases by name (see `test_sync_ranks.py`);
rank r writes its results, by name, to FOLDER/rank{r}.pt.
"""

from __future__ import annotations

import datetime
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from fairseq.distributed import ModuleProxyWrapper
from tiny_grounding import GROUNDING
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_mtssl.criterions.joint_ssl_vgs import JointSslVgsCriterion, JointSslVgsCriterionConfig
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.modules import quantizer
from fairseq_mtssl.schedule import Moment
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2

SMALL: dict[str, Any] = {
    "conv_feature_layers": "[(16,10,5)] + [(16,3,2)] * 4 + [(16,2,2)] * 2",
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_attention_heads": 2,
    "encoder_layers": 3,
    "conv_pos": 8,
    "conv_pos_groups": 2,
    **GROUNDING,
    # of 16 pixels four convolutions leave one cell a channel, which a group norm makes 0 whatever the image
    "image_size": 64,
    "latent_vars": 8,
    "num_negatives": 5,
    "mask_length": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "seed": 1,
}


def without_chance() -> None:
    """Draw no random numbers, of which two processes would draw others than one."""

    def negatives(self: Wav2vec2, count: Tensor, start: Tensor) -> Tensor:
        own = torch.arange(len(count)) - start
        step = 1 + torch.arange(self.negatives)[None] % (count[:, None] - 1).clamp(min=1)
        return start[:, None] + (own[:, None] + step) % count[:, None]

    def softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        soft = torch.softmax(logits / tau, -1)
        return nn.functional.one_hot(soft.argmax(-1), soft.size(-1)) + soft - soft.detach()

    Wav2vec2._draw_negatives = negatives  # type: ignore[method-assign]
    quantizer.nn.functional.gumbel_softmax = softmax  # type: ignore[assignment]


def build(settings: dict[str, Any]) -> JointSslVgsModel:
    torch.manual_seed(0)
    return JointSslVgsModel.build_model(JointSslVgsConfig(**{**SMALL, **settings})).train()


def batch(rows: list[int]) -> dict[str, Any]:
    """Rows, by number, of a corpus of noise; clips differ in length."""
    clips, pictures = [], []
    for row in rows:
        generator = torch.Generator().manual_seed(row)
        clips.append(torch.randn(8000 - 700 * row, generator=generator))
        coarse = torch.randint(256, (1, 3, 4, 4), generator=generator)
        pictures.append(nn.functional.interpolate(coarse.float(), 64).to(torch.uint8))
    lengths = torch.tensor([len(clip) for clip in clips])
    source = nn.utils.rnn.pad_sequence(clips, batch_first=True)
    numbers = torch.tensor(rows)
    net_input = {"source": source, "lengths": lengths, "images": torch.cat(pictures)}
    return {
        "net_input": {**net_input, "image_index": torch.arange(len(rows))},
        "id": numbers,
        "image_group": numbers,
        "image_row": numbers,
        "ntokens": int(lengths.sum()),
        "nsentences": len(rows),
    }


def learn(model: Any, rows: list[int], alpha: float, counted: bool = True) -> dict[str, Any]:
    """The loss of a batch and, for the model behind any wrapper, its gradients and running statistics."""
    criterion = JointSslVgsCriterion(JointSslVgsCriterionConfig(), None).train()
    criterion.enter(Moment(0, "phase", 0, alpha, 1 - alpha, 1.0))
    model.begin_batch(counted)
    loss, _, log = criterion(model, batch(rows))
    (loss if counted else loss * 0.0).backward()
    inner = model.module if hasattr(model, "module") else model
    named = [(name.removeprefix("module."), p) for name, p in inner.named_parameters()]
    return {
        "loss": loss.detach(),
        "log": {name: float(value) for name, value in log.items() if name not in ("embeddings",)},
        "gradients": {name: p.grad for name, p in named if p.grad is not None},
        "buffers": {name.removeprefix("module."): b.clone() for name, b in inner.named_buffers()},
    }


def run_case(rank: int, case: dict[str, Any]) -> dict[str, Any]:
    model = build(case["settings"])
    parallel = ModuleProxyWrapper(DistributedDataParallel(model, find_unused_parameters=True))
    result = learn(parallel, case["rows"][rank], case["alpha"], case["counted"][rank])
    parallel.share_buffers()
    result["shared"] = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return result


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=300),
    )
    without_chance()
    cases = torch.load(Path(folder) / "cases.pt")
    torch.save({name: run_case(rank, case) for name, case in cases.items()}, Path(folder) / f"rank{rank}.pt")
    dist.barrier()
    # Taking gloo apart sometimes aborts in torch: "terminate called without an active exception".
    os._exit(0)


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.multiprocessing.spawn(run_rank, args=(sys.argv[1],), nprocs=2)
