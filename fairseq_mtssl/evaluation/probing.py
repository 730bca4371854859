"""Linear probes: a softmax regression on the frames of each layer, all trained side by side."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from fairseq_mtssl.evaluation.phone_scores import PhoneCounts

STATISTICS_FRAMES = 4096  # frames looked at together
MIN_SPREAD = 1e-5


@dataclass(frozen=True)
class ProbeRecipe:
    """Hyperparameters, the same for every layer.

    updates of Adam, each on batch_frames frames; lr: of the first, falling linearly to 0; seed: of the order
    of the frames, which is common to the layers too.
    """

    updates: int = 1000
    batch_frames: int = 1000
    lr: float = 0.005
    seed: int = 0


class FrameMoments:
    """Mean and spread of frames that come in pieces, per layer and dimension, in double precision."""

    def __init__(self, layers: int, dim: int) -> None:
        self._count = 0
        self._sum = np.zeros((layers, dim))
        self._squares = np.zeros((layers, dim))

    def add(self, frames: np.ndarray) -> None:
        """frames: (N, L, D) float."""
        exact = frames.astype(np.float64)
        self._count += len(exact)
        self._sum += exact.sum(0)
        self._squares += np.square(exact).sum(0)

    def finish(self) -> tuple[Tensor, Tensor]:
        """mean (L, D), and the factor that gives a spread of 1 (L, D), both float32."""
        mean = self._sum / max(self._count, 1)
        variance = np.maximum(self._squares / max(self._count, 1) - mean**2, 0)
        scale = 1 / np.maximum(np.sqrt(variance), MIN_SPREAD)
        return torch.from_numpy(mean.astype(np.float32)), torch.from_numpy(scale.astype(np.float32))


@dataclass(frozen=True, eq=False)
class LinearProbes:
    """One linear classifier a layer, on frames of mean 0 and spread 1.

    mean, scale: (L, D); weight: (L, D, P); bias: (L, 1, P).
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def logits(self, frames: Tensor) -> Tensor:
        """(N, L, D) -> (L, N, P)."""
        standard = (frames - self.mean) * self.scale
        return torch.baddbmm(self.bias, standard.transpose(0, 1), self.weight)

    @torch.no_grad()
    def score(self, utterances: Iterable[tuple[np.ndarray, np.ndarray]]) -> list[PhoneCounts]:
        """Counts of each layer over (frames (N, L, D), labels (N,)) of utterances."""
        layers, _, phones = self.weight.shape
        none = np.zeros(phones, dtype=np.int64)
        found = [PhoneCounts(none, none, none) for _ in range(layers)]
        for frames, labels in utterances:
            told = self.logits(torch.from_numpy(frames).to(self.weight.device)).argmax(-1).cpu().numpy()
            for layer, predicted in enumerate(told):
                found[layer] += PhoneCounts.of(predicted, labels, phones)
        return found


def train_probes(
    frames: np.ndarray,
    labels: np.ndarray,
    phones: int,
    recipe: ProbeRecipe,
    device: torch.device | str = "cpu",
) -> LinearProbes:
    """Train a probe a layer by cross-entropy.

    frames: (N, L, D) float32; labels: (N,) int in 0 … phones − 1. The layers do not touch one another: each
    gets what it would get alone, but for rounding.
    """
    count, layers, dim = frames.shape
    moments = FrameMoments(layers, dim)
    for start in range(0, count, STATISTICS_FRAMES):
        moments.add(frames[start : start + STATISTICS_FRAMES])
    mean, scale = (each.to(device) for each in moments.finish())
    weight = torch.zeros(layers, dim, phones, device=device, requires_grad=True)
    bias = torch.zeros(layers, 1, phones, device=device, requires_grad=True)
    probes = LinearProbes(mean, scale, weight, bias)
    optimizer = torch.optim.Adam([weight, bias], lr=recipe.lr)
    rng = np.random.default_rng(recipe.seed)
    order = rng.permutation(count)
    place = 0
    for update in tqdm(range(recipe.updates), "probes", disable=None, delay=1.0, leave=False):
        if place >= count:
            order, place = rng.permutation(count), 0
        rows = np.sort(order[place : place + recipe.batch_frames])
        place += recipe.batch_frames
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr * (1 - update / recipe.updates)
        wanted = torch.from_numpy(labels[rows]).to(device).repeat(layers)
        logits = probes.logits(torch.from_numpy(frames[rows]).to(device))
        # (L, N, P) -> (L · N, P); times L, so that each layer has the mean over its own frames
        loss = layers * torch.nn.functional.cross_entropy(logits.flatten(0, 1), wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return LinearProbes(mean, scale, weight.detach(), bias.detach())
