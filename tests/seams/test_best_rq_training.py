"""BEST-RQ by its recipe and beside grounding: no labels, no teacher, exact resuming, its quantizer kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from tiny_recipes import TINY_MT4SSL
from training import checkpoint_of, copy_as_last, different_weights, train, weights

from fairseq_mtssl.checkpoints import load_model

OPTIONS: dict[str, Any] = {"model.ssl_options": {"codes": 6}}
QUANTIZER = ("projections", "code_books")


def train_best_rq(corpus: Path, out: Path, **changes: Any) -> Path:
    of_20_bins = {"model.conv_feature_layers": "[(20,400,160)] + [(16,5,2,2)] * 2"}
    tiny = {**TINY_MT4SSL, **of_20_bins, "optimization.max_update": 3}
    return train(corpus, out, "best_rq_small", tiny, **OPTIONS, **changes)


def test_the_recipe_of_best_rq_trains_is_judged_and_resumes_exactly(
    corpus: Path, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO")
    straight = train_best_rq(corpus, tmp_path / "straight")
    assert re.search(r"Accuracy of labels [\d.]+ \(chance 0\.167, always the most frequent", caplog.text)
    resumed = train_best_rq(corpus, copy_as_last(checkpoint_of(straight, 1), tmp_path / "resumed"))
    assert different_weights(resumed, straight) == []
    wanted = weights(straight / "checkpoint_last.pt")
    assert not [name for name in wanted if name.startswith("ssl_head.teacher.")]
    first = weights(checkpoint_of(straight, 1))
    assert all(torch.equal(first[f"ssl_head.{name}"], wanted[f"ssl_head.{name}"]) for name in QUANTIZER)
    assert not torch.equal(first["ssl_head.label_heads.0.weight"], wanted["ssl_head.label_heads.0.weight"])
    model = load_model(straight / "checkpoint_last.pt").model
    assert model.ssl_head.options.codes == 6 and model.ssl_head.code_books.shape == (1, 6, 16)


def test_best_rq_trains_before_grounding(corpus: Path, tmp_path: Path) -> None:
    out = train(
        corpus,
        tmp_path,
        model__ssl="best_rq",
        **OPTIONS,
        task__lengths=["2 updates", "rest"],
        optimization__max_update=4,
        checkpoint__save_interval_updates=0,
    )
    assert weights(out / "checkpoint_last.pt")["ssl_head.code_books"].shape == (1, 6, 16)
