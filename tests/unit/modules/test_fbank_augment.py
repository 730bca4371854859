"""Warped and masked filterbanks."""

from __future__ import annotations

import math

import pytest
import torch

from fairseq_mtssl.modules.fbank_augment import FbankAugment, warp_matrices
from fairseq_mtssl.modules.fbank_features import FbankFeatures
from fairseq_mtssl.modules.log_mel import log_mel

BINS = 80
LAYERS = [(BINS, 400, 160), (8, 5, 2, 2)]


def warp_matrix(factor: float, bins: int) -> torch.Tensor:
    return warp_matrices(torch.tensor([factor]), bins)[0]


def tone(hertz: float, seconds: float = 0.3) -> torch.Tensor:
    return torch.sin(2 * math.pi * hertz * torch.arange(int(16_000 * seconds)) / 16_000).unsqueeze(0)


def test_a_factor_of_one_changes_nothing() -> None:
    torch.testing.assert_close(warp_matrix(1.0, BINS), torch.eye(BINS), rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.2, 1.5])
def test_every_bin_is_a_mean_of_neighbours_in_order(factor: float) -> None:
    matrix = warp_matrix(factor, BINS)
    assert float(matrix.min()) >= 0
    torch.testing.assert_close(matrix.sum(0), torch.ones(BINS))
    places = (matrix * torch.arange(BINS)[:, None]).sum(0)
    assert (places.diff() >= -1e-4).all()


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_tone_moves_to_its_frequency_divided_by_the_factor(factor: float) -> None:
    warped = log_mel(tone(1000), BINS)[0] @ warp_matrix(factor, BINS)
    moved = log_mel(tone(1000 / factor), BINS)[0]
    # a bin is 60 Hz wide there: the nearest one or its neighbour
    assert abs(int(warped.mean(0).argmax()) - int(moved.mean(0).argmax())) <= 1


def test_clips_of_a_batch_are_warped_each_in_its_own_way_and_alike_from_the_same_seed() -> None:
    energies = log_mel(tone(1000).repeat(6, 1), BINS)
    torch.manual_seed(3)
    one = FbankAugment(warp=0.3).warped(energies)
    torch.manual_seed(3)
    assert torch.equal(one, FbankAugment(warp=0.3).warped(energies))
    assert len({int(row.mean(0).argmax()) for row in one}) > 2


def test_a_mask_hides_neighbouring_bins_at_most_so_many_in_all_frames() -> None:
    torch.manual_seed(0)
    energies = torch.randn(200, 5, BINS) + 10
    hidden = FbankAugment(mask_bins=12).masked(energies) == 0
    assert torch.equal(hidden.all(1), hidden.any(1))
    widths = hidden[:, 0].sum(1)
    assert (int(widths.min()), int(widths.max())) == (0, 12)
    for row in hidden[:, 0]:
        places = row.nonzero()[:, 0]
        assert len(places) == 0 or int(places[-1] - places[0]) + 1 == len(places)
    assert hidden[:, 0, 0].any() and hidden[:, 0, -1].any()


def test_features_are_augmented_in_training_alone() -> None:
    torch.manual_seed(0)
    plain = FbankFeatures(LAYERS, conv_bias=True)
    augmented = FbankFeatures(LAYERS, conv_bias=True, augment=FbankAugment(0.2, 20))
    augmented.load_state_dict(plain.state_dict())
    source, lengths = torch.randn(3, 8000), torch.tensor([8000, 6000, 4000])
    wanted = plain(source, lengths)
    assert not torch.allclose(augmented(source, lengths), wanted)
    assert torch.equal(augmented.eval()(source, lengths), plain.eval()(source, lengths))


@pytest.mark.parametrize(
    ("augment", "error"),
    [(FbankAugment(warp=0.7), "fbank_warp 0.7"), (FbankAugment(mask_bins=80), "fbank_mask_bins 80")],
)
def test_impossible_values_are_named(augment: FbankAugment, error: str) -> None:
    assert [error in each for each in augment.errors(BINS)] == [True]
