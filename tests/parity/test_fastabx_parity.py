"""ABX against fastabx on random sets: every distance and condition, with exact slicing.

One-hot frames by angle are left out: what is equal here may be 1e-4 apart there, and no ties remain. The 0/1
distance, whose ties are exact on both sides, is in.

fastabx needs Python ≥ 3.12: there, for the tests alone, pip install fastabx. Elsewhere they skip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import abx_cases
import numpy as np
import pytest
import torch

from fairseq_mtssl.errors import ManifestError
from fairseq_mtssl.evaluation.abx_items import slice_items

CONDITIONS = [(speaker, context) for context in ("within", "any") for speaker in ("within", "across")]


@pytest.fixture(scope="module")
def library() -> Any:
    return pytest.importorskip("fastabx", reason="needs Python ≥ 3.12 and pip install fastabx")


def theirs(library: Any, folder: Path, distance: str, speaker: str, context: str) -> float | None:
    """Their error in percent of what `write_for_them` wrote; None where there is no cell."""
    try:
        error = library.zerospeech_abx(
            folder / "items.item",
            folder,
            max_size_group=None,
            max_x_across=None,
            speaker=speaker,
            context=context,
            distance=distance,
            frequency=int(abx_cases.RATE_HZ),
            device="cpu",
            progress=False,
        )
    except (ValueError, ZeroDivisionError, RuntimeError) as refusal:
        assert "cell" in str(refusal).lower() or "empty" in str(refusal).lower(), refusal
        return None
    return 100 * float(error)


def write_for_them(case: abx_cases.Case, folder: Path) -> None:
    """A file of features each, and the items without those that hold no frame, which they refuse."""
    frames = np.array([len(each) for each in case.features])[case.items.file]
    kept = slice_items(case.items, abx_cases.RATE_HZ, frames, "exact").kept
    header, *lines = Path(case.items.path).read_text().splitlines()
    rows = [line for line, keep in zip(lines, kept, strict=True) if keep]
    (folder / "items.item").write_text("\n".join([header, *rows]) + "\n")
    for name, frames_of in zip(case.items.files, case.features, strict=True):
        torch.save(torch.from_numpy(frames_of), folder / f"{name}.pt")


def ours(case: abx_cases.Case, distance: str, speaker: str, context: str) -> float | None:
    try:
        return getattr(case.score(distance, "exact", context), speaker)
    except ManifestError:
        return None


@pytest.mark.parametrize(
    ("kind", "distance", "name"),
    [
        ("normal", "angular", "angular"),
        ("normal", "euclidean", "euclidean"),
        ("probabilities", "kl", "kl_symmetric"),
        ("units", "units", "identical"),
    ],
)
def test_random_sets_score_the_same_as_fastabx(
    library: Any, kind: str, distance: str, name: str, tmp_path: Path
) -> None:
    compared = 0
    for seed in range(20):
        case = abx_cases.make_case(tmp_path / "f.item", seed, kind)
        write_for_them(case, tmp_path)
        for speaker, context in CONDITIONS:
            wanted = theirs(library, tmp_path, name, speaker, context)
            found = ours(case, distance, speaker, context)
            assert found == (None if wanted is None else pytest.approx(wanted, abs=1e-4)), (seed, speaker)
            compared += wanted is not None
    assert compared > 40
