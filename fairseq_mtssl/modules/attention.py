"""BERT layers and what hangs on them: a learned CLS token and the two-layer CLS projection."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError

INIT_STD = 0.02
PAPER_DIM = 768


def init_std(dim: int) -> float:
    """Standard deviation of initial weights: BERT's 0.02 at 768 dimensions, 0.55 / √dim at any size.

    A fixed 0.02 at small sizes hides the tokens from the CLS: at 128 dimensions attention would hand
    on a twentieth of what it reads (a third at 768), and training starts late.
    """
    return INIT_STD * math.sqrt(PAPER_DIM / dim)


class BertLayer(nn.TransformerEncoderLayer):
    """A post-LN transformer layer: attention, add, LN, GELU feed-forward, add, LN.

    Dropout after attention and after the second linear layer; none between the two, where torch has one.
    Weights and names are those of `nn.TransformerEncoderLayer`. 7,087,872 parameters at 768/12/3072.
    Raises: ConfigError when `heads` does not divide `dim`.
    Source: Devlin et al. 2019, arXiv 1810.04805; FaST-VGS+ (Peng & Harwath 2022, arXiv 2202.03543).
    """

    def __init__(self, dim: int, heads: int, ffn_dim: int, dropout: float, eps: float = 1e-12) -> None:
        if heads < 1 or dim % heads != 0:
            raise ConfigError(
                "attention", [f"{heads} heads do not divide {dim} dimensions; choose a divisor"]
            )
        super().__init__(
            dim,
            heads,
            ffn_dim,
            dropout,
            activation="gelu",
            layer_norm_eps=eps,
            batch_first=True,
            norm_first=False,
        )

    def forward(  # type: ignore[override]  # no attention mask, no causality: not wanted here
        self, tokens: Tensor, padding: Tensor | None = None, first_only: bool = False
    ) -> Tensor:
        """Contextualise tokens.

        tokens: (B, N, dim); padding: (B, N) bool, True where padded, or None (a mask without
        any True would only block the fast attention kernel).
        first_only: compute the first token's output alone (same values, a fraction of the work).
        Returns: (B, N, dim), or (B, 1, dim) with `first_only`.
        """
        query = tokens[:, :1] if first_only else tokens
        context, _ = self.self_attn(query, tokens, tokens, key_padding_mask=padding, need_weights=False)
        hidden = self.norm1(query + self.dropout1(context))
        fed = self.linear2(self.activation(self.linear1(hidden)))
        return self.norm2(hidden + self.dropout2(fed))


def bert_layer(dim: int, heads: int, ffn_dim: int, dropout: float, eps: float = 1e-12) -> BertLayer:
    """One BERT layer, initialised as BERT's are (see `BertLayer`, `init_bert`, `init_std`)."""
    layer = BertLayer(dim, heads, ffn_dim, dropout, eps)
    init_bert(layer, init_std(dim))
    return layer


def init_bert(module: nn.Module, std: float = INIT_STD) -> None:
    """Initialise every linear layer, embedding, attention and layer norm inside `module` as BERT does.

    Weights from N(0, std²), biases 0, layer norms 1 and 0. Other layers are left as they are.
    """
    for part in module.modules():
        if isinstance(part, nn.MultiheadAttention) and part.in_proj_weight is not None:
            nn.init.normal_(part.in_proj_weight, std=std)
            if part.in_proj_bias is not None:
                nn.init.zeros_(part.in_proj_bias)
        elif isinstance(part, (nn.Linear, nn.Embedding)):
            nn.init.normal_(part.weight, std=std)
            if isinstance(part, nn.Linear) and part.bias is not None:
                nn.init.zeros_(part.bias)
        elif isinstance(part, nn.LayerNorm):
            nn.init.ones_(part.weight)
            nn.init.zeros_(part.bias)


class ClsProjection(nn.Sequential):
    """Linear → GELU → Linear: (…, dim) → (…, out). 2,361,600 parameters at 768/1536/768."""

    def __init__(self, dim: int, hidden: int, out: int) -> None:
        super().__init__(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, out))
        init_bert(self, init_std(dim))


class ClsEncoder(nn.Module):
    """A learned CLS token in front of a set of tokens, `layers` BERT layers, the CLS output back.

    Without positions in the tokens the output does not depend on their order.
    """

    def __init__(self, dim: int, layers: int, heads: int, ffn_dim: int, dropout: float) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(
                "attention", [f"{layers} layers: the CLS token would see nothing; use at least 1"]
            )
        self.cls = nn.Parameter(torch.empty(dim))
        nn.init.normal_(self.cls, std=init_std(dim))
        self.layers = nn.ModuleList(bert_layer(dim, heads, ffn_dim, dropout) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: (M, N, dim) -> (M, dim)."""
        hidden = prepend(self.cls.expand(tokens.shape[0], -1), tokens)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, first_only=index == last)
        return hidden[:, 0]


def prepend(first: Tensor, tokens: Tensor) -> Tensor:
    """(B, D) in front of (B, N, D) -> (B, 1 + N, D)."""
    return torch.cat([first[:, None].to(tokens.dtype), tokens], dim=1)


def count_parameters(modules: Sequence[nn.Module] | nn.Module) -> int:
    """Number of trained parameters of one module or several."""
    several = [modules] if isinstance(modules, nn.Module) else modules
    return sum(p.numel() for module in several for p in module.parameters() if p.requires_grad)
