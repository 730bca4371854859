"""The fast convolutions against fairseq's own modules and against 64 bits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from fairseq.models.wav2vec.wav2vec2 import ConvFeatureExtractionModel
from torch import Tensor, nn

from fairseq_mtssl.frames import parse_conv_layers
from fairseq_mtssl.kernels import conv_features as fast
from fairseq_mtssl.kernels.conv_features import ConvFeatures, norm_of

pytestmark = pytest.mark.usefixtures("either_way")

STACKS = {
    "base": "[(12,10,5)] + [(12,3,2)] * 4 + [(12,2,2)] * 2",
    "small recipe": "[(32,40,10),(48,3,2)] + [(64,3,2)] * 2 + [(64,2,2)] * 2",
    "gaps, long kernels, other widths": "[(8,3,5),(12,7,2),(10,2,3),(6,5,5)]",
    "one layer": "[(8,10,5)]",
}
MODES = ["layer_norm", "default"]


def extractor(stack: str, mode: str, bias: bool = False) -> ConvFeatures:
    torch.manual_seed(0)
    made = ConvFeatures(parse_conv_layers(STACKS[stack]), mode=mode, conv_bias=bias)
    with torch.no_grad():
        for parameter in made.parameters():
            if parameter.dim() == 1:  # norms at 1 and 0 hide mistakes
                parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def waveforms(samples: int, rows: int = 3) -> Tensor:
    torch.manual_seed(1)
    source = torch.randn(rows, samples)
    source[1, samples // 2 :] = 0  # padding
    return source


def both(module: nn.Module, source: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Output, and gradients of a weighted sum of it."""
    module.zero_grad()
    out = module(source)
    torch.manual_seed(2)
    out.backward(torch.randn(out.shape).to(out.dtype))
    return out.detach(), {name: p.grad.clone() for name, p in module.named_parameters()}


def in_64_bits(module: ConvFeatures, source: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same without fairseq's casts to 32 bits."""
    wide = copy.deepcopy(module).double()

    def forward(x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        for block in wide.conv_layers:
            norm = norm_of(block)
            x = block[0](x)
            if isinstance(norm, nn.LayerNorm):
                size, weight, bias = norm.normalized_shape, norm.weight, norm.bias
                x = nn.functional.layer_norm(x.transpose(1, 2), size, weight, bias, norm.eps).transpose(1, 2)
            elif norm is not None:
                x = nn.functional.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps)
            x = nn.functional.gelu(x)
        return x

    wide.forward = forward  # type: ignore[method-assign]
    return both(wide, source.double())


def distance(found: Tensor, wanted: Tensor) -> float:
    """Relative, over the whole tensor."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("stack", STACKS)
def test_output_and_gradients_equal_fairseqs(stack: str, mode: str, bias: bool) -> None:
    module = extractor(stack, mode, bias)
    theirs = ConvFeatureExtractionModel(parse_conv_layers(STACKS[stack]), 0.0, mode, bias)
    theirs.load_state_dict(module.state_dict())
    for samples in (1_040, 2_333):
        source = waveforms(samples)
        out, gradients = both(module, source)
        expected, expected_gradients = both(theirs, source)
        true, true_gradients = in_64_bits(module, source)
        assert out.shape == expected.shape and out.dtype == expected.dtype
        assert gradients.keys() == expected_gradients.keys()
        # sums of some thousand terms in another order
        assert distance(out, expected) < 3e-6 and distance(out, true) < 2e-6
        for name, gradient in gradients.items():
            if name == "conv_layers.0.0.bias" and mode == "default":
                assert float(true_gradients[name].abs().max()) < 1e-9  # the norm takes it out
                assert not gradient.any()
            else:
                assert distance(gradient, expected_gradients[name]) < 1e-5, name
                assert distance(gradient, true_gradients[name]) < 1e-5, name


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    """torch.set_num_threads, undone afterwards."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("mode", MODES)
def test_neither_tiles_nor_threads_matter(
    mode: str, count: int, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads(1)
    module, source = extractor("gaps, long kernels, other widths", mode, True), waveforms(600)
    whole, gradients = both(module, source)
    monkeypatch.setattr(fast, "TILE", 1)  # one frame at a time
    threads(count)
    out, found = both(module, source)
    assert distance(out, whole) < 1e-6
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, gradients[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision_is_no_further_from_the_truth_than_fairseqs(
    mode: str, dtype: torch.dtype, autocast: bool
) -> None:
    module, source = extractor("base", mode), waveforms(3_000)
    true, true_gradients = in_64_bits(module, source)
    if not autocast:
        module, source = module.to(dtype), source.to(dtype)

    def run(quick: bool) -> tuple[Tensor, dict[str, Tensor]]:
        module.fast = quick
        with torch.autocast("cpu", dtype, enabled=autocast):
            return both(module, source)

    out, gradients = run(True)
    expected, expected_gradients = run(False)
    assert out.dtype == expected.dtype == dtype
    # rounding differs; a factor of 2 leaves room for luck
    assert distance(out, true) < 2 * distance(expected, true)
    for name, gradient in gradients.items():
        worst = max(distance(expected_gradients[other], true_gradients[other]) for other in gradients)
        assert gradient.dtype == expected_gradients[name].dtype
        assert distance(gradient, true_gradients[name]) < 2 * worst, name


def test_a_row_does_not_depend_on_its_batch_or_its_padding() -> None:
    module = extractor("base", "layer_norm").eval()
    clip = torch.randn(1, 5_000)
    alone = module(clip)
    batch = torch.zeros(4, 9_000)
    batch[2, :5_000] = clip
    batch[[0, 1, 3]] = torch.randn(3, 9_000)
    within = module(batch)[2:3, :, : alone.size(2)]
    torch.testing.assert_close(within, alone, rtol=1e-5, atol=1e-5)


def test_a_group_norm_takes_its_statistics_over_the_whole_row_as_fairseqs() -> None:
    module = extractor("base", "default").eval()
    padded = torch.zeros(1, 9_000)
    padded[:, :5_000] = torch.randn(1, 5_000)
    out = module(padded)
    module.fast = False
    torch.testing.assert_close(out, module(padded), rtol=1e-5, atol=1e-5)
    silent = torch.zeros(2, 5_000)
    torch.testing.assert_close(module(silent), ConvFeatures.forward(_quick(module), silent))


def _quick(module: ConvFeatures) -> ConvFeatures:
    other = copy.deepcopy(module)
    other.fast = True
    return other


def _plain(module: ConvFeatures) -> ConvFeatures:
    other = copy.deepcopy(module)
    other.fast = False
    return other


def test_fast_false_runs_fairseqs_forward_to_the_bit() -> None:
    module = ConvFeatures(parse_conv_layers(STACKS["base"]), mode="layer_norm", conv_bias=False, fast=False)
    theirs = ConvFeatureExtractionModel(parse_conv_layers(STACKS["base"]), mode="layer_norm")
    theirs.load_state_dict(module.state_dict())
    source = waveforms(3_000)
    assert torch.equal(module(source), theirs(source))


def test_what_it_cannot_do_runs_fairseqs_forward() -> None:
    module, source = extractor("base", "layer_norm"), waveforms(3_000)
    assert fast.refusal(module, source) is None
    assert "gradient" in str(fast.refusal(module, source.clone().requires_grad_()))
    assert "float64" in str(fast.refusal(copy.deepcopy(module).double(), source.double()))
    dropping = ConvFeatureExtractionModel(parse_conv_layers(STACKS["base"]), dropout=0.1)
    assert "dropout" in str(fast.refusal(dropping, source))
    assert fast.refusal(dropping.eval(), source) is None
    assert module.choose(source)[0] == "kernels" and _plain(module).choose(source)[0] == "fairseq"
    with pytest.raises(RuntimeError, match="Kernel size"):
        module(torch.randn(1, 399))
    needs = source.clone().requires_grad_()
    module(needs).sum().backward()
    assert needs.grad is not None and needs.grad.abs().sum() > 0


def test_without_gradients_nothing_is_kept_and_the_numbers_are_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module, source = extractor("small recipe", "layer_norm"), waveforms(4_000)
    kept: list[bool] = []
    forward = fast.ConvStack.forward
    monkeypatch.setattr(
        fast.ConvStack, "forward", lambda self, keep: kept.append(keep) or forward(self, keep)
    )
    with torch.no_grad():
        quiet = module(source)
    with torch.inference_mode():
        inferred = module(source)
    out = module(source)
    assert torch.equal(quiet, out.detach()) and torch.equal(inferred, quiet)
    assert out.requires_grad and not quiet.requires_grad
    assert kept == [False, False, True]


def test_a_second_backward_pass_through_one_forward_gives_the_same_gradients() -> None:
    module, source = extractor("base", "layer_norm"), waveforms(3_000)
    out = module(source).sum()
    out.backward(retain_graph=True)
    first = [p.grad.clone() for p in module.parameters()]
    out.backward()
    for parameter, gradient in zip(module.parameters(), first, strict=True):
        torch.testing.assert_close(parameter.grad, 2 * gradient)
