"""A tiny VGS+ in the `paper` preset whose weights, batch and random draws follow from formulas.

Everything is made by integer arithmetic, so that it is the same on any machine and in any version of a
library, and numbers that other code gave for it can be kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fairseq_mtssl.criterions.joint_ssl_vgs import JointSslVgsCriterion, JointSslVgsCriterionConfig
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.modules.masking import Masking
from fairseq_mtssl.schedule import StepWeights
from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2

FRAMES = {"whole": (48, 48, 48, 48), "padded": (48, 32, 48, 16)}
"""Valid frames of the four captions: multiples of 16, for which all ways of counting the tokens after
ResDAVEnet agree."""
ALPHAS = (0.0, 0.5, 1.0)
SAMPLES_OF_FIRST, SAMPLES_OF_NEXT = 400, 320
MASKED = (
    (2, 3, 4, 5, 11, 12, 13),
    (0, 1, 2, 3, 8, 9, 10),
    (3, 4, 5, 20, 21, 22, 47),
    (1, 2, 3, 4, 5, 14, 15),
)
IMAGE_OF_CAPTION = (0, 1, 2, 1)
IMAGES, REGIONS = 3, 5
CONFIG: dict[str, Any] = {
    "preset": "paper",
    "conv_feature_layers": "[(12,10,5)] + [(12,3,2)] * 4 + [(12,2,2)] * 2",
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 2,
    "encoder_layers": 3,
    "shared_layers": 2,
    "conv_pos": 16,
    "conv_pos_groups": 4,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "dropout_input": 0.0,
    "dropout_features": 0.0,
    "speech_in_channels": 6,
    "speech_channels": [6, 8, 12, 16],
    "image_encoder": "regions",
    "image_size": 16,
    "image_layers": 2,
    "image_feature_dim": 10,
    "final_dim": 8,
    "latent_vars": 6,
    "latent_groups": 2,
    "num_negatives": 5,
    "seed": 1,
}
PARTS = {
    "convolutions": "speech_encoder.feature_extractor.",
    "layer norm of the features": "speech_encoder.layer_norm.",
    "projection of the features": "speech_encoder.post_extract_proj.",
    "mask embedding": "speech_encoder.mask_emb",
    "CLS of speech": "speech_encoder.cls_token",
    "positional convolution and layer norm": "speech_encoder.encoder.",
    "shared layers": "speech_encoder.encoder.layers.",
    "layers above": f"speech_encoder.encoder.layers.{CONFIG['shared_layers']}.",
    "quantizer": "ssl_head.quantizer.",
    "projections of SSL": "ssl_head.",
    "ResDAVEnet": "speech_head.resdavenet.",
    "speech head above": "speech_head.",
    "image encoder": "image_encoder.",
}
"""Name of a group of parameters -> how their names begin; a parameter belongs to the longest that fits."""


def uniform(name: str, shape: Sequence[int]) -> Tensor:
    """Float64 numbers in [-1, 1) that follow from a name and their place (SplitMix64, Steele et al. 2014)."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        x = np.uint64(zlib.crc32(name.encode())) << np.uint64(32)
        z = x + (np.arange(1, count + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    numbers = (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return torch.from_numpy(numbers.reshape(tuple(shape)))


def seeded_weight(name: str, shape: Sequence[int]) -> Tensor:
    """A parameter: matrices and convolutions with a gain near 1, scales near 1, biases near 0."""
    drawn = uniform(name, shape)
    if name.endswith("weight_g"):
        return 0.4 + 0.1 * drawn
    if len(shape) > 1:
        fan_in = int(np.prod(shape[1:]))
        gain = 0.5 if name.endswith("projection.weight") or "projection.2" in name else 1.4
        return drawn * (1.5 if name.endswith("vars") else gain * (3.0 / fan_in) ** 0.5)
    return 1.0 + 0.3 * drawn if name.endswith("weight") else 0.1 * drawn


def build(dtype: torch.dtype = torch.float32) -> JointSslVgsModel:
    """The model in training mode."""
    model = JointSslVgsModel.build_model(JointSslVgsConfig(**CONFIG)).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(seeded_weight(name, parameter.shape))
    return model.train()


def batch(frames: Sequence[int], dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Arguments of the model's forward for captions of so many valid frames."""
    lengths = [SAMPLES_OF_FIRST + SAMPLES_OF_NEXT * (count - 1) for count in frames]
    source = torch.zeros(len(frames), max(lengths), dtype=torch.float64)
    for row, length in enumerate(lengths):
        # loud and soft stretches of 1000 samples, lest the batch norms enlarge rounding
        loudness = uniform(f"loudness {row}", (length // 1000 + 1,)).repeat_interleave(1000)[:length].square()
        source[row, :length] = uniform(f"caption {row}", (length,)) * loudness * 3.0
    corners = uniform("boxes", (IMAGES, REGIONS, 4)) * 0.5 + 0.5
    # regions of one image are alike, those of two are not
    regions = 0.5 * uniform("regions", (IMAGES, REGIONS, 10)) + 2.0 * uniform("images", (IMAGES, 1, 10))
    images = {"regions": regions, "boxes": corners}
    return {
        "source": source.to(dtype),
        "lengths": torch.tensor(lengths),
        "images": {name: value.to(dtype) for name, value in images.items()},
        "image_index": torch.tensor(IMAGE_OF_CAPTION),
    }


def mask(total: int) -> Tensor:
    """(4, total) bool: as many masked frames in each row, all of them valid."""
    masked = torch.zeros(len(MASKED), total, dtype=torch.bool)
    for row, frames in zip(masked, MASKED, strict=True):
        row[list(frames)] = True
    return masked


def raw_negatives() -> Tensor:
    """(B, M, N) ints in [0, M - 2]: which of the other masked frames of the row, for each masked frame."""
    count = len(MASKED[0])
    drawn = uniform("negatives", (len(MASKED), count, CONFIG["num_negatives"])) * 0.5 + 0.5
    return (drawn * (count - 1)).long()


def negatives() -> Tensor:
    """(B · M, N) indices into the masked frames of all rows, never the frame itself."""
    raw = raw_negatives()
    rows, count, _ = raw.shape
    others = raw + (raw >= torch.arange(count)[None, :, None]).long()
    return (others + torch.arange(rows)[:, None, None] * count).flatten(0, 1)


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False, **_: Any) -> Tensor:
    """As torch's over the last dimension, with noise that follows from the number of elements."""
    shares = uniform("gumbel", (logits.numel(),)) * 0.499 + 0.5
    noise = -torch.log(-torch.log(shares)).view(logits.shape).to(logits.dtype)
    soft = torch.softmax((logits + noise) / tau, -1)
    if not hard:
        return soft
    chosen = torch.zeros_like(soft).scatter_(-1, soft.argmax(-1, keepdim=True), 1.0)
    return chosen - soft.detach() + soft


def share_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have our model take the masks, negatives and Gumbel noise of this module."""
    monkeypatch.setattr(Masking, "draw", lambda self, lengths, total, *_: mask(total))
    monkeypatch.setattr(Wav2vec2, "_draw_negatives", lambda *_: negatives())
    monkeypatch.setattr(torch.nn.functional, "gumbel_softmax", gumbel_softmax)


def in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what casts to 32 bits inside models, so that they compute in 64 throughout."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def losses_and_gradients(
    model: JointSslVgsModel, inputs: dict[str, Any], alpha: float
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """What our model and criterion give for one batch: the parts of the loss, and gradients by name.

    A parameter that gets no gradient has zeros. The parts are weighted as they enter the SSL loss.
    """
    model.zero_grad()
    groups = inputs["image_index"]
    step = StepWeights(0, "vgsplus", 0, alpha, 1.0 - alpha, 1.0)
    sample = {"net_input": inputs, "id": torch.arange(4), "image_group": groups, "step": step}
    criterion = JointSslVgsCriterion(JointSslVgsCriterionConfig(), None)  # type: ignore[arg-type]
    loss, _, log = criterion(model, {**sample, "ntokens": 0, "nsentences": 4})
    loss.backward()
    parts = {"loss": float(loss.detach())}
    parts |= {name: float(log[name]) for name in ("loss_vgs", "loss_ssl") if name in log}
    if "contrastive" in log:
        parts["contrastive"] = float(log["contrastive"] / log["contrastive_count"])
    grads = {name: p.grad for name, p in model.named_parameters()}
    return parts, {
        name: torch.zeros_like(p) if grads[name] is None else grads[name].clone()
        for name, p in model.named_parameters()
    }


def part_of(name: str) -> str:
    """The group of PARTS that a parameter belongs to."""
    return max((part for part, start in PARTS.items() if name.startswith(start)), key=lambda p: len(PARTS[p]))


def by_part(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Group of PARTS -> its gradients, flattened, in the order of the names, in 64 bits."""
    found: dict[str, list[Tensor]] = {part: [] for part in PARTS}
    for name in sorted(gradients):
        found[part_of(name)].append(gradients[name].double().flatten())
    return {part: torch.cat(values) for part, values in found.items()}
