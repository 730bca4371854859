"""The state between transformer layers, and a function that runs layers one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairseq_mtssl.kernels.transformer_layers import choose


@dataclass
class Hidden:
    """The state between transformer layers.

    states: (T', B, D), T' = T + 1 with a leading CLS token, else T; padding: (B, T') bool, True at padding,
    or None without padding.
    """

    states: Tensor
    padding: Tensor | None


def run_layers(
    layers: Iterable[nn.Module],
    hidden: Hidden,
    *,
    layerdrop: float = 0.0,
    outputs: list[Tensor] | None = None,
    results: list[Tensor] | None = None,
    fast: bool = True,
    compiled: bool = False,
) -> Hidden:
    """Run transformer layers of fairseq one after the other.

    layerdrop: probability of skipping a layer. outputs, results: lists to which, for each layer that is not
    skipped, its output and its layer result are appended, (T', B, D). The layer result is the output of the
    feed-forward block before the residual connection, the last element of fairseq's layer results.
    fast, compiled: as in `choose`, which chooses the implementation.
    """
    layers = list(layers)
    chosen, _ = choose(layers, hidden.states, fast, compiled)
    implementation = chosen(hidden.padding)
    x = implementation.prepare(hidden.states)
    with implementation.settings():
        for layer in layers:
            if skips(layerdrop):
                continue
            x, result = implementation.forward(layer, x)
            if outputs is not None:
                outputs.append(x)
            if results is not None:
                results.append(result)
    return Hidden(x, hidden.padding)


def skips(layerdrop: float) -> bool:
    """Draw whether to skip a layer, from torch's CPU generator, which the trainer seeds at every update."""
    return layerdrop > 0 and torch.rand(()).item() < layerdrop
