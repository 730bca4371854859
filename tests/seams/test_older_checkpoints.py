"""A run of earlier defaults (fused_adamw, linear label heads, raw waveforms) under those of today."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from training import copy_as_last, train, weights

from fairseq_mtssl.errors import ConfigError

OF_THEN = {"optimizer": "fused_adamw", "model__label_head": "linear", "model__normalize": False}
OF_TODAY = {"optimizer": "bert_adam"}


@pytest.fixture(scope="module")
def settings(labels: Path) -> dict[str, Any]:
    return {
        "recipe": "joint_simultaneous_small",
        "model__ssl": "hubert",
        "task__labels": [str(labels)],
        "task__lengths": ["rest"],
        "task__speed_perturb": 0.0,
        "checkpoint__save_interval_updates": 0,
    }


@pytest.fixture(scope="module")
def older(corpus: Path, settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("older")
    train(corpus, out, optimization__max_update=2, **settings, **OF_THEN)
    return out / "checkpoint_last.pt"


def test_going_on_with_the_defaults_of_today_names_every_setting_to_give(
    corpus: Path, settings: dict[str, Any], older: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        train(corpus, copy_as_last(older, tmp_path), optimization__max_update=3, **settings, **OF_TODAY)
    assert "checkpoint_last.pt" in str(caught.value)
    for setting in ("optimizer=fused_adamw", "model.label_head=linear", "model.normalize=false"):
        assert f"give {setting}" in str(caught.value)


def test_going_on_with_the_settings_that_are_named_goes_on(
    corpus: Path, settings: dict[str, Any], older: Path, tmp_path: Path
) -> None:
    out = train(corpus, copy_as_last(older, tmp_path), optimization__max_update=3, **settings, **OF_THEN)
    state = torch.load(out / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["num_updates"] == 3
    steps = {int(each["step"]) for each in state["last_optimizer_state"]["state"].values()}
    assert steps == {3}


def test_a_new_optimizer_begins_anew_where_that_is_asked_for(
    corpus: Path, settings: dict[str, Any], older: Path, tmp_path: Path
) -> None:
    with_reset = {**OF_THEN, "optimizer": "bert_adam", "checkpoint__reset_optimizer": True}
    out = train(corpus, copy_as_last(older, tmp_path), optimization__max_update=1, **settings, **with_reset)
    state = torch.load(out / "checkpoint_last.pt", weights_only=False)
    assert state["optimizer_history"][-1]["optimizer_name"] == "BertAdam"
    assert state["optimizer_history"][-1]["num_updates"] == 1


def test_a_new_training_starts_from_the_weights_alone_and_says_which_heads_are_new(
    corpus: Path, settings: dict[str, Any], older: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    still = {"optimization__lr": [0.0], "model__init_from": str(older), "optimization__max_update": 1}
    out = train(corpus, tmp_path, **settings, **OF_TODAY, **still)
    before, after = weights(older), weights(out / "checkpoint_last.pt")
    name = "speech_encoder.encoder.layers.0.fc1.weight"
    torch.testing.assert_close(after[name], before[name])
    assert any("linear label heads" in m and "model.label_head=linear" in m for m in caplog.messages)
    cfg = torch.load(out / "checkpoint_last.pt", weights_only=False)["cfg"]
    assert cfg["model"]["normalize"] is False  # as the checkpoint was trained
