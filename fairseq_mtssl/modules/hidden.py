"""Activations between transformer layers, and the layers run on them one after the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fairseq_mtssl.kernels.fast_layers import can_run, is_plain, run_layer, stream_type
from fairseq_mtssl.modules import compiling


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
    last element of fairseq's layer results). fast: see `fast_layers`; False: the layers' own forward.
    compiled: instead of either, see `compiling`.
    """
    layers = list(layers)
    compiled = compiled and all(map(is_plain, layers))
    x, run = _way(layers, hidden, fast, compiled)
    with compiling.settings() if compiled else contextlib.nullcontext():
        for layer in layers:
            if skips(layerdrop):
                continue
            x, result = run(layer, x)
            if outputs is not None:
                outputs.append(x)
            if results is not None:
                results.append(result)
    return Hidden(x, hidden.padding)


def skips(layerdrop: float) -> bool:
    """Whether to skip a layer, by torch's CPU generator, which the trainer seeds at every update."""
    return layerdrop > 0 and torch.rand(()).item() < layerdrop


def valid_lengths(padding: Tensor | None) -> list[int] | None:
    """(B, T) bool -> positions of each row before its padding, which comes last."""
    return None if padding is None else (~padding).sum(1).tolist()


Run = Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]]


def _way(layers: list[nn.Module], hidden: Hidden, fast: bool, compiled: bool) -> tuple[Tensor, Run]:
    """What the first layer is given, and what gives a layer's output and its layer result."""
    x, padding = hidden.states, hidden.padding
    if compiled:
        # (B, T) -> (B, 1, 1, T); one memory layout for all layers, so that they share code
        valid = None if padding is None else ~padding[:, None, None]
        return x.to(stream_type(x)).contiguous(), lambda layer, x: compiling.compiled_layer(layer, x, valid)
    if fast and all(can_run(layer, x) for layer in layers):
        lengths = valid_lengths(padding)
        return x.to(stream_type(x)), lambda layer, x: run_layer(layer, x, lengths)

    def plain(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x, (_, result) = layer(x, self_attn_padding_mask=padding, need_weights=False)
        return x, result

    return x, plain
