"""Compares the settings of a training with those of the checkpoint from which it resumes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from omegaconf import OmegaConf

from fairseq_mtssl.checkpoints import label_head_kind, trained_on_normalised


def resume_errors(state: Any, cfg: Any, names: Iterable[str], keep_optimizer: bool = True) -> list[str]:
    """Return the contradictions between a training's settings and the checkpoint from which it resumes.

    state: the checkpoint; cfg: the training's whole configuration; names: of its model's weights.
    keep_optimizer: whether the training resumes the optimizer's state.
    """
    errors = []
    if state.get("cfg") is not None:
        saved = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        had, has = saved.optimizer._name, cfg.optimizer._name
        if keep_optimizer and state.get("last_optimizer_state") is not None and had != has:
            errors.append(
                f"has the state of {had}, and this training's optimizer is {has}; give optimizer={had} to "
                "continue, or checkpoint.reset_optimizer=true to start with a new state at update 0"
            )
        normalised = trained_on_normalised(saved)
        if normalised != trained_on_normalised(cfg):
            kind, other = ("normalised", "raw") if normalised else ("raw", "normalised")
            got = f"was trained on {kind} waveforms, and this training reads {other} ones"
            errors.append(f"{got}; give model.normalize={str(normalised).lower()}")
    had, has = label_head_kind(state["model"]), label_head_kind(names)
    if had is not None and has is not None and had != has:
        errors.append(f"has {had} label heads, and this model {has} ones; give model.label_head={had}")
    return errors
