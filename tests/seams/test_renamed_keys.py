"""Configuration keys under their earlier names: on the command line, in a YAML, in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq import checkpoint_utils, tasks
from fairseq.dataclass.initialize import add_defaults, hydra_init
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from tiny_encoder import FBANK
from training import train

from fairseq_mtssl.checkpoints import load_model
from fairseq_mtssl.renamed import RENAMED

GIVEN: dict[str, Any] = {"model.front_end": "fbank", "model.masked_views": 2, "task.repair": True}


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a training that was given every renamed key under its earlier name."""
    settings = {key.replace(".", "__"): value for key, value in GIVEN.items()}
    settings |= {"model__conv_feature_layers": FBANK, "model__mask_length": 2}
    once = {"task__schedule": "vgsplus", "task__lengths": ["rest"], "optimization__max_update": 1}
    return train(corpus, tmp_path_factory.mktemp("renamed"), **settings, **once) / "checkpoint_last.pt"


def test_every_renamed_key_is_tried_here() -> None:
    assert {key.partition(".")[2] for key in GIVEN} == set(RENAMED)


@pytest.mark.parametrize("key", GIVEN)
def test_a_value_under_the_earlier_name_is_used_and_saved_under_the_new_one(key: str, trained: Path) -> None:
    section, _, old = key.partition(".")
    loaded = load_model(trained)
    used = loaded.task.cfg if section == "task" else loaded.model.cfg
    assert used[RENAMED[old]] == GIVEN[key] and used[old] is None
    if section == "model":
        saved = torch.load(trained, weights_only=False)["cfg"]["model"]
        assert (saved[RENAMED[old]], saved[old]) == (GIVEN[key], None)


@pytest.mark.parametrize(("key", "value"), GIVEN.items())
def test_an_earlier_name_in_a_yaml_is_used_and_warned_of(
    key: str, value: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    section, _, old = key.partition(".")
    mine: dict[str, Any] = {"task": {"data": "d"}, "model": {"conv_feature_layers": FBANK}}
    mine["model"]["feature_extractor"] = "fbank"
    mine[section].pop(RENAMED[old], None)
    mine[section][old] = value
    recipe = "joint_sequential_waveform_small"
    OmegaConf.save({"defaults": [recipe, "_self_"], **mine}, tmp_path / "mine.yaml")
    hydra_init("mine")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(tmp_path), version_base="1.1"):
        cfg = compose("mine")
    add_defaults(cfg)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    used = task.cfg if section == "task" else model.cfg
    assert used[RENAMED[old]] == value
    assert f"{key} is now called {section}.{RENAMED[old]}" in caplog.text


@pytest.mark.parametrize("by_fairseq", [False, True])
def test_a_checkpoint_with_the_earlier_names_alone_loads(
    by_fairseq: bool, trained: Path, tmp_path: Path
) -> None:
    state = torch.load(trained, weights_only=False)
    for key, value in GIVEN.items():
        section, _, old = key.partition(".")
        del state["cfg"][section][RENAMED[old]]
        state["cfg"][section][old] = value
    path = tmp_path / "earlier.pt"
    torch.save(state, path)
    if by_fairseq:
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)])
    else:
        loaded = load_model(path)
        model, task = loaded.model, loaded.task
    assert model.speech_encoder.sizes.feature_extractor == "fbank"
    assert (model.cfg.clone_batch, task.cfg.re_pairing) == (2, True)
    for name, weight in model.state_dict().items():
        assert torch.equal(weight, state["model"][name]), name
