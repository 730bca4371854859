"""Online targets: normalised over valid frames, averaged over layers."""

from __future__ import annotations

import torch

from fairseq_mtssl.ssl.teacher_targets import instance_norm, layer_average


def test_without_padding_it_is_torchs_instance_norm() -> None:
    torch.manual_seed(0)
    x = 3.0 + 2.0 * torch.randn(2, 9, 5)
    expected = torch.nn.functional.instance_norm(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(instance_norm(x, torch.tensor([9, 9])), expected, atol=1e-6, rtol=1e-5)


def test_padding_changes_nothing_and_becomes_zero() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 9, 5)
    alone = instance_norm(x[1:, :6], torch.tensor([6]))
    x[1, 6:] = 1e4
    padded = instance_norm(x, torch.tensor([9, 6]))
    torch.testing.assert_close(padded[1:, :6], alone)
    assert not padded[1, 6:].any()


def test_a_clip_of_one_frame_has_targets_of_zero() -> None:
    assert not instance_norm(torch.randn(1, 1, 4), torch.tensor([1])).any()


def test_layers_count_equally_at_any_scale() -> None:
    torch.manual_seed(0)
    a, b = torch.randn(1, 20, 3), torch.randn(1, 20, 3)
    lengths = torch.tensor([20])
    torch.testing.assert_close(
        layer_average([a, b], lengths), layer_average([a, 100 * b], lengths), atol=1e-4, rtol=1e-4
    )


def test_half_precision_is_normalised_in_32_bits() -> None:
    x = (1000 + torch.randn(1, 50, 2)).half()
    assert layer_average([x], torch.tensor([50])).dtype == torch.float32
    assert abs(float(layer_average([x], torch.tensor([50])).var(1).mean()) - 1.0) < 0.05
