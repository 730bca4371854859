"""Frozen parts in real trainings: nothing moves them, and a resumed run goes on as if never stopped."""

from __future__ import annotations

from pathlib import Path

import torch
from training import checkpoint_of, copy_as_last, different_weights, train, weights


def test_a_frozen_part_stays_through_phases_and_a_resumed_run_ends_as_a_whole_one(
    corpus: Path, tmp_path: Path
) -> None:
    short = {"task__lengths": ["rest"], "checkpoint__save_interval_updates": 0}
    source = train(corpus, tmp_path / "source", "vgs_small", optimization__max_update=2, **short)
    settings = {
        "model__init_from": str(source / "checkpoint_last.pt"),
        "model__init_parts": ["image_encoder"],
        "model__frozen_parts": ["image_encoder"],
        "task__lengths": ["2 updates", "rest"],
        "optimization__max_update": 4,
    }
    whole = train(corpus, tmp_path / "whole", **settings)
    first, last = weights(source / "checkpoint_last.pt"), weights(whole / "checkpoint_last.pt")
    frozen = [name for name in last if name.startswith("image_")]
    assert frozen and all(torch.equal(first[name], last[name]) for name in frozen)
    heads = [name for name in last if name.startswith("speech_head.")]
    assert any(not torch.equal(first[name], last[name]) for name in heads)

    resumed = train(corpus, copy_as_last(checkpoint_of(whole, 2), tmp_path / "again"), **settings)
    assert different_weights(resumed, whole) == []
