"""Run by test_sync_ranks.py on two gloo ranks (see `gloo_ranks.py`), each with a part of one batch."""

from __future__ import annotations

from typing import Any

import torch
from fairseq.distributed import ModuleProxyWrapper
from fixed_negatives import next_frames
from tiny_encoder import NO_DROPOUT
from tiny_grounding import build_joint, build_joint_criterion
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsModel
from fairseq_mtssl.modules import quantizer
from fairseq_mtssl.schedule import StepWeights
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2

SETTINGS: dict[str, Any] = {
    # of 16 pixels four convolutions leave one cell a channel, which a group norm makes 0 whatever the image
    "image_size": 64,
    "mask_length": 4,
    **NO_DROPOUT,
    "dropout_features": 0.0,
}


def without_chance() -> None:
    """Draw no random numbers, of which two processes would draw others than one."""

    def softmax(logits: Tensor, tau: float, hard: bool) -> Tensor:
        soft = torch.softmax(logits / tau, -1)
        return nn.functional.one_hot(soft.argmax(-1), soft.size(-1)) + soft - soft.detach()

    Wav2vec2._draw_negatives = next_frames  # type: ignore[method-assign]
    quantizer.nn.functional.gumbel_softmax = softmax  # type: ignore[assignment]


def build(settings: dict[str, Any]) -> JointSslVgsModel:
    return build_joint(**{**SETTINGS, **settings}).train()


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
    criterion = build_joint_criterion()
    step = StepWeights(0, "phase", 0, alpha, 1 - alpha, 1.0)
    model.begin_batch(counted)
    loss, _, log = criterion(model, {**batch(rows), "step": step})
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
    """rows, counted: of each rank, and whether its batch counts. Returns: see `learn`; `shared`: buffers."""
    without_chance()
    model = build(case["settings"])
    parallel = ModuleProxyWrapper(DistributedDataParallel(model, find_unused_parameters=True))
    result = learn(parallel, case["rows"][rank], case["alpha"], case["counted"][rank])
    parallel.share_buffers()
    result["shared"] = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return result
