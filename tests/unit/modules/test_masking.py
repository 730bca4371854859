"""Span masks: reproducible, inside the clip, as many as asked."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from fairseq.data.data_utils import compute_mask_indices
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mtssl.modules.masking import Masking

MASKING = Masking(prob=0.65, length=10, seed=1)
FREE = replace(MASKING, same_count=False)
UPDATE = 7


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), span=st.integers(1, 12), same=st.booleans()
)
def test_nothing_past_the_end_is_masked_and_one_frame_always_stays(
    lengths: list[int], span: int, same: bool
) -> None:
    masking = Masking(prob=0.65, length=span, seed=0, same_count=same)
    mask = masking.draw(torch.tensor(lengths), 64, torch.arange(len(lengths)), update=3)
    for row, frames in zip(mask, lengths, strict=True):
        assert not row[frames:].any()
        assert int(row.sum()) < frames or frames == 1
        if not same:
            assert bool(row.any()) == (frames > 1)


def test_the_same_seed_update_and_id_give_the_same_mask_whatever_the_batch() -> None:
    lengths, ids = torch.tensor([200, 150, 90]), torch.tensor([4, 8, 15])
    together = FREE.draw(lengths, 200, ids, UPDATE)
    for row in range(3):
        alone = FREE.draw(lengths[row : row + 1], 200, ids[row : row + 1], UPDATE)
        assert torch.equal(alone[0], together[row])
    other = FREE.draw(lengths, 200, ids, UPDATE + 1)
    assert not torch.equal(other, together)


def test_every_row_keeps_the_fewest_masked_frames_of_the_batch() -> None:
    lengths = torch.tensor([200, 60, 120])
    free = FREE.draw(lengths, 200, torch.arange(3), UPDATE)
    same = MASKING.draw(lengths, 200, torch.arange(3), UPDATE)
    assert same.sum(1).tolist() == [int(free.sum(1).min())] * 3
    assert not (same & ~free).any()


def test_one_short_clip_does_not_shrink_the_others_without_same_count() -> None:
    lengths = torch.tensor([500, 12])
    counts = FREE.draw(lengths, 500, torch.arange(2), UPDATE).sum(1)
    assert counts[0] > 150 and 0 < counts[1] < 12


def test_as_many_frames_are_masked_as_by_fairseq() -> None:
    rows = 400
    theirs = compute_mask_indices((rows, 150), None, 0.65, 10, min_masks=2, require_same_masks=False).mean()
    ours = FREE.draw(torch.full((rows,), 150), 150, torch.arange(rows), UPDATE)
    # Means of 400 rows each with a standard deviation of about 0.04: five standard errors of the difference.
    assert abs(ours.float().mean().item() - theirs) < 0.015
    np.testing.assert_allclose(ours.float().mean().item(), 0.49, atol=0.04)


def test_the_first_view_is_drawn_as_ever_and_each_other_one_differently() -> None:
    lengths, ids = torch.tensor([30, 24]), torch.tensor([4, 8])
    masking = Masking(prob=0.4, length=4, seed=1)
    views = [masking.draw(lengths, 30, ids, UPDATE, view) for view in range(3)]
    frames = [row.nonzero()[:, 0].tolist() for row in views[0]]
    # pinned: a training that is resumed with a later version draws what it drew
    assert frames == [[4, 5, 6, 7, 8, 9, 13, 14], [12, 13, 14, 15, 16, 17, 18, 19]]
    assert torch.equal(masking.draw(lengths, 30, ids, UPDATE), views[0])
    assert not any(torch.equal(a, b) for a, b in ((views[0], views[1]), (views[1], views[2])))
    assert torch.equal(masking.draw(lengths, 30, ids, UPDATE, view=2), views[2])
