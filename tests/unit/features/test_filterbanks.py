"""Log-mel filterbanks as features: what a model on filterbanks is given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fairseq_mtssl.features.spectral import LogMel
from fairseq_mtssl.modules.fbank_features import FbankFeatures


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(samples).astype(np.float32)


def test_frames_come_every_10_ms_with_mean_0_and_variance_1_in_each_bin() -> None:
    [frames] = LogMel().extract([noise(16_000)])
    assert frames.shape == (98, 1, 80) and frames.dtype == np.float32
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    # a thousandth is added to the variance before it divides
    np.testing.assert_allclose(frames.var(0), 1, atol=0.01)


def test_they_are_what_the_feature_extractor_puts_through_its_convolutions() -> None:
    wav, seen = noise(8000), []
    extractor = FbankFeatures([(80, 400, 160), (4, 5, 2, 2)], conv_bias=True)
    extractor.convs[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    extractor(torch.from_numpy(wav)[None], torch.tensor([8000]))
    # (1, 80, T) -> (T, 80)
    np.testing.assert_allclose(LogMel().extract([wav])[0][:, 0], seen[0][0].T.numpy(), atol=1e-5)


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (560, 2)])
def test_what_is_shorter_than_a_window_has_no_frames(samples, frames) -> None:
    assert LogMel().extract([noise(samples)])[0].shape == (frames, 1, 80)


def test_filterbanks_of_a_clip_do_not_depend_on_its_batch() -> None:
    alone = LogMel().extract([noise(5000)])[0]
    np.testing.assert_array_equal(LogMel().extract([noise(9000, 1), noise(5000)])[1], alone)
