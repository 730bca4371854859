"""What a tiny joint model has beside its speech encoder: the smallest image encoder and speech branch."""

from __future__ import annotations

from typing import Any

GROUNDING: dict[str, Any] = {
    "preset": "modern",
    "shared_layers": 2,
    "speech_in_channels": 8,
    "speech_channels": [8, 16],
    "speech_strides": [2, 2],
    "image_encoder": "cnn",
    "image_layers": 1,
    "image_channels": [8, 8, 8],
    "image_grid": 2,
    "image_size": 16,
    "final_dim": 8,
}
