"""Checkpoints that version 0.1.0 (commit 08ef130) saved load, and give what they gave.

Each is a tiny model trained for a few updates, without its optimizer state; `figures.json` holds what 0.1.0
computed with it for two clips.
"""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fairseq_mtssl.checkpoints import load_model

FOLDER = Path(__file__).resolve().parents[1] / "checkpoints_0_1"
FIGURES = json.loads((FOLDER / "figures.json").read_text(encoding="utf-8"))


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """(2, 6000) waveforms of 6000 and 4000 samples."""
    waves = torch.randn(2, 6000, generator=torch.Generator().manual_seed(3))
    waves[1, 4000:] = 0
    return waves, torch.tensor([6000, 4000])


def computed(model: Any, wanted: dict[str, Any]) -> dict[str, list[float]]:
    """The figures of a model, as far as they are wanted."""
    waves, lengths = clips()
    found: dict[str, list[float]] = {}
    if "norms" in wanted:
        encoder = model.speech_encoder
        extracted = encoder.forward_features(waves, lengths)
        top = encoder.frames(encoder.forward_layers(encoder.embed(extracted), 0, encoder.num_layers))
        found["norms"] = [float(top[row, :n].norm()) for row, n in enumerate(extracted.lengths.tolist())]
    if "speech" in wanted:
        found["speech"] = model.encode_speech(waves, lengths).flatten().tolist()
    if "log_probs" in wanted:
        padding = torch.arange(6000)[None] >= lengths[:, None]
        heard = model(source=waves, padding_mask=padding)
        found["log_probs"] = model.get_normalized_probs(heard, log_probs=True)[:, 0].flatten()[:40].tolist()
    if "frames" in wanted:
        found["frames"] = model.frozen.extract([waves[0].numpy()])[0].ravel()[:20].tolist()
    return found


@pytest.mark.parametrize("name", FIGURES)
def test_a_checkpoint_of_the_version_before_gives_what_it_gave(name: str, tmp_path: Path) -> None:
    path = tmp_path / f"{name}.pt"
    path.write_bytes(lzma.decompress((FOLDER / f"{name}.pt.xz").read_bytes()))
    model = load_model(path).model
    with torch.no_grad():
        found = computed(model, FIGURES[name])
    assert found.keys() == FIGURES[name].keys() and found
    for key, values in FIGURES[name].items():
        # other processors round otherwise
        np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5, err_msg=key)
