"""From a pre-trained checkpoint and transcripts to a model that spells; exact resuming, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_corpora import make_corpus, write_transcripts
from tiny_recipes import TINY_CTC
from training import checkpoint_of, copy_as_last, different_weights, train, weights

from fairseq_mtssl.checkpoints import load_model
from fairseq_mtssl.cli.main import main
from fairseq_mtssl.errors import ConfigError, ManifestError


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus with transcripts."""
    data = make_corpus(tmp_path_factory.mktemp("spoken"))
    write_transcripts(data)
    return data


@pytest.fixture(scope="module")
def pretrained(mt4ssl_run: Path) -> Path:
    return mt4ssl_run / "checkpoint_last.pt"


def finetune(data: Path, out: Path, pretrained: Path, **overrides: Any) -> Path:
    settings = {**TINY_CTC, "model.pretrained": str(pretrained)}
    return train(data, out, "ctc_small", settings, **overrides)


@pytest.fixture(scope="module")
def tuned(spoken: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finetune(spoken, tmp_path_factory.mktemp("tuned"), pretrained)


def test_a_checkpoint_loads_with_neither_data_nor_pretrained_model(
    spoken: Path, pretrained: Path, tuned: Path, tmp_path: Path
) -> None:
    moved = shutil.copy(tuned / "checkpoint_best.pt", tmp_path / "alone.pt")
    hidden = pretrained.rename(pretrained.with_suffix(".away"))
    elsewhere = spoken.rename(spoken.with_name("elsewhere"))
    try:
        loaded = load_model(moved)
        assert loaded.task.target_dictionary.symbols[4:] == ["|", "A", "B", "C"]
        out = loaded.model(torch.randn(2, 6400), torch.arange(6400)[None] >= torch.tensor([[6400], [3200]]))
        probabilities = loaded.model.get_normalized_probs(out, log_probs=False)
        assert probabilities.shape == (19, 2, 8)
        # past the end of the shorter clip the blank is certain
        assert probabilities[9:, 1, 0].eq(1).all()
    finally:
        hidden.rename(pretrained)
        elsewhere.rename(spoken)


def test_the_encoder_starts_as_pretrained_and_frozen_updates_leave_it(
    spoken: Path, pretrained: Path, tmp_path: Path
) -> None:
    folder = finetune(
        spoken, tmp_path, pretrained, model__freeze_finetune_updates=10, optimizer__weight_decay=0.0
    )
    before, after = weights(pretrained), weights(folder / "checkpoint_last.pt")
    names = [name for name in after if name.startswith("speech_encoder.")]
    assert names and all(torch.equal(before[name], after[name]) for name in names)
    assert after["proj.bias"].abs().sum() > 0


def test_without_pretrained_weights_the_same_network_starts_anew(
    spoken: Path, pretrained: Path, tuned: Path, tmp_path: Path
) -> None:
    folder = finetune(spoken, tmp_path, pretrained, model__no_pretrained_weights=True)
    scratch, ours = weights(folder / "checkpoint_last.pt"), weights(tuned / "checkpoint_last.pt")
    assert {name: value.shape for name, value in scratch.items()} == {
        name: value.shape for name, value in ours.items()
    }
    name = "speech_encoder.encoder.layers.0.fc1.weight"
    assert not torch.allclose(scratch[name], ours[name], atol=1e-2)


def test_stopping_and_resuming_gives_the_uninterrupted_run(
    spoken: Path, pretrained: Path, tuned: Path, tmp_path: Path
) -> None:
    finetune(spoken, copy_as_last(checkpoint_of(tuned, 2), tmp_path), pretrained)
    assert different_weights(tmp_path, tuned) == []


def test_fewer_layers_can_be_kept(spoken: Path, pretrained: Path, tmp_path: Path) -> None:
    folder = finetune(spoken, tmp_path, pretrained, model__layers=1, optimization__max_update=2)
    names = weights(folder / "checkpoint_last.pt")
    assert any("encoder.layers.0." in name for name in names)
    assert not any("encoder.layers.1." in name for name in names)
    with pytest.raises(ConfigError, match="layers 9: wanted 1 to 3"):
        finetune(spoken, tmp_path / "more", pretrained, model__layers=9)


def test_faulty_transcripts_are_named_all_at_once(spoken: Path, pretrained: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(spoken, tmp_path / "data"))
    lines = (data / "train.ltr").read_text().splitlines()
    (data / "train.ltr").write_text("".join(f"{line}\n" for line in ["A Z |", "", *lines[2:-1]]))
    with pytest.raises(ManifestError) as caught:
        finetune(data, tmp_path / "out", pretrained)
    text = str(caught.value)
    assert "9 lines for the 10 utterances" in text and "line 1: 'Z'" in text and "line 2 is empty" in text


def test_utterances_too_short_to_spell_are_dropped_from_training(
    spoken: Path, pretrained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = Path(shutil.copytree(spoken, tmp_path / "data"))
    lines = (data / "train.ltr").read_text().splitlines()
    (data / "train.ltr").write_text("".join(f"{line}\n" for line in ["A " * 40 + "|", *lines[1:]]))
    finetune(data, tmp_path / "out", pretrained, optimization__max_update=2)
    assert "1 with fewer frames than symbols, of 10 (train_0.wav" in caplog.text


def test_no_pretrained_model_is_refused(spoken: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="model.pretrained"):
        train(spoken, tmp_path, "ctc_small", {**TINY_CTC, "model.pretrained": None})


def test_what_was_trained_is_transcribed_with_error_rates(
    spoken: Path, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["transcribe", "--checkpoint", str(tuned / "checkpoint_best.pt"), "--data", str(spoken)]
    assert main([*command, "--split", "test", "--json", str(tmp_path / "wer.json")]) == 0
    found = json.loads((tmp_path / "wer.json").read_text())
    assert (found["split"], found["utterances"], found["words"]) == ("test", 6, 6)
    assert found["cer"] >= 0 and f"{found['wer']:.1f}" in capsys.readouterr().out
