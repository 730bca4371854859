"""Activations between transformer layers, and the layers run on them one after the other."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairseq_mtssl.kernels.transformer_layers import choose


@dataclass
class Hidden:
    """Activations between transformer layers.

    states: (T', B, D) with T' = T + 1 when a CLS token leads; padding: (B, T') bool or None.
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

    layerdrop: chance to skip a layer. outputs, results: lists that receive of each layer that is run, as
    (T', B, D), its output, and what its feed-forward block gives before the residual is added back (the
    last element of fairseq's layer results). fast, compiled: what `choose` decides the implementation by.
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
    """Whether to skip a layer, by torch's CPU generator, which the trainer seeds at every update."""
    return layerdrop > 0 and torch.rand(()).item() < layerdrop
