"""The compiled part against torch's own functions, in each build that this processor can run."""

from __future__ import annotations

import ctypes
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fairseq_mtssl.modules import dropout, native

HERE = Path(native.__file__).parent
BUILDS = ("avx512_bf16", "avx512", "avx2")
SHAPES = [(3, 16), (5, 2), (2, 7), (4, 33), (7, 512)]
DTYPES = [torch.float32, torch.bfloat16]
TOLERANCE = {torch.float32: {"rtol": 2e-5, "atol": 2e-6}, torch.bfloat16: {"rtol": 1e-2, "atol": 1e-2}}


@pytest.fixture(params=BUILDS)
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """One build after the other in place of this processor's own."""
    own = native.instructions()
    if own not in BUILDS or BUILDS.index(request.param) < BUILDS.index(own):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.delenv("MTSSL_NATIVE", raising=False)
    monkeypatch.setattr(native, "instructions", lambda: request.param)
    native.library.cache_clear()
    if native.library() is None:
        pytest.skip("not compiled here")
    yield request.param
    native.library.cache_clear()


def near(found: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found.float(), wanted.float(), **TOLERANCE[dtype])


def test_it_is_there_wherever_a_compiler_is() -> None:
    if native.instructions() not in BUILDS or shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no compiler here, or another processor")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert (HERE / f"_native_{native.instructions()}{suffix}").exists()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_softmax_and_dropout_equal_torchs(
    build: str, shape: tuple[int, int], dtype: torch.dtype, rate: float
) -> None:
    torch.manual_seed(0)
    draws, scale = dropout.Draws(rate, 3, dtype), 0.3
    given = (torch.randn(shape) * 5).to(dtype)
    scores, dropped = given.clone(), torch.empty_like(given)
    native.softmax_dropout(scores, dropped, scale, draws.drawn(scores.shape))
    weights = torch.softmax(given.float() * scale, -1)
    wanted = draws.drop(weights.to(dtype), draws.numbers(scores.shape)).float() * draws.scale
    near(scores, weights, dtype)
    near(dropped, wanted, dtype)
    assert torch.equal(dropped == 0, wanted == 0)
    alone = given.clone()
    native.softmax_dropout(alone, alone, scale, draws.drawn(scores.shape))
    assert torch.equal(alone, dropped)

    grad = torch.randn(shape).to(dtype)
    leaf = given.float().requires_grad_()
    mask = (wanted != 0) * draws.scale
    (torch.softmax(leaf * scale, -1) * mask).backward(grad.float())
    native.softmax_dropout_backward(scores, dropped, grad, scale, draws.scale)
    near(grad, leaf.grad, dtype)


def test_rows_of_a_softmax_that_are_far_apart_stay_finite(build: str) -> None:
    scores = torch.tensor([[1e4, -1e4, 0.0], [-3e38, -3e38, -3e38], [float("-inf"), 0.0, 0.0]])
    wanted = torch.softmax(scores, -1)
    native.softmax_dropout(scores, scores, 1.0, native.Dropout(None, 0, 0, 1.0))
    torch.testing.assert_close(scores, wanted)


def test_what_is_not_a_number_stays_so(build: str) -> None:
    scores = torch.tensor([[0.0, float("nan")], [0.0, float("inf")]])
    for dtype in DTYPES:
        given = scores.to(dtype).clone()
        native.softmax_dropout(given, given, 1.0, native.Dropout(None, 0, 0, 1.0))
        assert given.isnan().all()
        out = torch.empty_like(given)
        native.norm_gelu(scores.to(dtype), native.Norm(None, None, 0.0), out)
        assert out[0, 1].isnan() and out[0, 0] == 0 and out[1, 1] == float("inf")


@pytest.mark.parametrize("out_dtype", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normed", [True, False])
def test_norm_and_gelu_equal_torchs(
    build: str, shape: tuple[int, int], dtype: torch.dtype, out_dtype: torch.dtype, normed: bool
) -> None:
    torch.manual_seed(1)
    x = (torch.randn(shape) * 2 + 1).to(dtype)
    weight, bias = torch.rand(shape[1]) + 0.5, torch.randn(shape[1])
    norm = native.Norm(weight, bias, 1e-5) if normed else native.Norm(None, None, 0.0)
    out, grad = torch.empty(shape, dtype=out_dtype), torch.randn(shape).to(out_dtype)
    native.norm_gelu(x, norm, out)

    leaves = [each.clone().requires_grad_() for each in (x.float(), weight, bias)]
    inner = torch.nn.functional.layer_norm(leaves[0], shape[1:], *leaves[1:]) if normed else leaves[0]
    wanted = torch.nn.functional.gelu(inner)
    wanted.backward(grad.float())
    near(out, wanted.detach(), out_dtype)
    below, sums = torch.empty_like(x), torch.ones(2, shape[1])
    into = native.Norm(sums[0], sums[1], 0.0) if normed else norm
    native.norm_gelu_backward(x, norm, grad, below, into)
    near(below, leaves[0].grad, dtype)
    if normed:
        torch.testing.assert_close(sums[0] - 1, leaves[1].grad, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sums[1] - 1, leaves[2].grad, rtol=1e-4, atol=1e-4)


def test_gelu_is_right_everywhere(build: str) -> None:
    x = torch.linspace(-12, 12, 100_001)
    out, slope = torch.empty_like(x), torch.empty_like(x)
    none = native.Norm(None, None, 0.0)
    native.norm_gelu(x, none, out)
    native.norm_gelu_backward(x, none, torch.ones_like(x), slope, none)
    leaf = x.double().requires_grad_()
    wanted = torch.nn.functional.gelu(leaf)
    wanted.sum().backward()
    assert float((out - wanted.detach()).abs().max()) < 3e-6
    assert float((slope - leaf.grad).abs().max()) < 1e-6


def test_rounding_is_torchs(build: str) -> None:
    torch.manual_seed(2)
    # x · Φ(x) = x there, so that nothing but rounding is seen
    x = torch.rand(10_000) * 1e4 + 10
    out = torch.empty(10_000, dtype=torch.bfloat16)
    native.norm_gelu(x, native.Norm(None, None, 0.0), out)
    assert torch.equal(out, x.bfloat16())


def test_nothing_is_written_beyond_the_end(build: str) -> None:
    for count in (1, 15, 17, 31):
        room = torch.full((3, 64), 7.0)
        out = room.view(-1)[64 : 64 + count]
        native.norm_gelu(torch.zeros(count), native.Norm(None, None, 0.0), out)
        assert not out.any() and (room[0] == 7).all() and (room.view(-1)[64 + count :] == 7).all()
        numbers = native.random_numbers(count, 5)
        assert numbers is not None and torch.equal(numbers, native.random_numbers(100, 5)[:count])


def test_random_numbers_are_even_and_seeds_have_their_own(build: str) -> None:
    numbers = [native.random_numbers(2**20, seed).to(torch.int32) + 2**15 for seed in (0, 1, 2**62)]
    for drawn in numbers:
        counts = torch.bincount(drawn >> 8, minlength=256).float()
        # 255 degrees of freedom: five standard deviations of chi squared
        assert abs(float(((counts - 4096) ** 2 / 4096).sum()) - 255) < 5 * (2 * 255) ** 0.5
    for a, b in zip(numbers, numbers[1:] + numbers[:1], strict=True):
        assert abs(float((a == b).float().mean()) - 2**-16) < 5 * 2**-8 / 2**10
        assert abs(float(torch.corrcoef(torch.stack([a.float(), b.float()]))[0, 1])) < 5 / 2**10
    pair = torch.stack([numbers[0][:-1].float(), numbers[0][1:].float()])
    assert abs(float(torch.corrcoef(pair)[0, 1])) < 5 / 2**10


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MTSSL_NATIVE", "0")
    native.library.cache_clear()
    assert native.library() is None and not native.ready(torch.zeros(3))
    assert native.random_numbers(4, 0) is None
    native.library.cache_clear()


def test_a_build_of_another_source_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MTSSL_NATIVE", raising=False)

    class Other:
        def source(self) -> int:
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Other())
    monkeypatch.setattr(Path, "exists", lambda _: True)
    native.library.cache_clear()
    with pytest.warns(UserWarning, match="install the package again"):
        assert native.library() is None
    native.library.cache_clear()


def test_what_it_cannot_take_goes_to_torch() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native.ready(torch.zeros(2, dtype=torch.float16))
        assert not native.ready(torch.zeros(4, 4).t()[:2])
