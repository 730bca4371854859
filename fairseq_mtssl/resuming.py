"""Going on with a training: settings that contradict its checkpoint are refused, naming the one to give.

fairseq compares optimizers by their classes, which a wrapper for half precision hides; it says of weights
that do not fit only that architectures should match, and knows nothing of how waveforms are read.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fairseq import checkpoint_utils
from omegaconf import OmegaConf

from fairseq_mtssl.checkpoints import is_ours, label_head_kind, trained_on_normalised
from fairseq_mtssl.errors import ConfigError

_load_checkpoint = checkpoint_utils.load_checkpoint


def load_checkpoint(cfg: Any, trainer: Any, **options: Any) -> Any:
    """As fairseq's, but a training of ours checks what the checkpoint says before any of it is used.

    cfg: the section `checkpoint`. Raises: ConfigError naming every contradiction.
    """
    if not is_ours(str(trainer.cfg.model._name)):
        return _load_checkpoint(cfg, trainer, **options)
    read = checkpoint_utils.load_checkpoint_to_cpu

    def read_and_check(path: str, *args: Any, **kwargs: Any) -> Any:
        state = read(path, *args, **kwargs)
        anew = cfg.reset_optimizer or path == cfg.finetune_from_model
        errors = resume_errors(state, trainer.cfg, trainer.get_model().state_dict(), keep_optimizer=not anew)
        if errors:
            raise ConfigError(path, errors)
        return state

    checkpoint_utils.load_checkpoint_to_cpu = read_and_check
    try:
        return _load_checkpoint(cfg, trainer, **options)
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = read


def resume_errors(state: Any, cfg: Any, names: Iterable[str], keep_optimizer: bool = True) -> list[str]:
    """What in a training's settings contradicts the checkpoint that it is to go on from.

    state: the checkpoint; cfg: all of the training's configuration; names: of its model's weights.
    keep_optimizer: go on with the optimizer's state.
    """
    errors = []
    if state.get("cfg") is not None:
        then = OmegaConf.create(state["cfg"], flags={"allow_objects": True})
        had, has = then.optimizer._name, cfg.optimizer._name
        if keep_optimizer and state.get("last_optimizer_state") is not None and had != has:
            errors.append(
                f"has the state of {had}, and this training's optimizer is {has}; give optimizer={had} to go "
                "on, or checkpoint.reset_optimizer=true to begin that state and the count of updates anew"
            )
        normalised = trained_on_normalised(then)
        if normalised != trained_on_normalised(cfg):
            kind, other = ("normalised", "raw") if normalised else ("raw", "normalised")
            got = f"was trained on {kind} waveforms, and this training reads {other} ones"
            errors.append(f"{got}; give model.normalize={str(normalised).lower()}")
    had, has = label_head_kind(state["model"]), label_head_kind(names)
    if had is not None and has is not None and had != has:
        errors.append(f"has {had} label heads, and this model {has} ones; give model.label_head={had}")
    return errors


def install() -> None:
    """Put this in fairseq's place; may be repeated."""
    checkpoint_utils.load_checkpoint = load_checkpoint
