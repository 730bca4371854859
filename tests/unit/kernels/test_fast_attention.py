"""Attention a few heads at a time, against torch's and against an oracle with the same dropout."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fairseq_mtssl.kernels import fast_attention
from fairseq_mtssl.kernels.fast_attention import attention, cut_into_tiles

pytestmark = pytest.mark.usefixtures("either_way")

SHAPE = (37, 3, 4, 8)  # (T, B, H, d)


def inputs(shape: tuple[int, ...] = SHAPE) -> list[Tensor]:
    torch.manual_seed(0)
    return [torch.randn(shape, requires_grad=True) for _ in range(3)]


def plain(q: Tensor, k: Tensor, v: Tensor, lengths: list[int] | None, keep: Tensor | float = 1.0) -> Tensor:
    """keep: (B, H, T, S), what the weights are multiplied with."""
    scores = torch.einsum("tbhd,sbhd->bhts", q, k) / q.size(-1) ** 0.5
    if lengths is not None:
        past = torch.arange(k.size(0)) >= torch.tensor(lengths).view(-1, 1, 1, 1)
        scores = scores.masked_fill(past, float("-inf"))
    return torch.einsum("bhts,sbhd->tbhd", scores.softmax(-1) * keep, v)


@pytest.mark.parametrize("lengths", [None, [37, 20, 1]])
@pytest.mark.parametrize("tile", [1, 2**18])
@pytest.mark.parametrize("fused_frames", [0, 37])
def test_output_and_gradients_equal_plain_attention(
    lengths: list[int] | None, tile: int, fused_frames: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_attention, "TILE", tile)
    monkeypatch.setattr(fast_attention, "FUSED_FRAMES", fused_frames)
    given = inputs()
    out, expected = attention(*given, lengths, 0.0), plain(*given, lengths)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(SHAPE)
    found = torch.autograd.grad(out, given, weight)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, given, weight), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lengths", [None, [37, 20, 5]])
@pytest.mark.parametrize("tile", [1, 37 * 37 * 2])
def test_forward_and_backward_drop_the_same_weights_at_the_rate(
    lengths: list[int] | None, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast_attention, "new_seed", lambda: 11)
    monkeypatch.setattr(fast_attention, "TILE", tile)
    given, rate = inputs((37, 3, 4, 40)), 0.2
    weight = torch.randn(37, 3, 4, 40)
    identity = torch.eye(37, 40)[:, None, None].expand(37, 3, 4, 40).contiguous()
    with torch.no_grad():  # values that are the identity show the weights themselves, (T, B, H, S)
        shown = attention(given[0], given[1], identity, lengths, rate)[..., :37]
        whole = plain(given[0], given[1], identity, lengths)[..., :37]
    keep = torch.where(whole > 0, shown / whole, 0.0).permute(1, 2, 0, 3)
    values = keep[keep > 0]
    torch.testing.assert_close(values, torch.full_like(values, 1 / (1 - rate)), rtol=1e-4, atol=0)
    count = int((whole > 0).sum())
    assert abs(len(values) / count - (1 - rate)) < 5 * (rate * (1 - rate) / count) ** 0.5
    if lengths is None:  # no two heads and no two queries alike
        assert len({tuple(row) for row in (keep > 0).flatten(0, 2).tolist()}) == 3 * 4 * 37

    out, expected = attention(*given, lengths, rate), plain(*given, lengths, keep)
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(out, given, weight)
    for gradient, wanted in zip(found, torch.autograd.grad(expected, given, weight), strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-4, atol=1e-5)


def test_a_gradient_may_lie_in_any_order() -> None:
    given = inputs()
    weight = torch.randn(8, 4, 3, 37).permute(3, 2, 1, 0)
    torch.manual_seed(5)
    found = torch.autograd.grad(attention(*given, None, 0.2), given, weight)
    torch.manual_seed(5)
    wanted = torch.autograd.grad(attention(*given, None, 0.2), given, weight.contiguous())
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_is_dropped_does_not_depend_on_the_cores(threads: int) -> None:
    given, before = inputs(), torch.get_num_threads()
    torch.manual_seed(5)
    expected = attention(*given, None, 0.2)
    torch.set_num_threads(threads)
    try:
        torch.manual_seed(5)
        torch.testing.assert_close(attention(*given, None, 0.2), expected)
    finally:
        torch.set_num_threads(before)


def test_on_average_dropout_changes_nothing() -> None:
    given = inputs((12, 1, 64, 4))
    with torch.no_grad():
        expected = plain(*given, None)
        mean = sum(attention(*given, None, 0.1) for _ in range(300)) / 300
    assert float((mean - expected).abs().mean()) < 0.02 * float(expected.abs().mean())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_near(dtype: torch.dtype) -> None:
    given = inputs()
    half = [each.detach().to(dtype).requires_grad_() for each in given]
    out = attention(*half, [37, 20, 9], 0.0)
    assert out.dtype == dtype
    expected = plain(*given, [37, 20, 9])
    # bfloat16 keeps 8 bits
    torch.testing.assert_close(out.float(), expected.detach(), rtol=0.05, atol=0.05)
    out.sum().backward()
    expected.sum().backward()
    for mine, theirs in zip(half, given, strict=True):
        torch.testing.assert_close(mine.grad.float(), theirs.grad, rtol=0.1, atol=0.1)


def test_a_row_of_nothing_but_padding_gives_numbers() -> None:
    given = inputs()
    out = attention(*given, [37, 20, 0], 0.1)
    out.sum().backward()
    assert out.isfinite().all() and all(each.grad.isfinite().all() for each in given)


def test_padded_keys_get_no_gradient() -> None:
    given = inputs()
    attention(*given, [37, 20, 1], 0.1).square().sum().backward()
    for padded in (given[1], given[2]):
        assert not padded.grad[20:, 1].any() and not padded.grad[1:, 2].any()
        assert padded.grad[:20, 1].any()


def test_tiles_cover_every_head_once() -> None:
    x = torch.arange(5 * 2 * 3 * 4).view(5, 2, 3, 4)
    found = cut_into_tiles(x.shape, [5, 2])
    assert [tuple(each.queries(x).shape) for each in found] == [(3, 5, 4), (3, 5, 4)]
    assert [tuple(each.keys(x).shape) for each in found] == [(3, 5, 4), (3, 2, 4)]
    assert torch.equal(torch.cat([each.queries(x).flatten() for each in found]).sort()[0], x.flatten())
    found = cut_into_tiles(x.shape, [5, 2], at_once=2)
    assert [tuple(each.keys(x).shape) for each in found] == [(2, 5, 4), (1, 5, 4), (2, 2, 4), (1, 2, 4)]
    assert [each.number for each in found] == [0, 2, 3, 5]
