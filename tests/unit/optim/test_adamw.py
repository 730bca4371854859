"""The fused optimizer makes fairseq's updates."""

from __future__ import annotations

import torch
from fairseq.optim.adam import FairseqAdam, FairseqAdamConfig

from fairseq_mtssl.optim.adamw import FusedAdamW, FusedAdamWConfig


def parameters() -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [
        torch.nn.Parameter(torch.randn(5, 3)),
        torch.nn.Parameter(torch.randn(7)),
        torch.nn.Parameter(torch.ones(2)),
    ]


def test_ten_updates_equal_those_of_fairseqs_adam() -> None:
    ours, theirs = parameters(), parameters()
    settings = {"lr": [0.01], "weight_decay": 0.1}
    fused = FusedAdamW(FusedAdamWConfig(eps=1e-12, **settings), ours)
    adam = FairseqAdam(FairseqAdamConfig(adam_betas="(0.9,0.999)", adam_eps=1e-12, **settings), theirs)
    for update in range(10):
        for a, b in zip(ours[:2], theirs[:2], strict=True):
            a.grad = torch.sin(a.detach() * (update + 1))
            b.grad = a.grad.clone()
        fused.set_lr(0.01 / (update + 1))
        adam.set_lr(0.01 / (update + 1))
        fused.step()
        adam.step()
    for a, b in zip(ours, theirs, strict=True):
        # the tolerance allows for another order of float32 operations
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_parameter_without_a_gradient_does_not_decay() -> None:
    ours = parameters()
    fused = FusedAdamW(FusedAdamWConfig(lr=[0.1], weight_decay=0.5), ours)
    ours[0].grad = torch.ones(5, 3)
    fused.step()
    assert torch.equal(ours[2], torch.ones(2))
