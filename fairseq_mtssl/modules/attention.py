"""BERT layers, the learned CLS token before them, and the projection of the CLS token."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError

INIT_STD = 0.02
PAPER_DIM = 768
BERT_EPS = 1e-12
"""Added to variances in BERT's layer norms."""


def init_std(dim: int) -> float:
    """Return the standard deviation of initial weights: 0.55 / √dim, which is BERT's 0.02 at 768 dimensions.

    With 0.02 at all sizes the CLS token of a small model hardly receives the other tokens: at 128 dimensions
    the output of the attention is a twentieth of its input (at 768 a third), and learning starts late.
    """
    return INIT_STD * math.sqrt(PAPER_DIM / dim)


@dataclass(frozen=True)
class BertOptions:
    """The options of a BERT layer; the defaults are those of BERT Base.

    dim: width of the tokens; heads: attention heads; ffn_dim: width of the feed-forward block; dropout: rate.
    """

    dim: int = 768
    heads: int = 12
    ffn_dim: int = 3072
    dropout: float = 0.1


class BertLayer(nn.TransformerEncoderLayer):
    """A transformer layer whose layer norms come last: attention, add, LN, GELU feed-forward, add, LN.

    Dropout is applied after the attention and after the second linear layer, but not between the two linear
    layers, where torch applies it too. Weights and names are those of `nn.TransformerEncoderLayer`; they are
    initialised as BERT's are (`init_bert`, `init_std`). With the default options there are 7,087,872.
    Raises: ConfigError if the number of heads does not divide the width.
    Source: Devlin et al. 2019, arXiv 1810.04805; FaST-VGS+ (Peng & Harwath 2022, arXiv 2202.03543).
    """

    def __init__(self, options: BertOptions) -> None:
        dim, heads = options.dim, options.heads
        if heads < 1 or dim % heads != 0:
            raise ConfigError(
                "attention", [f"{heads} heads do not divide {dim} dimensions; choose a divisor"]
            )
        super().__init__(
            dim, heads, options.ffn_dim, options.dropout, "gelu", BERT_EPS, batch_first=True, norm_first=False
        )
        init_bert(self, init_std(dim))

    def forward(  # type: ignore[override]  # there is no attention mask and no causality
        self, tokens: Tensor, padding: Tensor | None = None, first_only: bool = False
    ) -> Tensor:
        """Compute the layer's output for a batch of tokens.

        tokens: (B, N, dim); padding: (B, N) bool, True at padding, or None without any (a mask without any
        True would only keep torch from its fast attention).
        first_only: compute the output of the first token only, which has the same value.
        Returns: (B, N, dim), or (B, 1, dim) with `first_only`.
        """
        query = tokens[:, :1] if first_only else tokens
        context, _ = self.self_attn(query, tokens, tokens, key_padding_mask=padding, need_weights=False)
        hidden = self.norm1(query + self.dropout1(context))
        feed_forward = self.linear2(self.activation(self.linear1(hidden)))
        return self.norm2(hidden + self.dropout2(feed_forward))


def init_bert(module: nn.Module, std: float = INIT_STD) -> None:
    """Initialise all linear layers, embeddings, attention and layer norms in `module` as BERT does.

    Weights are drawn from N(0, std²), biases are 0, weights of layer norms 1. Other layers keep their values.
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
    """Linear → GELU → Linear: (…, dim) → (…, out), with 2 · dim units between the two linear layers.

    It has 2,361,600 parameters from 768 dimensions to 768.
    """

    def __init__(self, dim: int, out: int) -> None:
        super().__init__(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, out))
        init_bert(self, init_std(dim))


class ClsEncoder(nn.Module):
    """Puts a learned CLS token before a set of tokens, runs BERT layers, and returns its state.

    Unless the tokens contain positions, the output does not depend on their order.
    """

    def __init__(self, options: BertOptions, layers: int) -> None:
        super().__init__()
        if layers < 1:
            raise ConfigError(
                "attention", [f"{layers} layers: the CLS token would see nothing; use at least 1"]
            )
        self.cls = nn.Parameter(torch.empty(options.dim))
        nn.init.normal_(self.cls, std=init_std(options.dim))
        self.layers = nn.ModuleList(BertLayer(options) for _ in range(layers))

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode tokens: (M, N, dim) -> (M, dim)."""
        hidden = prepend(self.cls.expand(tokens.shape[0], -1), tokens)
        last = len(self.layers) - 1
        for index, layer in enumerate(self.layers):
            hidden = layer(hidden, first_only=index == last)
        return hidden[:, 0]


def prepend(first: Tensor, tokens: Tensor) -> Tensor:
    """Put a token before others: (B, D) and (B, N, D) -> (B, 1 + N, D)."""
    return torch.cat([first[:, None].to(tokens.dtype), tokens], dim=1)
