"""model.precision through fairseq's trainer, on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training import train_mt4ssl, weights


@pytest.fixture(scope="module")
def runs(
    corpus: Path, labels: Path, mt4ssl_run: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The checkpoint after eight updates in each precision."""
    narrow = train_mt4ssl(corpus, tmp_path_factory.mktemp("narrow"), labels, model__precision="bfloat16")
    return {"float32": mt4ssl_run / "checkpoint_last.pt", "bfloat16": narrow / "checkpoint_last.pt"}


def validation_loss(checkpoint: Path) -> float:
    return float(torch.load(checkpoint, map_location="cpu", weights_only=False)["extra_state"]["val_loss"])


def test_training_in_bfloat16_gives_the_loss_of_32_bits_within_a_per_cent(
    runs: dict[str, Path],
) -> None:
    losses = {precision: validation_loss(checkpoint) for precision, checkpoint in runs.items()}
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.01)


def test_weights_teacher_and_optimizer_are_saved_in_32_bits(runs: dict[str, Path]) -> None:
    path = runs["bfloat16"]
    assert {weight.dtype for weight in weights(path).values() if weight.is_floating_point()} == {
        torch.float32
    }
    state = torch.load(path, map_location="cpu", weights_only=False)["last_optimizer_state"]["state"]
    moments = [each for entry in state.values() for each in entry.values() if torch.is_tensor(each)]
    assert moments and {each.dtype for each in moments if each.dim() > 0} == {torch.float32}


def test_weights_trained_in_bfloat16_differ_from_those_of_32_bits(runs: dict[str, Path]) -> None:
    narrow, wide = (weights(runs[name]) for name in ("bfloat16", "float32"))
    assert any(not torch.equal(narrow[name], wide[name]) for name in wide)
