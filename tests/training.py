"""Tiny trainings for the tests, by the code of the real commands in this process, and what they leave."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_recipes import TINY, TINY_MT4SSL, command_words


def compose_recipe(recipe: str, overrides: Sequence[str] = (), with_hydra: bool = False) -> Any:
    """A recipe's configuration by fairseq's own `hydra_init` and Hydra's plugins, in this process."""
    import fairseq_cli.hydra_train  # noqa: F401  what brings fairseq into the program
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_module
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    hydra_init(recipe)
    with initialize_config_module("fairseq.config", version_base="1.1"):
        return compose(recipe, list(overrides), return_hydra_config=with_hydra)


def compose(recipe: str, **overrides: Any) -> Any:
    """The same with all defaults and values filled in, as fairseq-hydra-train gives it to the training."""
    from fairseq.dataclass.initialize import add_defaults
    from omegaconf import OmegaConf

    cfg = compose_recipe(recipe, command_words(overrides))
    add_defaults(cfg)
    cfg = OmegaConf.create(OmegaConf.to_container(cfg, resolve=True, enum_to_str=True))
    OmegaConf.set_struct(cfg, True)
    return cfg


def train_mt4ssl(data: Path, out: Path, *labels: Path, **overrides: Any) -> Path:
    """`train` of the small recipe of mt4ssl at its smallest, with these label folders."""
    settings = {**TINY_MT4SSL, "task.labels": [str(folder) for folder in labels]}
    return train(data, out, "mt4ssl_small", settings, **overrides)


def train(
    data: Path,
    out: Path,
    recipe: str = "joint_sequential_small",
    tiny: dict[str, Any] | None = None,
    **overrides: Any,
) -> Path:
    """Train as fairseq-hydra-train does, in this process; dots of keys written as double underscores.

    tiny: settings that make the model small, `TINY` if not given.
    Returns: the folder of the checkpoints.
    """
    from fairseq import checkpoint_utils
    from fairseq.distributed.utils import call_main
    from fairseq_cli.train import main

    if hasattr(checkpoint_utils.save_checkpoint, "best"):  # fairseq keeps the best loss of the last run there
        del checkpoint_utils.save_checkpoint.best
    settings = {
        **(TINY if tiny is None else tiny),
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    cfg = compose(recipe, **{"task.data": str(data), "checkpoint.save_dir": str(out), **settings})
    torch.set_num_threads(1)
    call_main(cfg, main)
    return out


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """The model's weights in a checkpoint."""
    return torch.load(checkpoint, map_location="cpu", weights_only=False)["model"]


def checkpoint_of(folder: Path, update: int) -> Path:
    """The checkpoint after an update; fairseq names the one at the end of an epoch after the epoch."""
    for path in folder.glob("checkpoint*.pt"):
        if path.stem not in ("checkpoint_last", "checkpoint_best"):
            state = torch.load(path, map_location="cpu", weights_only=False)
            if state["optimizer_history"][-1]["num_updates"] == update:
                return path
    raise AssertionError(f"no checkpoint of update {update} in {folder}")


def copy_as_last(checkpoint: Path, folder: Path) -> Path:
    """Put a checkpoint where a training in this folder resumes from it. Returns: the folder."""
    folder.mkdir(exist_ok=True)
    shutil.copy(checkpoint, folder / "checkpoint_last.pt")
    return folder


def different_weights(run: Path, other: Path) -> list[str]:
    """Names of the weights that are not bit-identical, or not in both, at the end of two runs."""
    ours, theirs = (weights(folder / "checkpoint_last.pt") for folder in (run, other))
    return sorted(
        name
        for name in ours.keys() | theirs.keys()
        if name not in ours or name not in theirs or not torch.equal(ours[name], theirs[name])
    )
