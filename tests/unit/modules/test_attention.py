"""BERT layers against torch's own layer, and the tokens in front of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_grounding import count_parameters
from torch import nn

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.modules.attention import (
    BertLayer,
    BertOptions,
    ClsEncoder,
    ClsProjection,
    init_bert,
    init_std,
    prepend,
)

# float32 sums of some 32 products of order 1, in another order
CLOSE: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


def test_layer_has_the_parameter_count_of_the_paper() -> None:
    assert count_parameters(BertLayer(BertOptions(768, 12, 3072, 0.1))) == 7_087_872


def test_projection_has_the_parameter_count_of_the_paper() -> None:
    assert count_parameters(ClsProjection(768, 768)) == 2_361_600


def test_layer_computes_what_torch_computes_with_the_same_weights() -> None:
    torch.manual_seed(0)
    ours = BertLayer(BertOptions(32, 4, 64, 0.1)).eval()
    theirs = nn.TransformerEncoderLayer(32, 4, 64, 0.1, "gelu", 1e-12, batch_first=True).eval()
    theirs.load_state_dict(ours.state_dict())
    tokens = torch.randn(3, 7, 32)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [1]])
    got, wanted = ours(tokens, padding), theirs(tokens, src_key_padding_mask=padding)
    assert torch.allclose(got[~padding], wanted[~padding], **CLOSE)
    assert torch.allclose(ours(tokens), theirs(tokens), **CLOSE)


def test_no_dropout_lies_between_the_two_linear_layers() -> None:
    layer = BertLayer(BertOptions(32, 4, 64, 0.5))
    tokens = torch.randn(3, 7, 32)
    kept = [layer.dropout1, layer.dropout2]
    for dropout in kept:
        dropout.p = 0.0
    layer.self_attn.dropout = 0.0
    assert torch.equal(layer.train()(tokens), layer.eval()(tokens))
    for dropout in kept:
        dropout.p = 0.5
        assert not torch.equal(layer.train()(tokens), layer.eval()(tokens))
        dropout.p = 0.0


@pytest.mark.parametrize("padded", [False, True])
def test_first_token_alone_is_the_first_token_of_all(padded: bool) -> None:
    layer = BertLayer(BertOptions(32, 4, 64, 0.0))
    tokens = torch.randn(3, 7, 32)
    padding = torch.arange(7) >= torch.tensor([[7], [4], [1]]) if padded else None
    assert torch.allclose(layer(tokens, padding, first_only=True), layer(tokens, padding)[:, :1], **CLOSE)


def test_padded_tokens_have_no_influence_by_zero_gradient() -> None:
    layer = BertLayer(BertOptions(32, 4, 64, 0.0))
    tokens = torch.randn(2, 7, 32, requires_grad=True)
    padding = torch.arange(7) >= torch.tensor([[7], [4]])
    layer(tokens, padding)[~padding].square().sum().backward()
    assert tokens.grad is not None
    assert not tokens.grad[1, 4:].any()
    assert tokens.grad[1, :4].any(dim=1).all()


def test_initialisation_is_berts() -> None:
    torch.manual_seed(0)
    layer = BertLayer(BertOptions(768, 12, 1024, 0.1))
    weights = [layer.self_attn.in_proj_weight, layer.self_attn.out_proj.weight, layer.linear1.weight]
    for weight in weights:
        # the standard error of a standard deviation over half a million values is 0.1 %
        assert weight.std().item() == pytest.approx(0.02, rel=0.01)
    for bias in (layer.self_attn.in_proj_bias, layer.self_attn.out_proj.bias, layer.linear2.bias):
        assert not bias.any()
    assert layer.norm1.weight.eq(1).all() and not layer.norm1.bias.any()


def test_smaller_layers_start_with_weights_of_the_same_effect() -> None:
    assert init_std(768) == 0.02
    assert init_std(192) == 0.04
    torch.manual_seed(0)
    sizes = []
    for dim in (192, 768):
        weight = BertLayer(BertOptions(dim, 12, 64, 0.1)).self_attn.out_proj.weight
        sizes.append((torch.randn(500, dim) @ weight.T).std().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.02)  # 0.02 · √768 = 0.55; standard error under 0.5 %


def test_initialisation_leaves_convolutions_alone() -> None:
    convolution, linear = nn.Conv1d(4, 4, 3), nn.Linear(4, 4)
    before = convolution.weight.clone()
    init_bert(nn.Sequential(convolution, linear))
    assert torch.equal(convolution.weight, before)
    assert not linear.bias.any()


def test_constant_tokens_stay_finite_under_the_tiny_epsilon() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        layer = BertLayer(BertOptions(32, 4, 64, 0.0)).to(dtype)
        assert layer(torch.zeros(1, 3, 32, dtype=dtype)).isfinite().all()


def test_encoder_does_not_depend_on_the_order_of_tokens_without_positions() -> None:
    encoder = ClsEncoder(BertOptions(32, 4, 64, 0.0), 2)
    tokens = torch.randn(3, 9, 32)
    assert torch.allclose(encoder(tokens[:, torch.randperm(9)]), encoder(tokens), **CLOSE)


def test_every_parameter_of_the_encoder_learns() -> None:
    encoder = ClsEncoder(BertOptions(32, 4, 64, 0.0), 2)
    encoder(torch.randn(3, 9, 32)).square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())


def test_encoder_takes_an_image_without_tokens() -> None:
    assert ClsEncoder(BertOptions(32, 4, 64, 0.0), 1)(torch.randn(2, 0, 32)).shape == (2, 32)


def test_prepend_keeps_the_dtype_of_the_tokens() -> None:
    tokens = prepend(torch.ones(2, 4), torch.zeros(2, 3, 4, dtype=torch.bfloat16))
    assert tokens.shape == (2, 4, 4)
    assert tokens.dtype == torch.bfloat16
    assert tokens[:, 0].eq(1).all()


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 heads do not divide 32"):
        BertLayer(BertOptions(32, 5, 64, 0.0))


def test_encoder_without_layers_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        ClsEncoder(BertOptions(32, 4, 64, 0.0), 0)
