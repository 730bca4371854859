"""Heads that predict cluster labels (linear layers, or HuBERT's cosines), and a regression's accuracy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError


class CosineHead(nn.Module):
    """Cosines of the projected frame to the embeddings of the classes, divided by a temperature.

    classes: number of classes, including the special symbols of the dictionary. The parameters are named as
    in fairseq's hubert (`final_proj`, `label_embs_concat`).
    Source: Hsu et al. 2021, arXiv 2106.07447, eq. 3.
    """

    def __init__(self, dim: int, classes: int, final_dim: int, temperature: float) -> None:
        super().__init__()
        self.final_proj = nn.Linear(dim, final_dim)
        self.label_embs_concat = nn.Parameter(torch.empty(classes, final_dim).uniform_())
        self.temperature = temperature

    def forward(self, frames: Tensor) -> Tensor:
        """Compute logits: (M, D) -> (M, classes)."""
        projected = nn.functional.normalize(self.final_proj(frames).float(), dim=-1, eps=1e-8)
        embeddings = nn.functional.normalize(self.label_embs_concat.float(), dim=-1, eps=1e-8)
        return projected @ embeddings.t() / self.temperature


def build_label_head(kind: str, dim: int, classes: int, final_dim: int, temperature: float) -> nn.Module:
    """Build a head that computes logits: (M, D) -> (M, classes).

    kind: ``linear`` (MT4SSL) or ``cosine`` (HuBERT); final_dim and temperature are for the latter.
    Raises: ConfigError for another kind.
    """
    if kind == "linear":
        return nn.Linear(dim, classes)
    if kind == "cosine":
        return CosineHead(dim, classes, final_dim, temperature)
    raise ConfigError("label_head", [f"got {kind!r}, wanted linear or cosine"])


def identified(predictions: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """Count the predictions that are nearer to their target than to any other target of the same row.

    predictions, targets: (M, D); rows: (M,) ints, ascending, the row of the batch of each.
    Returns: a scalar. A prediction whose target occurs twice in its row is not counted.
    """
    count = predictions.new_zeros((), dtype=torch.float32)
    for row in rows.unique().tolist():
        in_row = rows == row
        distances = torch.cdist(predictions[in_row].float(), targets[in_row].float())  # (m, m)
        to_target = distances.diagonal()
        to_others = distances + torch.diag(torch.full_like(to_target, float("inf")))
        count = count + (to_target < to_others.min(1).values).sum()
    return count
