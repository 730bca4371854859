"""torch.compile without its code generator, which takes a minute and a C++ compiler: graphs run as traced."""

from __future__ import annotations

import functools

import pytest
import torch

from fairseq_mtssl.kernels import compiling, conv_features, transformer_layers


class Traced:
    """Counts what torch.compile has made since it was built or last asked."""

    def __init__(self) -> None:
        self._before = self._now()

    @staticmethod
    def _now() -> tuple[int, int]:
        from torch._dynamo.utils import counters

        return counters["stats"]["unique_graphs"], sum(counters["graph_break"].values())

    def graphs(self) -> int:
        """New ones. A function that was not traced in one piece fails the test."""
        before, self._before = self._before, self._now()
        assert self._before[1] == before[1], "graph breaks"
        return self._before[0] - before[0]


def trace(monkeypatch: pytest.MonkeyPatch, backend: str) -> Traced:
    """Forget what is compiled; what will be runs by torch's own kernels.

    backend: aot_eager makes a graph of the backward pass, too; eager leaves that out and is faster to make.
    """
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    layer = compiling.Compiled(transformer_layers.layer_forward)
    monkeypatch.setattr(transformer_layers, "compiled_layer", layer)
    convolutions = compiling.Compiled(conv_features.convolve)
    monkeypatch.setattr(conv_features, "compiled_convolutions", convolutions)
    return Traced()
