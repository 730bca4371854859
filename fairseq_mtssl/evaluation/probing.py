"""Linear probes: a softmax regression on the frames of each layer; those of all layers train together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_mtssl.evaluation.phone_scores import PhoneCounts

STATISTICS_FRAMES = 4096  # frames per step when means and standard deviations are computed
MIN_STD = 1e-5


@dataclass(frozen=True)
class ProbeRecipe:
    """Hyperparameters, the same for every layer.

    updates: of Adam, each on batch_frames frames; lr: learning rate of the first update, which falls linearly
    to 0; seed: of the order of the frames, which is the same for all layers.
    """

    updates: int = 1000
    batch_frames: int = 1000
    lr: float = 0.005
    seed: int = 0


class FrameMoments:
    """Accumulates mean and standard deviation of frames per layer and dimension, in double precision."""

    def __init__(self, layers: int, dim: int) -> None:
        self._count = 0
        self._sum = np.zeros((layers, dim))
        self._squares = np.zeros((layers, dim))

    def add(self, frames: np.ndarray) -> None:
        """Add frames (N, L, D) float."""
        exact = frames.astype(np.float64)
        self._count += len(exact)
        self._sum += exact.sum(0)
        self._squares += np.square(exact).sum(0)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Return the mean and one over the standard deviation, (L, D) float32 each."""
        mean = self._sum / max(self._count, 1)
        variance = np.maximum(self._squares / max(self._count, 1) - mean**2, 0)
        scale = 1 / np.maximum(np.sqrt(variance), MIN_STD)
        return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


@dataclass(frozen=True, eq=False)
class LinearProbes:
    """One linear classifier per layer, on frames standardised to mean 0 and standard deviation 1.

    mean, scale: (L, D), of `FrameMoments.finish`; weight: (L, D, P); bias: (L, 1, P).
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, frames: Tensor) -> Tensor:
        """Return the logits (L, N, P) of frames (N, L, D)."""
        standard = (frames - self.mean) * self.scale
        return torch.baddbmm(self.bias, standard.transpose(0, 1), self.weight)

    @torch.no_grad()
    def score(self, utterances: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[PhoneCounts]:
        """Return the counts of each layer over utterances given as (frames (N, L, D), labels (N,))."""
        layers, _, phones = self.weight.shape
        zeros = np.zeros(phones, dtype=np.int64)
        counts = [PhoneCounts(zeros, zeros, zeros) for _ in range(layers)]
        for frames, labels in utterances:
            logits = self.logits(torch.from_numpy(frames).to(self.weight.device))
            for layer, predicted in enumerate(logits.argmax(-1).cpu().numpy()):
                counts[layer] += PhoneCounts.of(predicted, labels, phones)
        return counts


def train_probes(
    frames: np.ndarray,
    labels: np.ndarray,
    phones: int,
    recipe: ProbeRecipe,
    device: torch.device | str = "cpu",
) -> LinearProbes:
    """Train one probe per layer by cross-entropy.

    frames: (N, L, D) float32; labels: (N,) int in 0 … phones − 1. The probes are independent: up to rounding,
    each is the probe that its layer alone would give.
    """
    count, layers, dim = frames.shape
    moments = FrameMoments(layers, dim)
    for start in range(0, count, STATISTICS_FRAMES):
        moments.add(frames[start : start + STATISTICS_FRAMES])
    mean, scale = (moment.to(device) for moment in moments.finish())
    weight = torch.zeros(layers, dim, phones, device=device, requires_grad=True)
    bias = torch.zeros(layers, 1, phones, device=device, requires_grad=True)
    probes = LinearProbes(mean, scale, weight, bias)
    optimizer = torch.optim.Adam([weight, bias], lr=recipe.lr)
    rng = np.random.default_rng(recipe.seed)
    order = rng.permutation(count)
    position = 0
    for update in tqdm(range(recipe.updates), "probes", disable=None, delay=1.0, leave=False):
        if position >= count:
            order, position = rng.permutation(count), 0
        rows = np.sort(order[position : position + recipe.batch_frames])
        position += recipe.batch_frames
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - update / recipe.updates)
        targets = torch.from_numpy(labels[rows]).to(device).repeat(layers)
        logits = probes.logits(torch.from_numpy(frames[rows]).to(device))
        # (L, N, P) -> (L · N, P); times L, so that the loss is the sum of the layers' means over frames
        loss = layers * torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LinearProbes(mean, scale, weight.detach(), bias.detach())
