"""The EMA teacher: transformer layers whose weights are an exponential moving average of the student's."""

from __future__ import annotations

import contextlib
import copy

import torch
from torch import Tensor, nn

from fairseq_mtssl.modules.frozen import Frozen
from fairseq_mtssl.modules.hidden import Hidden, run_layers


def ema_decay(updates: int, start: float, end: float, anneal_updates: int) -> float:
    """Return the decay of one step: linear from start to end over anneal_updates, then constant.

    updates: number of optimizer updates so far, including the one that this step follows (1 at the first).
    Source: Baevski et al. 2022, arXiv 2202.03555, section 3.3.
    """
    if updates >= anneal_updates:
        return end
    return start + (end - start) * updates / anneal_updates


class EmaLayers(Frozen):
    """The moving average of transformer layers and of the layer norm before them; never trained.

    Teacher and student share the feature extractor and the positional convolution, which are not copied.
    The weights stay in 32 bits when the model around them is halved; for half-precision input they are cast
    during the computation only. The module is always in evaluation mode.

    layers: fairseq transformer layers; norm: the layer norm between positional convolution and layers;
    fast: as in `run_layers`.
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
        """Set the average to the student's present weights."""
        student = (*layers.parameters(), *norm.parameters())
        for average, weight in zip(self.parameters(), student, strict=True):
            average.copy_(weight)

    @torch.no_grad()
    def step(self, layers: nn.ModuleList, norm: nn.Module, decay: float) -> None:
        """Set average ← decay · average + (1 − decay) · student, in 32 bits, once per optimizer update."""
        student = [weight.detach().to(torch.float32) for weight in (*layers.parameters(), *norm.parameters())]
        torch._foreach_lerp_(list(self.parameters()), student, 1.0 - decay)

    @torch.no_grad()
    def forward(self, positioned: Hidden, count: int, compiled: bool = False) -> list[Tensor]:
        """Return the layer results (see `run_layers`) of the top `count` layers, lowest first, (T', B, D).

        positioned: unmasked output of `SpeechEncoder.add_positions`; compiled: as in `run_layers`.
        """
        x = positioned.states
        is_half = x.dtype in (torch.float16, torch.bfloat16)
        with torch.autocast(x.device.type, x.dtype) if is_half else contextlib.nullcontext():
            results: list[Tensor] = []
            hidden = Hidden(self.layer_norm(x), positioned.padding)
            run_layers(self.layers, hidden, results=results, fast=self.fast, compiled=compiled)
        return results[-count:]
