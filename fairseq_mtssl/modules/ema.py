"""A EMA copy of the transformer layers: the exponential moving average of the student's weights."""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import Tensor, nn

from fairseq_mtssl.modules.frozen import Frozen
from fairseq_mtssl.modules.hidden import Hidden, run_layers


def ema_decay(updates: int, start: float, end: float, anneal_updates: int) -> float:
    """The decay of one step: linear from start to end over so many updates, then constant.

    updates: optimizer updates done, the one that this step follows included (1 for the first step).
    Source: Baevski et al. 2022, arXiv 2202.03555, section 3.3.
    """
    if updates >= anneal_updates:
        return end
    return start + (end - start) * updates / anneal_updates


class EmaLayers(Frozen):
    """Averaged copy of transformer layers and of the layer norm before them; never trained.

    The convolutional front-end and the positional convolution are not copied: teacher and student share
    them. Weights stay in 32 bits when the model around them is halved; with half-precision input they
    are cast for the computation alone. Always in evaluation mode.

    layers: fairseq transformer layers; norm: the layer norm between positional convolution and layers; fast:
    as for `run_layers`.
    Source: Ma et al. 2023, arXiv 2211.07321; data2vec, arXiv 2202.03555 (`ema_layers_only`).
    """

    def __init__(self, layers: nn.ModuleList, norm: nn.Module, fast: bool = True) -> None:
        super().__init__()
        self.fast = fast
        self.layers = copy.deepcopy(layers).float().requires_grad_(False)
        self.layer_norm = copy.deepcopy(norm).float().requires_grad_(False)
        self.eval()

    @torch.no_grad()
    def copy_from(self, layers: nn.ModuleList, norm: nn.Module) -> None:
        """Start the average anew at the student's present weights."""
        own = [*self.layers.parameters(), *self.layer_norm.parameters()]
        for mine, new in zip(own, (*layers.parameters(), *norm.parameters()), strict=True):
            mine.copy_(new)

    @torch.no_grad()
    def step(self, layers: nn.ModuleList, norm: nn.Module, decay: float) -> None:
        """One step: average ← decay · average + (1 − decay) · student, in 32 bits.

        Call it once for each update that the optimizer has made.
        """
        own: list[Tensor] = [*self.layers.parameters(), *self.layer_norm.parameters()]
        new = [p.detach().to(torch.float32) for p in (*layers.parameters(), *norm.parameters())]
        torch._foreach_lerp_(own, new, 1.0 - decay)

    @torch.no_grad()
    def forward(self, placed: Hidden, last: int, compiled: bool = False) -> list[Tensor]:
        """The layer results (see `run_layers`) of the last so many layers, (T', B, D) each, lowest first.

        placed: what `SpeechEncoder.place` gives, unmasked; compiled: as for `run_layers`.
        """
        half = placed.states.dtype in (torch.float16, torch.bfloat16)
        device = placed.states.device.type
        with torch.autocast(device, placed.states.dtype) if half else contextlib.nullcontext():
            results: list[Tensor] = []
            hidden = Hidden(self.layer_norm(placed.states), placed.padding)
            run_layers(self.layers, hidden, results=results, fast=self.fast, compiled=compiled)
        return results[-last:]
