"""The contrastive branch, beside its parity with fairseq: ragged rows, negatives, rows without negatives."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2, Wav2vec2Options, chance_of, fingerprints


@pytest.fixture
def head() -> Wav2vec2:
    torch.manual_seed(0)
    options = Wav2vec2Options(
        final_dim=4,
        latent_vars=5,
        latent_groups=2,
        latent_temp=(2.0, 0.5, 0.9),
        num_negatives=30,
        logit_temp=0.1,
        dropout_features=0.0,
    )
    return Wav2vec2(options, SimpleNamespace(feature_dim=6, dim=8))


def test_negatives_come_from_other_masked_frames_of_the_same_row(head: Wav2vec2) -> None:
    counts = torch.tensor([3, 2, 5])
    starts = counts.cumsum(0) - counts
    count, start = counts.repeat_interleave(counts), starts.repeat_interleave(counts)
    chosen = head._draw_negatives(count, start)
    for frame in range(10):
        row = range(int(start[frame]), int(start[frame] + count[frame]))
        assert set(chosen[frame].tolist()) == set(row) - {frame}


def test_the_loss_of_ragged_rows_equals_a_loop_over_frames(
    head: Wav2vec2, monkeypatch: pytest.MonkeyPatch
) -> None:
    head.eval()
    torch.manual_seed(1)
    context, features = torch.randn(3, 7, 8), torch.randn(3, 7, 6)
    mask = torch.zeros(3, 7, dtype=torch.bool)
    mask[0, 1:6] = mask[1, 2:4] = mask[2, 6] = True  # the last row has no negative
    drawn: list[torch.Tensor] = []
    draw = Wav2vec2._draw_negatives
    monkeypatch.setattr(
        Wav2vec2,
        "_draw_negatives",
        lambda self, *args: drawn.append(draw(self, *args)) or drawn[-1],
    )
    output = head.contrast(context, features, mask)
    targets = head.project_q(head.quantizer(features[mask].unsqueeze(0))["x"][0])
    predictions = head.final_proj(context[mask])
    losses = []
    for frame in range(7):
        candidates = [targets[frame]]
        candidates += [
            targets[i] for i in drawn[0][frame].tolist() if not torch.equal(targets[i], targets[frame])
        ]
        cosines = torch.stack([torch.cosine_similarity(predictions[frame], c, dim=0) for c in candidates])
        losses.append(torch.logsumexp(cosines / 0.1, 0) - cosines[0] / 0.1)
    torch.testing.assert_close(output.loss, torch.stack(losses).mean())
    assert output.frames == 7


def test_a_batch_without_any_negative_has_a_loss_of_zero_that_still_backpropagates(
    head: Wav2vec2,
) -> None:
    context = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.zeros(2, 4, dtype=torch.bool)
    mask[:, 0] = True
    output = head.contrast(context, torch.randn(2, 4, 6), mask)
    output.loss.backward()
    assert output.frames == 0 and output.loss == 0
    assert context.grad is not None and not context.grad.any()


def test_fingerprints_are_equal_for_equal_vectors_only() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(50, 16)[torch.randint(50, (200,))]
    marks = fingerprints(vectors)
    same = (vectors.unsqueeze(0) == vectors.unsqueeze(1)).all(-1)
    assert torch.equal(marks.unsqueeze(0) == marks.unsqueeze(1), same)


def test_chance_is_one_over_the_number_of_different_candidates_and_the_loss_of_ties() -> None:
    target = torch.tensor([1.0, 1.0, 1.0])
    negatives = torch.tensor([[2.0, 3.0, 4.0, 5.0], [2.0, 2.0, 3.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    loss, accuracy = chance_of(target, negatives)
    # five different candidates; three (one negative equals the target, two are equal); the target alone
    assert accuracy.item() == pytest.approx((1 / 5 + 1 / 3 + 1) / 3)
    assert loss.item() == pytest.approx((math.log(5) + math.log(4) + 0) / 3)


def test_predictions_at_random_score_chance(head: Wav2vec2) -> None:
    """Predictions that are independent of the targets, over many masks."""
    head.eval()
    generator = torch.Generator().manual_seed(2)
    correct, chance = [], []
    for _ in range(60):
        context = torch.randn(4, 40, 8, generator=generator)
        features = torch.randn(4, 40, 6, generator=generator)
        mask = torch.rand(4, 40, generator=generator) < 0.5
        with torch.no_grad():
            output = head.contrast(context, features, mask)
        correct.append(output.accuracy)
        chance.append(output.chance_accuracy)
    # about 4,800 frames, with few codes and equal negatives: the standard error is at most 0.005
    assert torch.stack(correct).mean().item() == pytest.approx(torch.stack(chance).mean().item(), abs=0.02)
