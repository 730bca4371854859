"""The errors of a training whose settings contradict the checkpoint from which it resumes."""

from __future__ import annotations

from typing import Any

import pytest
from omegaconf import OmegaConf

from fairseq_mtssl.checkpoints import label_head_kind
from fairseq_mtssl.resuming import resume_errors

LINEAR = ["speech_encoder.mask_emb", "ssl_head.label_heads.0.weight", "ssl_head.label_heads.0.bias"]
COSINE = ["ssl_head.label_heads.0.label_embs_concat", "ssl_head.label_heads.0.final_proj.weight"]
CONTRASTIVE = ["speech_encoder.mask_emb", "ssl_head.final_proj.weight"]


def cfg(optimizer: str = "bert_adam", **model: Any) -> Any:
    model = {"_name": "joint_ssl_vgs", **model}
    return OmegaConf.create({"optimizer": {"_name": optimizer}, "model": model, "task": {}})


def state(names: list[str] = CONTRASTIVE, kept: Any = "state", **settings: Any) -> dict[str, Any]:
    weights = dict.fromkeys(names)
    return {"model": weights, "cfg": cfg(**settings), "last_optimizer_state": kept}


def test_the_same_settings_are_no_error() -> None:
    assert resume_errors(state(LINEAR, normalize=True), cfg(normalize=True), LINEAR) == []
    assert resume_errors(state(COSINE, normalize=False), cfg(normalize=False), COSINE) == []


def test_another_optimizer_is_refused_by_the_name_to_give() -> None:
    (error,) = resume_errors(state(optimizer="fused_adamw"), cfg(), CONTRASTIVE)
    assert "give optimizer=fused_adamw to continue" in error
    assert "has the state of fused_adamw, and this training's optimizer is bert_adam" in error


def test_another_optimizer_is_no_error_if_its_state_is_not_resumed() -> None:
    old = state(optimizer="fused_adamw")
    assert resume_errors(old, cfg(), CONTRASTIVE, keep_optimizer=False) == []
    assert resume_errors(state(optimizer="fused_adamw", kept=None), cfg(), CONTRASTIVE) == []


@pytest.mark.parametrize(
    "had,has,said", [(False, True, "false"), (True, False, "true"), (None, False, "true")]
)
def test_other_waveforms_are_refused_by_the_value_to_give(had: Any, has: bool, said: str) -> None:
    """None stands for a checkpoint older than the field, which was trained on normalised waveforms."""
    old = state() if had is None else state(normalize=had)
    (error,) = resume_errors(old, cfg(normalize=has), CONTRASTIVE)
    assert error.endswith(f"give model.normalize={said}")


def test_another_kind_of_label_head_is_refused_by_the_value_to_give() -> None:
    (error,) = resume_errors(state(LINEAR), cfg(), COSINE)
    assert error == "has linear label heads, and this model cosine ones; give model.label_head=linear"
    (error,) = resume_errors(state(COSINE), cfg(), LINEAR)
    assert error.endswith("give model.label_head=cosine")


def test_a_model_without_label_heads_has_none_of_another_kind() -> None:
    assert label_head_kind(CONTRASTIVE) is None
    assert resume_errors(state(LINEAR), cfg(), CONTRASTIVE) == []


def test_every_contradiction_is_named_at_once() -> None:
    old = state(LINEAR, optimizer="fused_adamw", normalize=False)
    errors = resume_errors(old, cfg(normalize=True), COSINE)
    wanted = ("optimizer=fused_adamw", "model.normalize=false", "model.label_head=linear")
    assert len(errors) == 3 and all(any(each in error for error in errors) for each in wanted)


def test_weights_without_a_configuration_are_judged_by_their_names() -> None:
    bare = {"model": dict.fromkeys(LINEAR), "cfg": None}
    assert len(resume_errors(bare, cfg(), COSINE)) == 1
