"""The golden table of ABX: twelve numbers on two files whose features are given by a formula."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from fairseq_mtssl.evaluation.abx import plan_abx, score_abx
from fairseq_mtssl.evaluation.abx_cells import Subsampler
from fairseq_mtssl.evaluation.abx_items import read_items

# (distance, slicing) -> within speaker, contexts within and any; then the same across speakers
TABLE = {
    ("angular", "exact"): (0.0, 0.708333, 0.5, 0.472222),
    ("angular", "librilight"): (0.5, 0.604167, 0.5, 0.402778),
    ("euclidean", "exact"): (0.0, 0.6875, 0.5, 0.513889),
}


def features(speaker: int) -> np.ndarray:
    t, k = np.arange(40)[:, None], np.arange(1, 5)[None]
    return (np.sin(0.7 * k * t + 0.3 * speaker * k) + 0.5 * np.cos(1.3 * t * k + speaker)).astype(np.float32)


def write_items(path: Path) -> Path:
    lines = ["#file onset offset #phone prev-phone next-phone speaker"]
    for speaker, phones in enumerate(("abaab", "babab")):
        for i, phone in enumerate(phones):
            onset = 0.16 * i + 0.005
            offset = 0.16 * i + 0.06 + 0.02 * (i % 3)
            lines.append(f"f{speaker} {onset:.3f} {offset:.3f} {phone} {'p' if i % 2 else 'q'} n s{speaker}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(("distance", "slicing"), TABLE)
def test_every_number_of_the_golden_table(distance: str, slicing: str, tmp_path: Path) -> None:
    items = read_items(write_items(tmp_path / "golden.item"))
    found = []
    for kind in ("within", "across"):
        for context in ("within", "any"):
            plan = plan_abx(items, 50.0, np.array([40, 40]), slicing, context, Subsampler(None, None))
            kept = np.concatenate([features(f)[rows] for f, rows in zip(plan.file, plan.kept)])
            score = score_abx(plan, torch.from_numpy(kept), distance)
            found.append(getattr(score, kind) / 100)
    # the table has six decimals
    assert found == pytest.approx(TABLE[distance, slicing], abs=1e-6)
