"""Layers and convolutions by torch.compile: the plain numbers, code made once for all layers."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from compiler import Traced
from fairseq.models.wav2vec.wav2vec2 import TransformerSentenceEncoderLayer
from tiny_encoder import WAVEFORM_LAYERS
from torch import Tensor, nn
from torch.torch_version import TorchVersion

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.frames import padding_mask
from fairseq_mtssl.kernels import compiling
from fairseq_mtssl.kernels.conv_features import ConvFeatures
from fairseq_mtssl.kernels.transformer_layers import refusal_of_layer
from fairseq_mtssl.modules.hidden import Hidden, run_layers

LENGTHS = [[23, 23], [23, 9]]
WHOLE = pytest.mark.parametrize("traced", ["aot_eager"], indirect=True)  # the backward pass, too


def make(dropout: float = 0.0, norm_first: bool = False) -> TransformerSentenceEncoderLayer:
    layer = TransformerSentenceEncoderLayer(32, 48, 4, dropout, dropout, dropout, "gelu", norm_first)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def stack(count: int = 3, dropout: float = 0.0) -> nn.ModuleList:
    torch.manual_seed(0)
    return nn.ModuleList([make(dropout) for _ in range(count)])


def states(lengths: list[int]) -> Hidden:
    """(T, B, D), a view of (B, T, D) as in the encoder, and their padding, None where nothing is padded."""
    torch.manual_seed(1)
    padding = padding_mask(torch.tensor(lengths), max(lengths))
    x = torch.randn(len(lengths), max(lengths), 32).transpose(0, 1)
    return Hidden(x, padding if padding.any() else None)


def gradients(
    layers: nn.ModuleList, given: Hidden, *, fast: bool = False, compiled: bool = False
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Output, layer results and gradients of the input and all weights, of what is not padding."""
    layers.zero_grad()
    x = given.states.clone().requires_grad_()
    results: list[Tensor] = []
    hidden = run_layers(layers, Hidden(x, given.padding), results=results, fast=fast, compiled=compiled)
    out = hidden.states.float()
    valid = torch.ones_like(out) if given.padding is None else (~given.padding).T.unsqueeze(-1).float()
    torch.manual_seed(2)
    (out * valid * torch.randn(out.shape)).sum().backward()
    weights = [p.grad.float() for p in layers.parameters()]
    return out.detach(), [each.detach() for each in results], [x.grad.float(), *weights]


@WHOLE
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("fast", [True, False])
def test_compiled_layers_give_the_output_results_and_gradients_of_the_others(
    traced: Traced, lengths: list[int], fast: bool
) -> None:
    layers, given = stack(), states(lengths)
    out, results, found = gradients(layers, given, compiled=True)
    expected, expected_results, wanted = gradients(layers, given, fast=fast)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results, expected_results, rtol=1e-5, atol=1e-5)
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=2e-5)
    assert traced.graphs() == 1


def test_one_graph_serves_all_layers_and_a_copy_another(traced: Traced) -> None:
    layers = stack(dropout=0.1).train()
    teacher = copy.deepcopy(layers).requires_grad_(False).eval()
    for lengths, expected in ((LENGTHS[0], 2), (LENGTHS[1], 2), (LENGTHS[0], 0), (LENGTHS[1], 0)):
        gradients(layers, states(lengths), compiled=True)
        with torch.no_grad():
            run_layers(teacher, states(lengths), compiled=True)
        assert traced.graphs() == expected


def test_evaluation_mode_switches_dropout_off_and_training_draws_it_from_the_seed(traced: Traced) -> None:
    layers, given = stack(2, dropout=0.3), states(LENGTHS[0])
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(run_layers(layers.train(), given, compiled=True).states)
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    out, plain = (run_layers(layers.eval(), given, fast=False, compiled=on).states for on in (True, False))
    torch.testing.assert_close(out, plain, rtol=1e-5, atol=1e-5)


def test_layers_that_layerdrop_skips_are_those_of_the_plain_path(traced: Traced) -> None:
    layers, given = stack(6), states(LENGTHS[1])
    given.states.requires_grad_()  # as the encoder's
    outputs: dict[bool, list[Tensor]] = {True: [], False: []}
    for compiled, ran in outputs.items():
        torch.manual_seed(0)
        run_layers(layers, given, layerdrop=0.5, outputs=ran, fast=False, compiled=compiled)
    assert 0 < len(outputs[True]) < 6 and traced.graphs() == 1
    torch.testing.assert_close(outputs[True], outputs[False], rtol=1e-5, atol=1e-5)


@WHOLE
@pytest.mark.parametrize("autocast", [True, False])
def test_bfloat16_is_no_further_from_32_bits_compiled(traced: Traced, autocast: bool) -> None:
    layers, given = stack(2), states(LENGTHS[1])
    *_, true = gradients(layers, given)
    if not autocast:
        layers = copy.deepcopy(layers).to(torch.bfloat16)
        given = Hidden(given.states.to(torch.bfloat16), given.padding)
    worst = []
    for compiled in (True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            *_, found = gradients(layers, given, compiled=compiled)
        # by the norm of each; gradients of the keys' biases are zero but for rounding
        pairs = [(a, b) for a, b in zip(found, true, strict=True) if float(b.norm()) > 1e-4]
        worst.append(max(float((a - b).norm() / b.norm()) for a, b in pairs))
    assert 0 < worst[0] < 1.2 * worst[1] and traced.graphs() == 1


def test_many_shapes_end_in_one_graph_for_any_shape(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "MAX_SHAPES", 2)
    layers = stack(2)

    def graphs(*frames: int) -> int:
        for count in frames:
            given = states([count] * 3)
            out, *_ = gradients(layers, given, compiled=True)
            torch.testing.assert_close(out, gradients(layers, given)[0], rtol=1e-5, atol=1e-5)
        return traced.graphs()

    assert graphs(23, 9) == 2
    assert graphs(11) == 1
    assert graphs(12, 17, 30, 11) == 0
    assert graphs(9, 23) == 0


def test_more_shapes_than_torch_allows_others_are_compiled_and_its_settings_come_back(
    traced: Traced,
) -> None:
    from torch._dynamo import config

    layers, before = stack(1), (config.recompile_limit, config.optimize_ddp)
    shapes = config.recompile_limit + 2
    with torch.no_grad():
        for frames in range(2, 2 + shapes):
            run_layers(layers, states([frames] * 2), compiled=True)
    assert traced.graphs() == shapes <= compiling.MAX_SHAPES
    assert (config.recompile_limit, config.optimize_ddp) == before


def test_layers_that_have_run_are_named_copied_and_pickled_as_plain_ones(traced: Traced) -> None:
    layers, given = stack(2), states(LENGTHS[0])
    given.states.requires_grad_()  # as the encoder's
    names = list(layers.state_dict())
    out = run_layers(layers, given, compiled=True).states
    assert list(layers.state_dict()) == names
    for again in (copy.deepcopy(layers), pickle.loads(pickle.dumps(layers))):
        assert torch.equal(run_layers(again, given, compiled=True).states, out)
    assert traced.graphs() == 1


def test_layers_that_cannot_be_compiled_run_as_they_are(traced: Traced) -> None:
    hooked = make()
    hooked.register_forward_hook(lambda *_: None)
    for odd in (make(norm_first=True), nn.TransformerEncoderLayer(32, 4), hooked):
        assert refusal_of_layer(odd) is not None
    first, given = nn.ModuleList([make(norm_first=True)]), states(LENGTHS[0])
    assert torch.equal(run_layers(first, given, compiled=True).states, first[0](given.states)[0])
    assert traced.graphs() == 0


@pytest.mark.parametrize("version", ["2.4.1", "2.3.0+cu121", "1.13.1"])
def test_an_old_torch_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    with pytest.raises(ConfigError, match=rf"model.compile: torch {version[:3]}.*wanted 2\.5 or later"):
        run_layers(stack(1), states(LENGTHS[0]), compiled=True)


# -- convolutions


@WHOLE
@pytest.mark.parametrize("mode", ["layer_norm", "default"])
def test_compiled_convolutions_give_the_features_and_gradients_of_fairseqs(traced: Traced, mode: str) -> None:
    torch.manual_seed(0)
    plain = ConvFeatures(WAVEFORM_LAYERS, mode=mode, conv_bias=True, fast=False)
    module = ConvFeatures(WAVEFORM_LAYERS, mode=mode, conv_bias=True, fast=False, compiled=True)
    module.load_state_dict(plain.state_dict())
    source, found = torch.randn(2, 4000), []
    for each in (module, plain):
        each.train()(source).square().sum().backward()
        found.append((each(source).detach(), [p.grad for p in each.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
    assert traced.graphs() == 1
    with torch.no_grad():
        assert torch.equal(module.eval()(source), plain.eval()(source))
    assert traced.graphs() == 0


def test_convolutions_that_have_a_faster_way_on_a_cpu_take_it(traced: Traced) -> None:
    module = ConvFeatures(WAVEFORM_LAYERS, mode="layer_norm", conv_bias=False, compiled=True).train()
    module(torch.randn(2, 4000)).sum().backward()
    assert traced.graphs() == 0
