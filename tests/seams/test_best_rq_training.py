"""BEST-RQ by its recipe and beside grounding: no labels, no teacher, exact resuming, its quantizer kept."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import TINY_MT4SSL, make_corpus, train, weights

from fairseq_mtssl.checkpoints import load_model

OPTIONS: dict[str, Any] = {"model.ssl_options": {"codes": 6}}
QUANTIZER = ("projections", "code_books")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("corpus"))


def train_best_rq(corpus: Path, out: Path, **changes: Any) -> Path:
    tiny = {name: value for name, value in TINY_MT4SSL.items() if name != "model.conv_feature_layers"}
    tiny |= {"model.conv_feature_layers": "[(20,400,160)] + [(16,5,2,2)] * 2", "optimization.max_update": 3}
    return train(corpus, out, "best_rq_small", tiny, **OPTIONS, **changes)


def test_its_recipe_trains_is_judged_and_resumes_exactly(corpus: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level("INFO")
    straight = train_best_rq(corpus, tmp_path / "straight")
    assert re.search(r"Accuracy of labels [\d.]+ \(chance 0\.167, always the most frequent", caplog.text)
    (tmp_path / "resumed").mkdir()
    shutil.copy(next(straight.glob("checkpoint_1_1.pt")), tmp_path / "resumed" / "checkpoint_last.pt")
    resumed = train_best_rq(corpus, tmp_path / "resumed")
    found, wanted = (weights(folder / "checkpoint_last.pt") for folder in (resumed, straight))
    assert found.keys() == wanted.keys()
    assert [name for name in wanted if not torch.equal(found[name], wanted[name])] == []
    assert not [name for name in wanted if name.startswith("ssl_head.teacher.")]
    first = weights(straight / "checkpoint_1_1.pt")
    assert all(torch.equal(first[f"ssl_head.{name}"], wanted[f"ssl_head.{name}"]) for name in QUANTIZER)
    assert not torch.equal(first["ssl_head.label_heads.0.weight"], wanted["ssl_head.label_heads.0.weight"])
    model = load_model(straight / "checkpoint_last.pt").model
    assert model.ssl_head.options.codes == 6 and model.ssl_head.code_books.shape == (1, 6, 16)


def test_it_trains_before_grounding(corpus: Path, tmp_path: Path) -> None:
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
