"""Margin InfoNCE and InfoNCE against hand arithmetic, a slow oracle and their symmetries."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import contrastive_oracle as oracle
from torch import Tensor

from fairseq_mtssl.errors import PairCountError
from fairseq_mtssl.modules.contrastive import info_nce, margin_info_nce, same_image_mask, tied_loss

# float32 softmax over few rows with scores below about 30: rounding stays under 1e-5 of the loss.
TOLERANCE: dict[str, Any] = {"rel": 1e-5, "abs": 1e-5}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Speech (B, D), image (B, D), image ids (B,), with repeated images, B from 1 to 7."""
    size = draw(st.integers(1, 7))
    dim = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    spread = draw(st.sampled_from([0.0, 0.1, 1.0, 3.0]))
    speech, image = spread * torch.randn(2, size, dim, generator=generator)
    ids = torch.tensor(draw(st.lists(st.integers(0, 3), min_size=size, max_size=size)))
    return speech, image, ids


def test_margin_loss_of_two_pairs_is_the_hand_computed_one() -> None:
    speech = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    image = torch.tensor([[1.0, 1.0], [0.0, 1.0]])
    # S = image · speechᵀ = [[1, 2], [0, 2]]; margin 1 on the diagonal: [[0, 2], [0, 1]].
    rows = (math.log(1 + math.e**2) - 0 + math.log(1 + math.e) - 1) / 2
    columns = (math.log(1 + 1) - 0 + math.log(math.e**2 + math.e) - 1) / 2
    assert margin_info_nce(speech, image, 1.0).item() == pytest.approx(rows + columns, **TOLERANCE)


@given(batches(), st.sampled_from([0.0, 0.5, 1.0, 2.0]))
@settings(deadline=None)
def test_margin_loss_equals_the_slow_oracle(batch: tuple[Tensor, Tensor, Tensor], margin: float) -> None:
    speech, image, ids = batch
    got = margin_info_nce(speech, image, margin, same_image_mask(ids)).item()
    wanted = oracle.margin_info_nce(speech.tolist(), image.tolist(), margin, ids.tolist())
    assert got == pytest.approx(wanted, **TOLERANCE)


@given(batches(), st.sampled_from([0.1, 1.0, 5.0]))
@settings(deadline=None)
def test_scaled_loss_equals_the_slow_oracle(batch: tuple[Tensor, Tensor, Tensor], scale: float) -> None:
    speech, image, ids = batch
    wanted = oracle.info_nce(speech.tolist(), image.tolist(), scale, ids.tolist())
    for given_scale in (scale, torch.tensor(scale)):
        got = info_nce(speech, image, given_scale, same_image_mask(ids)).item()
        # five times the scores, five times the rounding
        assert got == pytest.approx(wanted, rel=1e-5, abs=5e-5)


@given(batches(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_order_of_the_pairs_does_not_matter(batch: tuple[Tensor, Tensor, Tensor], random: object) -> None:
    speech, image, ids = batch
    order = list(range(len(ids)))
    random.shuffle(order)  # type: ignore[attr-defined]
    before = margin_info_nce(speech, image, 1.0, same_image_mask(ids)).item()
    after = margin_info_nce(speech[order], image[order], 1.0, same_image_mask(ids[order])).item()
    assert after == pytest.approx(before, **TOLERANCE)


@given(batches())
@settings(deadline=None)
def test_both_directions_weigh_the_same(batch: tuple[Tensor, Tensor, Tensor]) -> None:
    speech, image, ids = batch
    mask = same_image_mask(ids)
    assert margin_info_nce(image, speech, 1.0, mask).item() == pytest.approx(
        margin_info_nce(speech, image, 1.0, mask).item(), **TOLERANCE
    )


@given(batches())
@settings(deadline=None)
def test_loss_is_never_negative_grows_with_the_margin_and_shrinks_with_the_mask(
    batch: tuple[Tensor, Tensor, Tensor],
) -> None:
    speech, image, ids = batch
    masked = margin_info_nce(speech, image, 1.0, same_image_mask(ids)).item()
    unmasked = margin_info_nce(speech, image, 1.0).item()
    without_margin = margin_info_nce(speech, image, 0.0).item()
    assert -1e-6 <= masked <= unmasked + 1e-5
    assert without_margin <= unmasked + 1e-5


@pytest.mark.parametrize("size", [2, 3, 64])
def test_ties_give_chance_in_both_directions(size: int) -> None:
    same = torch.ones(size, 8)
    chance = 2 * math.log(size)
    assert margin_info_nce(same, same, 0.0).item() == pytest.approx(chance, **TOLERANCE)
    assert info_nce(same, same, 7.0).item() == pytest.approx(chance, **TOLERANCE)


def test_ties_under_a_margin_lose_by_hand_arithmetic() -> None:
    zeros = torch.zeros(64, 8)
    wanted = 2 * (math.log(63 + math.exp(-1)) + 1)
    assert margin_info_nce(zeros, zeros, 1.0).item() == pytest.approx(wanted, **TOLERANCE)


def test_chance_of_64_pairs_is_8_3_nats() -> None:
    zeros = torch.zeros(64, 8)
    assert round(margin_info_nce(zeros, zeros, 0.0).item(), 1) == 8.3


@pytest.mark.parametrize("masked", [False, True])
def test_batch_of_one_costs_nothing(masked: bool) -> None:
    speech, image = torch.randn(2, 1, 8).requires_grad_().unbind()
    mask = torch.ones(1, 1, dtype=torch.bool) if masked else None
    assert margin_info_nce(speech, image, 1.0, mask).item() == 0
    assert info_nce(speech, image, 10.0, mask).item() == 0


def test_a_batch_of_one_image_costs_nothing_and_moves_nothing() -> None:
    speech = torch.randn(5, 8, requires_grad=True)
    image = torch.randn(5, 8, requires_grad=True)
    loss = margin_info_nce(speech, image, 1.0, same_image_mask(torch.zeros(5, dtype=torch.long)))
    loss.backward()
    assert loss.item() == 0
    assert speech.grad is not None and not speech.grad.any()
    assert image.grad is not None and not image.grad.any()


def test_captions_of_the_same_image_are_no_negatives_by_zero_gradient() -> None:
    speech = torch.randn(4, 8)
    image = torch.randn(4, 8, requires_grad=True)
    ids = torch.tensor([0, 1, 0, 2])
    # the gradient of image 0 is a mix of the speech rows it is compared with: 2 must be missing
    margin_info_nce(speech, image, 1.0, same_image_mask(ids)).backward()
    scores = image.detach() @ speech.T - torch.eye(4)
    scores[0, 2] = scores[2, 0] = -math.inf
    rows = (scores.softmax(1) + scores.softmax(0) - 2 * torch.eye(4)) / 4
    assert rows[0, 2] == 0
    assert image.grad is not None
    assert torch.allclose(image.grad, rows @ speech, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_compared_in_float32(dtype: torch.dtype) -> None:
    # 100 · 100 · 16 = 160,000 overflows float16, whose largest number is 65,504.
    speech = (100 * torch.eye(4, 16)).to(dtype).requires_grad_()
    speech_rows = speech + 100
    image = torch.full((4, 16), 100.0).to(dtype)
    loss = margin_info_nce(speech_rows, image, 1.0)
    loss.backward()
    wanted = oracle.margin_info_nce(speech_rows.tolist(), image.tolist(), 1.0, range(4))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(wanted, rel=1e-5)
    assert speech.grad is not None and speech.grad.isfinite().all()


def test_autocast_does_not_lower_the_precision() -> None:
    speech, image = torch.randn(2, 6, 32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = margin_info_nce(speech, image), info_nce(speech, image, 3.0)
    assert torch.equal(
        torch.stack(inside), torch.stack([margin_info_nce(speech, image), info_nce(speech, image, 3.0)])
    )


def test_a_learned_scale_gets_its_gradient() -> None:
    speech, image = torch.nn.functional.normalize(torch.randn(2, 6, 8), dim=-1)
    scale = torch.tensor(10.0, requires_grad=True)
    info_nce(speech, image, scale).backward()
    step = 0.05
    slope = (info_nce(speech, image, 10 + step) - info_nce(speech, image, 10 - step)) / (2 * step)
    # central difference: error in step² plus float32 rounding (1e-7 · loss / step)
    assert scale.grad is not None and scale.grad.item() == pytest.approx(slope.item(), abs=1e-3)


def test_unpaired_rows_are_refused() -> None:
    with pytest.raises(PairCountError, match="3 speech rows for 4 image rows"):
        margin_info_nce(torch.zeros(3, 2), torch.zeros(4, 2))
    with pytest.raises(PairCountError):
        info_nce(torch.zeros(0, 2), torch.zeros(0, 2), 1.0)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 2\), wanted \(3, 3\)"):
        margin_info_nce(torch.zeros(3, 2), torch.zeros(3, 2), 1.0, torch.ones(2, 2, dtype=torch.bool))


@pytest.mark.parametrize("margin", [0.0, 1.0])
def test_the_tied_loss_is_that_of_embeddings_that_are_all_the_same(margin: float) -> None:
    same = same_image_mask(torch.tensor([0, 1, 2, 2]))
    known = tied_loss(same, margin).item()
    # two rows with three negatives, two with two
    rows = [math.log(1 + negatives * math.exp(margin)) for negatives in (3, 3, 2, 2)]
    assert known == pytest.approx(2 * sum(rows) / 4)
    constant = torch.ones(4, 5)
    assert margin_info_nce(constant, constant, margin, same).item() == pytest.approx(known)


def test_the_tied_loss_of_different_images_is_twice_the_logarithm_of_their_number() -> None:
    assert tied_loss(torch.eye(64, dtype=torch.bool)).item() == pytest.approx(2 * math.log(64))
