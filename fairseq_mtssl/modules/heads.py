"""Heads that predict cluster labels: a linear layer, or HuBERT's cosines to learned embeddings."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError


class CosineHead(nn.Module):
    """Cosine of the projected frame with each class's embedding, over a temperature.

    classes: with the special symbols of the dictionary. Names are those of fairseq's hubert
    (`final_proj`, `label_embs_concat`).
    Source: Hsu et al. 2021, arXiv 2106.07447, eq. 3.
    """

    def __init__(self, dim: int, classes: int, final_dim: int, temperature: float) -> None:
        super().__init__()
        self.final_proj = nn.Linear(dim, final_dim)
        self.label_embs_concat = nn.Parameter(torch.empty(classes, final_dim).uniform_())
        self.temperature = temperature

    def forward(self, frames: Tensor) -> Tensor:
        """(M, D) -> (M, classes) logits."""
        projected = nn.functional.normalize(self.final_proj(frames).float(), dim=-1, eps=1e-8)
        embeddings = nn.functional.normalize(self.label_embs_concat.float(), dim=-1, eps=1e-8)
        return projected @ embeddings.t() / self.temperature


def build_label_head(kind: str, dim: int, classes: int, final_dim: int, temperature: float) -> nn.Module:
    """A head that gives (M, D) -> (M, classes) logits.

    kind: ``linear`` (MT4SSL) or ``cosine`` (HuBERT); final_dim and temperature serve the latter.
    Raises: ConfigError for another kind.
    """
    if kind == "linear":
        return nn.Linear(dim, classes)
    if kind == "cosine":
        return CosineHead(dim, classes, final_dim, temperature)
    raise ConfigError("label_head", [f"got {kind!r}, wanted linear or cosine"])


def identified(predictions: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """How many predictions lie nearer to their own target than to any other target of their row.

    predictions, targets: (M, D); rows: (M,) ints, ascending, the row each comes from.
    Returns: scalar count; a target that occurs twice in a row counts for neither.
    """
    count = predictions.new_zeros((), dtype=torch.float32)
    for row in rows.unique().tolist():
        at = rows == row
        distances = torch.cdist(predictions[at].float(), targets[at].float())  # (m, m)
        own = distances.diagonal()
        others = distances + torch.diag(torch.full_like(own, float("inf")))
        count = count + (own < others.min(1).values).sum()
    return count
