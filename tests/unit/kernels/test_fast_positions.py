"""The stacked positional convolution without transposes, against fairseq's blocks."""

from __future__ import annotations

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerEncoder, Wav2Vec2Config
from torch import Tensor, nn

from fairseq_mtssl.kernels.fast_positions import refusal, stacked_positions


def blocks(kernel: int = 15, depth: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    config = Wav2Vec2Config(
        encoder_layers=1,
        encoder_embed_dim=16,
        encoder_ffn_embed_dim=16,
        encoder_attention_heads=2,
        conv_pos=kernel,
        conv_pos_groups=4,
        pos_conv_depth=depth,
    )
    made: nn.Sequential = TransformerEncoder(config).pos_conv
    return made


def plain(pos_conv: nn.Sequential, x: Tensor, padding: Tensor | None) -> Tensor:
    x = x.transpose(1, 2)
    for index, block in enumerate(pos_conv):
        x = block(x if padding is None or index == 0 else x.masked_fill(padding.unsqueeze(1), 0))
    return x.transpose(1, 2)


@pytest.mark.parametrize("kernel", [15, 12])  # 5 and 4 a block: SamePad drops a frame of even kernels
@pytest.mark.parametrize("padded", [True, False])
def test_output_and_gradients_equal_fairseqs_blocks(kernel: int, padded: bool) -> None:
    pos_conv, x = blocks(kernel), torch.randn(2, 20, 16, requires_grad=True)
    padding = torch.zeros(2, 20, dtype=torch.bool)
    padding[1, 13:] = True
    weight = torch.randn(2, 20, 16)
    found = []
    for run in (stacked_positions, plain):
        pos_conv.zero_grad()
        out = run(pos_conv, x, padding if padded else None)
        gradients = torch.autograd.grad((out * weight).sum(), [x, *pos_conv.parameters()])
        found.append((out.detach(), gradients))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_what_it_cannot_do_is_said() -> None:
    x = torch.randn(2, 20, 16)
    assert refusal(blocks(), x) is None
    assert "blocks" in str(refusal(blocks(depth=1), x))
    assert "float16" in str(refusal(blocks(), x.half()))
    hooked = blocks()
    hooked[1].register_forward_hook(lambda *_: None)
    assert "hooks" in str(refusal(hooked, x))
