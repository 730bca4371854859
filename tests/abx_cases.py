"""Random ABX material: items and features that the fast path, the slow oracle and other libraries read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fairseq_mtssl.evaluation.abx import AbxScore, plan_abx, score_abx
from fairseq_mtssl.evaluation.abx_cells import Subsampler
from fairseq_mtssl.evaluation.abx_items import Items, read_items, slice_items

RATE_HZ = 50.0
ALL = Subsampler(None, None)
HEADER = "#file onset offset #phone prev-phone next-phone speaker"


@dataclass(frozen=True)
class Case:
    """An item file and the features, (T, D), of its files, in the order they are named in."""

    items: Items
    features: list[np.ndarray]

    def score(
        self,
        distance: str = "angular",
        slicing: str = "exact",
        context: str = "within",
        sampling: Subsampler = ALL,
    ) -> AbxScore:
        frames = np.array([len(each) for each in self.features])
        plan = plan_abx(self.items, RATE_HZ, frames, slicing, context, sampling)
        kept = np.concatenate([self.features[f][rows] for f, rows in zip(plan.file, plan.kept)])
        return score_abx(plan, torch.from_numpy(kept), distance)

    def tokens(self, slicing: str = "exact", context: str = "within") -> list[tuple]:
        """(context, speaker, phone, frames) of every token that has frames."""
        items = self.items
        frames = np.array([len(each) for each in self.features])[items.file]
        spans = slice_items(items, RATE_HZ, frames, slicing)
        return [
            (
                items.context[row] if context == "within" else 0,
                items.speaker[row],
                items.phone[row],
                self.features[items.file[row]][spans.start[row] : spans.end[row]],
            )
            for row in np.flatnonzero(spans.kept)
        ]


def make_features(kind: str, frames: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """normal; zeros: a third of the frames 0; onehot, whose distances tie; probabilities; units."""
    if kind == "units":
        return rng.integers(3, size=(frames, 1)).astype(np.int32)
    if kind == "onehot":
        return np.eye(dim, dtype=np.float32)[rng.integers(dim, size=frames)]
    found = rng.standard_normal((frames, dim)).astype(np.float32)
    if kind == "zeros":
        found[rng.random(frames) < 1 / 3] = 0
    return torch.from_numpy(found).softmax(1).numpy() if kind == "probabilities" else found


def make_case(
    path: Path,
    seed: int,
    kind: str = "normal",
    tokens: int = 16,
    speakers: int = 3,
    phones: int = 3,
    contexts: int = 2,
) -> Case:
    """Two files and so many items in them, written to path; an item has up to seven frames.

    Items do not overlap: a frame compared with itself is at 0 here, at up to 1e-4 in float32 elsewhere.
    """
    rng = np.random.default_rng(seed)
    dim = int(rng.integers(3, 6))
    lines = [HEADER]
    for number in range(2):
        for place in range(tokens // 2):
            onset = 0.16 * place + rng.uniform(0, 0.02)
            phone, speaker = rng.integers(phones), rng.integers(speakers)
            where = f"f{number} {onset:.4f} {onset + rng.uniform(0.005, 0.13):.4f}"
            lines.append(f"{where} p{phone} c{rng.integers(contexts)} n s{speaker}")
    path.write_text("\n".join(lines) + "\n")
    items = read_items(path)
    return Case(items, [make_features(kind, 4 * tokens, dim, rng) for _ in range(2)])
