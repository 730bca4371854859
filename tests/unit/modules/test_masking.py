"""Span masks: reproducible, inside the clip, as many as asked."""

from __future__ import annotations

import numpy as np
import torch
from fairseq.data.data_utils import compute_mask_indices
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mtssl.modules.masking import span_mask

OPTIONS = {"prob": 0.65, "length": 10, "seed": 1, "update": 7}


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=8), span=st.integers(1, 12), same=st.booleans()
)
def test_nothing_past_the_end_is_masked_and_one_frame_always_stays(
    lengths: list[int], span: int, same: bool
) -> None:
    mask = span_mask(
        torch.tensor(lengths),
        64,
        prob=0.65,
        length=span,
        same_count=same,
        seed=0,
        update=3,
        ids=torch.arange(len(lengths)),
    )
    for row, frames in zip(mask, lengths, strict=True):
        assert not row[frames:].any()
        assert int(row.sum()) < frames or frames == 1
        if not same:
            assert bool(row.any()) == (frames > 1)


def test_the_same_seed_update_and_id_give_the_same_mask_whatever_the_batch() -> None:
    lengths, ids = torch.tensor([200, 150, 90]), torch.tensor([4, 8, 15])
    together = span_mask(lengths, 200, same_count=False, ids=ids, **OPTIONS)
    for row in range(3):
        alone = span_mask(lengths[row : row + 1], 200, same_count=False, ids=ids[row : row + 1], **OPTIONS)
        assert torch.equal(alone[0], together[row])
    other = span_mask(lengths, 200, same_count=False, ids=ids, **{**OPTIONS, "update": 8})
    assert not torch.equal(other, together)


def test_every_row_keeps_the_fewest_masked_frames_of_the_batch() -> None:
    lengths = torch.tensor([200, 60, 120])
    free = span_mask(lengths, 200, same_count=False, ids=torch.arange(3), **OPTIONS)
    same = span_mask(lengths, 200, same_count=True, ids=torch.arange(3), **OPTIONS)
    assert same.sum(1).tolist() == [int(free.sum(1).min())] * 3
    assert not (same & ~free).any()


def test_one_short_clip_does_not_shrink_the_others_without_same_count() -> None:
    lengths = torch.tensor([500, 12])
    counts = span_mask(lengths, 500, same_count=False, ids=torch.arange(2), **OPTIONS).sum(1)
    assert counts[0] > 150 and 0 < counts[1] < 12


def test_as_many_frames_are_masked_as_by_fairseq() -> None:
    rows = 400
    theirs = compute_mask_indices((rows, 150), None, 0.65, 10, min_masks=2, require_same_masks=False).mean()
    ours = span_mask(torch.full((rows,), 150), 150, same_count=False, ids=torch.arange(rows), **OPTIONS)
    # Means of 400 rows each with a standard deviation of about 0.04: five standard errors of the difference.
    assert abs(ours.float().mean().item() - theirs) < 0.015
    np.testing.assert_allclose(ours.float().mean().item(), 0.49, atol=0.04)


def test_the_first_view_is_drawn_as_ever_and_each_other_one_differently() -> None:
    lengths, ids = torch.tensor([30, 24]), torch.tensor([4, 8])
    options = {**OPTIONS, "prob": 0.4, "length": 4}
    views = [span_mask(lengths, 30, ids=ids, view=view, **options) for view in range(3)]
    frames = [row.nonzero()[:, 0].tolist() for row in views[0]]
    # pinned: a training that is resumed with a later version draws what it drew
    assert frames == [[4, 5, 6, 7, 8, 9, 13, 14], [12, 13, 14, 15, 16, 17, 18, 19]]
    assert torch.equal(span_mask(lengths, 30, ids=ids, **options), views[0])
    assert not any(torch.equal(a, b) for a, b in ((views[0], views[1]), (views[1], views[2])))
    assert torch.equal(span_mask(lengths, 30, ids=ids, view=2, **options), views[2])
