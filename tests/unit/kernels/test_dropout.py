"""Dropout from 16 random bits: its rate, its scale, its gradient."""

from __future__ import annotations

import pytest
import torch

from fairseq_mtssl.kernels.dropout import MAX_RATE, DropoutMask, dropout

pytestmark = pytest.mark.usefixtures("either_way")

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rate", [0.001, 0.1, 0.3, MAX_RATE])
def test_as_many_are_dropped_as_the_rate_says(dtype: torch.dtype, rate: float) -> None:
    draws = DropoutMask(rate, 7, dtype)
    x = torch.ones(1000, 1000, dtype=dtype)
    dropped = draws.drop(x, draws.numbers(x.shape))
    assert set(dropped.unique().tolist()) == {0.0, 1.0}
    share = float((dropped == 0).float().mean())
    # five standard deviations of a million draws, and the rounding to 2⁻¹⁶
    assert abs(share - rate) < 5 * (rate * (1 - rate) / 1e6) ** 0.5 + 2**-16
    assert draws.scale == pytest.approx(1 / (1 - rate), abs=1e-4)
    assert x.all()  # in place only where asked


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_of_the_65536_patterns_is_kept_or_dropped_as_counted(dtype: torch.dtype) -> None:
    draws = DropoutMask(0.1, 0, dtype)
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = patterns
    kept = draws.drop(torch.ones(2**16, dtype=dtype), numbers)
    assert int((kept == 0).sum()) == round(0.1 * 2**16)


def test_the_gradient_is_zero_where_dropped_and_scaled_elsewhere() -> None:
    torch.manual_seed(3)
    x = torch.randn(50, 40, requires_grad=True)
    out = dropout(x, 0.25, training=True)
    kept = out != 0
    torch.testing.assert_close(out[kept], x[kept] / 0.75, rtol=1e-4, atol=0)
    out.backward(torch.full_like(out, 2.0))
    torch.testing.assert_close(x.grad, torch.where(kept, 2 / 0.75, 0.0), rtol=1e-4, atol=0)
    assert 300 < int((~kept).sum()) < 700


def test_the_seed_of_torch_decides_and_calls_differ() -> None:
    x = torch.ones(300)
    torch.manual_seed(3)
    first, second = dropout(x, 0.5 - 0.02, True), dropout(x, 0.48, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.48, True), first)
    assert not torch.equal(first, second)


def test_nothing_is_dropped_outside_training_or_at_rate_0() -> None:
    x = torch.randn(4)
    assert dropout(x, 0.3, training=False) is x
    assert dropout(x, 0.0, training=True) is x


def test_columns_and_neighbours_are_independent() -> None:
    draws = DropoutMask(0.3, 1, torch.bfloat16)
    x = torch.ones(4000, 64, dtype=torch.bfloat16)
    gone = (draws.drop(x, draws.numbers(x.shape)) == 0).float()
    correlation = torch.corrcoef(gone.T) - torch.eye(64)
    assert float(correlation.abs().max()) < 5 / 4000**0.5
