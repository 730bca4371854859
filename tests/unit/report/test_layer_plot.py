from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from fairseq_mtssl.report.layer_plot import draw_layers

pytest.importorskip("matplotlib")


def measured(layers: list[str]) -> dict[str, Any]:
    scores = {
        layer: {"valid": {"accuracy": 40.0 + place, "macro_f1": 30.0 + place}}
        for place, layer in enumerate(layers)
    }
    return {"scores": scores, "chance": {"valid": 10.0}, "best": {"layer": layers[-1]}}


@pytest.mark.parametrize("layers", [["1", "2", "3"], ["6"], ["9", "3"], ["mfcc"]])
def test_any_choice_of_layers_is_drawn(layers: list[str], tmp_path: Path) -> None:
    path = draw_layers(measured(layers), tmp_path / "new" / "layers.png")
    with Image.open(path) as image:
        assert image.format == "PNG" and len(set(image.convert("L").tobytes())) > 50
