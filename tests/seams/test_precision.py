"""model.precision through fairseq's trainer, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import make_corpus, make_labels, train_mt4ssl, weights


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, Path]]:
    """Validation loss and checkpoint after eight updates in each precision."""
    from fairseq_cli import train as fairseq_train

    folder = tmp_path_factory.mktemp("precision")
    data = make_corpus(folder / "data")
    labels = make_labels(folder / "labels", data)
    found: dict[str, tuple[float, Path]] = {}
    seen: list[dict[str, Any]] = []
    stats = fairseq_train.get_valid_stats
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fairseq_train, "get_valid_stats", lambda *args: seen.append(stats(*args)) or seen[-1])
        for precision in ("float32", "bfloat16"):
            out = train_mt4ssl(data, folder / precision, labels, model__precision=precision)
            found[precision] = (float(seen[-1]["loss"]), out / "checkpoint_last.pt")
    return found


def test_training_in_bfloat16_gives_the_loss_of_32_bits_within_a_per_cent(
    runs: dict[str, tuple[float, Path]],
) -> None:
    assert runs["bfloat16"][0] == pytest.approx(runs["float32"][0], rel=0.01)


def test_weights_teacher_and_optimizer_are_saved_in_32_bits(runs: dict[str, tuple[float, Path]]) -> None:
    path = runs["bfloat16"][1]
    assert {weight.dtype for weight in weights(path).values() if weight.is_floating_point()} == {
        torch.float32
    }
    state = torch.load(path, map_location="cpu", weights_only=False)["last_optimizer_state"]["state"]
    moments = [each for entry in state.values() for each in entry.values() if torch.is_tensor(each)]
    assert moments and {each.dtype for each in moments if each.dim() > 0} == {torch.float32}


def test_it_did_train_in_another_precision(runs: dict[str, tuple[float, Path]]) -> None:
    narrow, wide = (weights(runs[name][1]) for name in ("bfloat16", "float32"))
    assert any(not torch.equal(narrow[name], wide[name]) for name in wide)
