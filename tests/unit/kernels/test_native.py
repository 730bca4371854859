"""The C++ extension against torch's own functions, in each build that this processor can run."""

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

from fairseq_mtssl.kernels import dropout, native

HERE = Path(native.__file__).parent
BUILDS = ("avx512_bf16", "avx512", "avx2")
SHAPES = [(3, 16), (5, 2), (2, 7), (4, 33), (7, 512)]
HEADS = [
    (2, 5, 7, 8),
    (1, 1, 1, 1),
    (3, 49, 50, 64),
    (2, 97, 131, 64),
    (1, 60, 33, 20),
    (2, 48, 64, 80),
    (1, 50, 17, 3),
]
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


def test_the_extension_is_compiled_wherever_a_compiler_is() -> None:
    if native.instructions() not in BUILDS or shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no compiler here, or another processor")
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    assert (HERE / f"_native_{native.instructions()}{suffix}").exists()


def attended(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, rate: float = 0.0) -> list[Tensor]:
    """Output and gradients, of (heads, rows, d), in tensors that were full of something else."""
    mask = dropout.DropoutMask(rate, 3, q.dtype).compiled()
    out, grads = torch.full_like(q, torch.nan), tuple(torch.full_like(x, torch.nan) for x in (q, k, v))
    native.attend(q, k, v, out, mask)
    native.attend_backward(q, k, v, grad, grads, mask)
    return [out, *grads]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("heads, queries, keys, dim", HEADS)
def test_attention_and_its_gradients_equal_torchs(
    build: str, heads: int, queries: int, keys: int, dim: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    shapes = ((queries, heads, dim), (keys, heads, dim), (keys, heads, dim), (queries, heads, dim))
    q, k, v, grad = ((torch.randn(shape) * 1.5).to(dtype).transpose(0, 1) for shape in shapes)
    leaves = [each.double().requires_grad_() for each in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*leaves)
    wanted.backward(grad.double())
    found = attended(q, k, v, grad)
    limit = 2e-6 if dtype == torch.float32 else 8e-3
    for mine, theirs in zip(found, [wanted.detach(), *(leaf.grad for leaf in leaves)], strict=True):
        assert mine.dtype == dtype
        assert float((mine - theirs).norm()) <= limit * float(theirs.norm()) + 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_attentions_dropout_is_the_same_forward_and_backward(build: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k, v, grad = (torch.randn(2, 50, 64).to(dtype) for _ in range(4))
    identity = torch.eye(50, 64, dtype=dtype).repeat(2, 1, 1)
    shown = attended(q, k, identity, grad, 0.3)[0][..., :50].double()
    leaves = [each.double().requires_grad_() for each in (q, k, v)]
    weights = torch.softmax(leaves[0] @ leaves[1].mT / 8, -1)
    keep = torch.where(shown > 0, 1 / 0.7, 0.0)
    torch.testing.assert_close(shown, weights.detach() * keep, rtol=2e-2, atol=1e-4)
    assert 0.65 < float((keep > 0).double().mean()) < 0.75 and not torch.equal(keep[0], keep[1])
    wanted = (weights * keep) @ leaves[2]
    wanted.backward(grad.double())
    for mine, theirs in zip(
        attended(q, k, v, grad, 0.3), [wanted.detach(), *(leaf.grad for leaf in leaves)], strict=True
    ):
        limit = 1e-4 if dtype == torch.float32 else 1e-2  # the scale, rounded to 2⁻¹⁶
        assert float((mine - theirs).norm()) <= limit * float(theirs.norm())


def test_scores_that_are_far_apart_stay_finite(build: str) -> None:
    q, v = torch.tensor([[[1.0]]]), torch.tensor([[[1.0], [2.0], [4.0]]])
    k = torch.tensor([[[1e4], [-1e4], [0.0]], [[-3e38], [-3e38], [-3e38]], [[float("-inf")], [0.0], [0.0]]])
    for keys, wanted in zip(k, (1.0, 7 / 3, 3.0), strict=True):
        found = attended(q, keys[None], v, torch.ones_like(q))[0]
        assert found.item() == pytest.approx(wanted, rel=1e-5)


def test_what_is_not_a_number_stays_so(build: str) -> None:
    for dtype in DTYPES:
        for bad in (float("nan"), float("inf")):
            q, k = torch.ones(1, 1, 1, dtype=dtype), torch.tensor([[[0.0], [bad]]]).to(dtype)
            assert attended(q, k, torch.ones_like(k), q)[0].isnan().all()
        x = torch.tensor([[0.0, float("nan")], [0.0, float("inf")]]).to(dtype)
        out = torch.empty_like(x)
        native.norm_gelu(x, native.Norm(None, None, 0.0), out)
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
    for dtype in DTYPES:
        room = torch.full((8, 9, 3, 24), 7.0, dtype=dtype)
        inner = [room[i, 1:8, 1:2, 2:21].transpose(0, 1) for i in range(8)]  # (1, 7, 19)
        mask = dropout.DropoutMask(0.1, 3, dtype).compiled()
        native.attend(*inner[:4], mask)
        native.attend_backward(*inner[:4], (inner[5], inner[6], inner[7]), mask)
        kept = room.clone()
        for written in (3, 5, 6, 7):
            assert (inner[written] != 7).any()
            kept[written, 1:8, 1:2, 2:21] = 7.0
        assert (kept == 7).all()
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


def test_the_extension_can_be_switched_off_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_tensors_that_the_extension_cannot_take_go_to_torch_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not native.ready(torch.zeros(2, dtype=torch.float16))
        assert not native.ready(torch.zeros(4, 4).t()[:2])
        assert not native.takes(torch.zeros(1, 4, 4).mT)
