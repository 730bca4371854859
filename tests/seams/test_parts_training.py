"""Frozen parts in real trainings: nothing moves them, and a resumed run goes on as if never stopped."""

from __future__ import annotations

from pathlib import Path

import torch
from training import make_corpus, train, weights


def test_a_frozen_part_stays_through_phases_and_a_resumed_run_ends_as_a_whole_one(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
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

    (middle,) = whole.glob("checkpoint_*_2.pt")
    (tmp_path / "again").mkdir()
    (tmp_path / "again" / "checkpoint_last.pt").write_bytes(middle.read_bytes())
    resumed = weights(train(corpus, tmp_path / "again", **settings) / "checkpoint_last.pt")
    assert all(torch.equal(resumed[name], value) for name, value in last.items())
