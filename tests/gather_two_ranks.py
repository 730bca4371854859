"""Run by test_gather.py on two gloo ranks (see `gloo_ranks.py`), each with a part of one batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fairseq_mtssl.modules.contrastive import gather_pairs, gather_with_grad, info_nce, margin_info_nce


class Towers(nn.Module):
    """Two linear embeddings and a learned scale."""

    def __init__(self) -> None:
        super().__init__()
        self.speech = nn.Linear(6, 4)
        self.image = nn.Linear(5, 4)
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, speech: Tensor, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.speech(speech), self.image(image), self.scale * 1


def loss_of(kind: str, speech: Tensor, image: Tensor, scale: Tensor, ids: Tensor) -> Tensor:
    """The loss of all ranks' pairs (of this process's alone where there is one)."""
    speech, image, same_image = gather_pairs(speech, image, ids)
    if kind == "margin":
        # DDP silently averages nothing of a bucket with an unused parameter: use the scale, at no weight.
        return margin_info_nce(speech, image, 1.0, same_image) + 0 * scale
    return info_nce(speech, image, scale, same_image)


def run_case(rank: int, case: dict[str, Any]) -> dict[str, Any]:
    start = sum(case["sizes"][:rank])
    mine = slice(start, start + case["sizes"][rank])
    towers = Towers()
    towers.load_state_dict(case["towers"])
    parallel = DistributedDataParallel(towers)  # must outlive backward: its hooks average the gradients
    embedded = parallel(case["speech"][mine], case["image"][mine])
    loss = loss_of(case["loss"], *embedded, case["ids"][mine])
    loss.backward()
    return {
        "loss": loss.detach(),
        "gradients": {name: p.grad for name, p in towers.named_parameters()},
        "gathered": gather_with_grad(case["speech"][mine]),
        "half": gather_with_grad(case["speech"][mine].to(torch.bfloat16)),
        "own_loss": _gradient_of_own_rows(case["speech"][mine], rank),
    }


def _gradient_of_own_rows(rows: Tensor, rank: int) -> Tensor:
    """Each rank's loss weighs all gathered rows by rank + 1: both must reach every row."""
    rows = rows.clone().requires_grad_()
    ((rank + 1) * gather_with_grad(rows).sum()).backward()
    assert rows.grad is not None
    return rows.grad
