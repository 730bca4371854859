"""What the `paper` preset takes from the published code: what positions see of padding, and first weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from seeded_vgs_plus import CONFIG
from torch import nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel


def build(**changes: Any) -> JointSslVgsModel:
    torch.manual_seed(0)
    return JointSslVgsModel.build_model(JointSslVgsConfig(**{**CONFIG, **changes}))


def deviation(weight: torch.Tensor) -> float:
    return float(weight.detach().std())


def last_frames(model: JointSslVgsModel, noise: float) -> torch.Tensor:
    """(9, D): frames after the positional convolution, the last of a clip of 16, with noise behind them."""
    encoder = model.speech_encoder.eval()
    features = torch.randn(2, 32, encoder.feature_dim, generator=torch.Generator().manual_seed(1))
    extracted = encoder.forward_features(torch.zeros(2, 400), torch.tensor([400, 400]))
    extracted.features, extracted.lengths = features, torch.tensor([32, 16])
    extracted.features[1, 16:] += noise
    return encoder.add_positions(extracted).states[8:17, 1]  # the CLS token comes first


def test_in_paper_the_positional_convolution_sees_the_padding_and_in_modern_zeros() -> None:
    for preset, sees in (("paper", True), ("modern", False)):
        model = build(preset=preset)
        assert torch.equal(last_frames(model, 0.0), last_frames(model, 1.0)) is not sees, preset


def test_what_the_positional_convolution_sees_can_be_chosen_in_either_preset() -> None:
    assert not build(positions_see_padding=False).speech_encoder.sizes.positions_see_padding
    changed = build(preset="modern", positions_see_padding=True, padding_exact=False)
    assert changed.speech_encoder.sizes.positions_see_padding


def test_padding_exact_goes_before_the_preset_and_refuses_the_opposite() -> None:
    exact = {"padding_exact": True, "extractor_mode": "layer_norm"}
    assert not build(**exact).speech_encoder.sizes.positions_see_padding
    with pytest.raises(ConfigError, match="positions_see_padding with padding_exact: set one of the two"):
        build(**exact, positions_see_padding=True)


def test_in_paper_the_convolutions_of_resdavenet_are_drawn_by_their_outputs() -> None:
    channels = {"speech_in_channels": 32, "speech_channels": [32, 64, 64, 128]}
    wide = {**channels, "encoder_embed_dim": 128, "encoder_ffn_embed_dim": 16, "image_layers": 1}
    for preset in ("paper", "modern"):
        convolutions = {
            name: module
            for name, module in build(**wide, preset=preset).speech_head.resdavenet.named_modules()
            if isinstance(module, nn.Conv1d)
        }
        assert len(convolutions) == 20  # 4 stages of 2 blocks of 2, and a shortcut a stage
        for name, module in convolutions.items():
            ours = math.sqrt(2.0 / (module.kernel_size[0] * module.out_channels))
            torchs = math.sqrt(1.0 / (3.0 * module.kernel_size[0] * module.in_channels))
            # 1,000 weights or more: the standard error is 2 % at most; the two differ by 1.7 times at least
            wanted = ours if preset == "paper" else torchs
            assert deviation(module.weight) == pytest.approx(wanted, rel=0.06), name


def test_in_paper_linear_layers_and_the_image_cls_are_drawn_as_the_published_code_does() -> None:
    model = build(encoder_embed_dim=768, speech_channels=[6, 8, 12, 768], image_layers=1, latent_vars=320)
    assert deviation(model.ssl_head.quantizer.weight_proj.weight) == pytest.approx(0.02, rel=0.05)
    assert deviation(model.speech_encoder.encoder.layers[0].fc1.weight) == pytest.approx(0.02, rel=0.05)
    assert deviation(model.image_encoder.encoder.cls) == pytest.approx(1.0, rel=0.1)  # of 768 numbers
    biases = [m.bias for m in model.modules() if isinstance(m, nn.Linear) and m.bias is not None]
    assert biases and not any(bias.any() for bias in biases)
