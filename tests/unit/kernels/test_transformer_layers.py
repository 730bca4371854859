"""The fast way through fairseq's transformer layers, against their own forward."""

from __future__ import annotations

import copy

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from torch import Tensor, nn

from fairseq_mtssl.frames import padding_mask
from fairseq_mtssl.kernels.dropout import MAX_RATE
from fairseq_mtssl.kernels.transformer_layers import (
    FairseqLayers,
    KernelLayers,
    choose,
    layer_norm,
    refusal,
    run_layer,
)
from fairseq_mtssl.modules.hidden import Hidden, run_layers

LENGTHS = [[23, 23], [23, 9]]


def make(dropout: float = 0.0, norm_first: bool = False) -> TransformerSentenceEncoderLayer:
    torch.manual_seed(0)
    layer = TransformerSentenceEncoderLayer(
        embedding_dim=32,
        ffn_embedding_dim=48,
        num_attention_heads=4,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=dropout,
        activation_fn="gelu",
        layer_norm_first=norm_first,
    )
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def states(lengths: list[int]) -> Hidden:
    """(T, B, D) and their padding, None where nothing is padded."""
    torch.manual_seed(1)
    padding = padding_mask(torch.tensor(lengths), max(lengths))
    x = torch.randn(max(lengths), len(lengths), 32)
    return Hidden(x, padding if padding.any() else None)


def gradients(layers: nn.ModuleList, given: Hidden, fast: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output, layer results and gradients of the input and all weights, of what is not padding."""
    layers.zero_grad()
    x = given.states.clone().requires_grad_()
    results: list[Tensor] = []
    out = run_layers(layers, Hidden(x, given.padding), results=results, fast=fast).states
    valid = torch.ones_like(out) if given.padding is None else (~given.padding).T.unsqueeze(-1).to(out.dtype)
    torch.manual_seed(2)
    (out * valid * torch.randn(out.shape).to(out.dtype)).sum().backward()
    return out.detach(), [each.detach() for each in results], [x.grad, *(p.grad for p in layers.parameters())]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("training", [True, False])
def test_output_results_and_gradients_equal_the_plain_layers(lengths: list[int], training: bool) -> None:
    layers = nn.ModuleList([make(), make()]).train(training)
    given = states(lengths)
    out, results, found = gradients(layers, given, True)
    expected, expected_results, wanted = gradients(layers, given, False)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results, expected_results, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs.clone(), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_in_evaluation_dropout_does_nothing(lengths: list[int]) -> None:
    layers, given = nn.ModuleList([make(0.3)]).eval(), states(lengths)
    with torch.inference_mode():
        fast = run_layers(layers, given, fast=True).states
        plain = run_layers(layers, given, fast=False).states
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_dropout_has_the_spread_of_the_plain_layers() -> None:
    layers, given = nn.ModuleList([make(0.2)]).train(), states([23, 23])
    spreads = []
    for fast in (True, False):
        torch.manual_seed(4)
        with torch.no_grad():
            runs = torch.stack([run_layers(layers, given, fast=fast).states for _ in range(400)])
        spreads.append((runs.mean(0), runs.std(0)))
    (mean, spread), (plain_mean, plain_spread) = spreads
    # 400 draws: the mean is known to a twentieth of the spread, the spread to 3.5 %
    assert float(((mean - plain_mean) / plain_spread).abs().mean()) < 0.1
    assert float((spread / plain_spread - 1).abs().mean()) < 0.08


@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_no_further_from_32_bits_than_the_plain_layers(autocast: bool) -> None:
    layers, given = nn.ModuleList([make(), make()]), states([23, 9])
    *_, true = gradients(layers, given, False)
    if not autocast:
        layers = copy.deepcopy(layers).to(torch.bfloat16)
        given = Hidden(given.states.to(torch.bfloat16), given.padding)
    worst = []
    for fast in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            *_, found = gradients(layers, given, fast)
        # by the norm of each; gradients of the keys' biases are zero but for rounding
        pairs = [(a.float(), b) for a, b in zip(found, true, strict=True) if float(b.norm()) > 1e-4]
        worst.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert worst[0] < 1.2 * worst[1]


def test_with_autocast_residuals_are_added_up_in_32_bits() -> None:
    layers, given = nn.ModuleList([make()]), states([23, 23])
    with torch.autocast("cpu", torch.bfloat16):
        out = run_layers(layers, Hidden(given.states.to(torch.bfloat16), None)).states
    assert out.dtype == torch.float32


def test_a_layer_norm_in_16_bits_has_the_gradients_of_32() -> None:
    norm = nn.LayerNorm(16)
    x = torch.randn(5_000, 16).to(torch.bfloat16)
    layer_norm(norm, x).float().sum(1).square().sum().backward()
    half = [p.grad.clone() for p in norm.parameters()]
    norm.zero_grad()
    norm(x.float()).to(torch.bfloat16).float().sum(1).square().sum().backward()
    torch.testing.assert_close(half, [p.grad for p in norm.parameters()])


def test_what_it_cannot_do_runs_the_layers_own_forward() -> None:
    x = torch.randn(5, 2, 32)
    assert refusal(make(), x) is None
    odd: list[tuple[nn.Module, Tensor, str]] = [
        (make(norm_first=True), x, "layer norms come first"),
        (make(dropout=MAX_RATE + 0.01), x, f"above {MAX_RATE}"),
        (make().double(), x.double(), "float64"),
        (nn.TransformerEncoderLayer(32, 4), x, "not fairseq's"),
        (make(), torch.empty(5, 2, 32, device="meta"), "on meta"),
    ]
    for layer, given, why in odd:
        assert why in str(refusal(layer, given))
        chosen, reason = choose([make(), layer], given, fast=True, compiled=False)
        assert chosen is FairseqLayers and why in reason
    assert choose([make()], x, fast=False, compiled=False) == (FairseqLayers, "model.fast is off")
    assert choose([make()], x, fast=True, compiled=False)[0] is KernelLayers
    first = nn.ModuleList([make(norm_first=True)])
    assert torch.equal(run_layers(first, Hidden(x, None)).states, first[0](x)[0])


def test_one_layer_gives_output_and_layer_result() -> None:
    layer, given = make(), states([23, 23])
    out, result = run_layer(layer, given.states, None)
    expected, (_, expected_result) = layer(given.states, need_weights=False)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result, expected_result, rtol=1e-5, atol=1e-5)
