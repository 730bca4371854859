"""From pairs to checkpoints: phases, resets, resuming, dead branches, validation by retrieval."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_corpora import make_corpus, make_pairs
from tiny_recipes import TINY
from training import checkpoint_of, copy_as_last, different_weights, train, weights

from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.tasks import vgs_retrieval as task_module


@pytest.mark.parametrize("stop", [1, 3, 4, 6])
def test_stopping_anywhere_and_resuming_gives_the_uninterrupted_run(
    corpus: Path, joint_run: Path, tmp_path: Path, stop: int
) -> None:
    """1: in the first phase, 3: at the end of an epoch, 4: at the boundary, 6: in the second phase."""
    train(corpus, copy_as_last(checkpoint_of(joint_run, stop), tmp_path))
    assert different_weights(tmp_path, joint_run) == []


def optimizer_steps(path: Path) -> set[int]:
    state = torch.load(path, map_location="cpu", weights_only=False)["last_optimizer_state"]["state"]
    return {int(entry["step"]) for entry in state.values()}


def test_the_optimizer_state_is_forgotten_exactly_at_the_boundary(joint_run: Path) -> None:
    assert optimizer_steps(checkpoint_of(joint_run, 4)) == {4}
    assert optimizer_steps(checkpoint_of(joint_run, 5)) == {1}
    assert optimizer_steps(checkpoint_of(joint_run, 8)) == {4}


VGS_ONLY = ("speech_head.", "image_encoder.", "logit_scale")
SSL_ONLY = ("ssl_head.", "speech_encoder.encoder.layers.2.", "speech_encoder.mask_emb")


def moved(before: Path, after: Path) -> tuple[set[str], set[str]]:
    """Names of the trained weights that changed, and of those that did not."""
    old, new = weights(before), weights(after)
    counters = ("num_batches_tracked", "running_mean", "running_var")
    names = {name for name in old if not name.endswith(counters)}
    changed = {name for name in names if not torch.equal(old[name], new[name])}
    return changed, names - changed


def test_a_dead_branch_neither_learns_nor_decays(joint_run: Path) -> None:
    changed, still = moved(checkpoint_of(joint_run, 1), checkpoint_of(joint_run, 4))
    assert not [name for name in changed if name.startswith(VGS_ONLY)]
    changed, still = moved(checkpoint_of(joint_run, 4), checkpoint_of(joint_run, 8))
    assert not [name for name in changed if name.startswith(SSL_ONLY)]
    assert any(name.startswith("speech_head.") for name in changed)
    assert "speech_encoder.encoder.layers.0.fc1.weight" in changed


def test_a_dead_branch_is_not_run(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq_mtssl.modules.speech_head import VgsSpeechHead
    from fairseq_mtssl.ssl.wav2vec2 import Wav2vec2

    calls: list[str] = []
    for module, name in ((Wav2vec2, "ssl"), (VgsSpeechHead, "vgs")):
        forward = module.forward

        def spy(self: Any, *args: Any, forward: Any = forward, name: str = name) -> Any:
            if self.training:
                calls.append(name)
            return forward(self, *args)

        monkeypatch.setattr(module, "forward", spy)
    train(corpus, tmp_path, checkpoint__save_interval_updates=0)
    assert calls == ["ssl"] * 4 + ["vgs"] * 4


def test_simultaneous_training_runs_both_and_ramps_alpha(corpus: Path, tmp_path: Path, caplog: Any) -> None:
    caplog.set_level(logging.INFO)
    train(
        corpus,
        tmp_path,
        task__phases=[{"alpha": [0.0, 1.0], "length": "rest"}],
        checkpoint__save_interval_updates=0,
    )
    assert "alpha 0 to 1" in caplog.text


@pytest.mark.parametrize(
    ("schedule", "lengths"),
    [
        ("w2v2", ["rest"]),
        ("vgs", ["rest"]),
        ("vgsplus", ["rest"]),
        ("w2v2_vgsplus", ["50 %", "rest"]),
        ("vgs_vgsplus", ["50 %", "rest"]),
        ("vgs_w2v2", ["1 epochs", "rest"]),
        ("vgsplus_w2v2", ["50 %", "rest"]),
        ("vgsplus_vgs", ["50 %", "rest"]),
    ],
)
def test_every_other_variant_of_the_paper_trains_in_one_command(
    corpus: Path, tmp_path: Path, schedule: str, lengths: list[str]
) -> None:
    out = train(
        corpus,
        tmp_path,
        task__schedule=schedule,
        task__lengths=lengths,
        optimization__max_update=4,
        checkpoint__save_interval_updates=0,
    )
    assert (out / "checkpoint_last.pt").is_file() and (out / "checkpoint_best.pt").is_file()


def test_the_paper_preset_trains_with_its_masked_single_pass(corpus: Path, tmp_path: Path) -> None:
    out = train(
        corpus,
        tmp_path,
        "joint_simultaneous_small",
        model__preset="paper",
        task__lengths=["rest"],
        optimization__max_update=2,
        checkpoint__save_interval_updates=0,
    )
    assert "logit_scale" not in weights(out / "checkpoint_last.pt")


def test_the_vgs_model_alone_trains_without_ssl_weights(corpus: Path, tmp_path: Path) -> None:
    keep = {
        k: v
        for k, v in TINY.items()
        if k
        not in {
            "model.encoder_layers",
            "model.final_dim",
            "model.latent_vars",
            "model.num_negatives",
            "model.vgs_mask_prob",
        }
    }
    out = train(
        corpus,
        tmp_path,
        "vgs_retrieval",
        {**keep, "model.image_encoder": "cnn", "model.preset": "modern"},
        task__lengths=["rest"],
        optimization__max_update=2,
        optimization__max_epoch=0,
        checkpoint__save_interval_updates=0,
    )
    assert not [
        n
        for n in weights(out / "checkpoint_last.pt")
        if n.startswith("ssl_head") or "layers.2." in n.split("encoder.encoder")[-1][:10]
    ]


def test_gradient_accumulation_counts_updates_not_batches(corpus: Path, tmp_path: Path) -> None:
    out = train(
        corpus,
        tmp_path,
        optimization__update_freq=[2],
        optimization__max_update=4,
        task__lengths=["1 updates", "rest"],
        checkpoint__no_epoch_checkpoints=False,
    )
    # Two batches an update: 3 batches make 2 updates an epoch.
    assert optimizer_steps(next(out.glob("checkpoint_1_1.pt"))) == {1}
    assert optimizer_steps(out / "checkpoint1.pt") == {1}
    assert optimizer_steps(out / "checkpoint2.pt") == {3}


def test_a_speech_only_corpus_feeds_the_ssl_loss(corpus: Path, tmp_path: Path, monkeypatch: Any) -> None:
    make_pairs(tmp_path / "speech", "train", 5, seed=3)
    batches: list[Any] = []
    step = task_module.VgsRetrievalTask.train_step
    monkeypatch.setattr(
        task_module.VgsRetrievalTask,
        "train_step",
        lambda self, sample, *args, **kw: batches.append(sample) or step(self, sample, *args, **kw),
    )
    train(
        corpus,
        tmp_path / "out",
        "joint_simultaneous_small",
        task__lengths=["rest"],
        optimization__max_update=2,
        task__ssl_data=str(tmp_path / "speech"),
        task__ssl_ratio=1.5,
        checkpoint__save_interval_updates=0,
    )
    assert sum(len(b["extra"]["id"]) for b in batches) >= sum(len(b["id"]) for b in batches)
    assert all(set(b["extra"]["id"].tolist()).isdisjoint(b["id"].tolist()) for b in batches)


def test_a_file_that_breaks_is_skipped_named_and_counted_in_training(tmp_path: Path, caplog: Any) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    (corpus / "audio" / "train_3.wav").write_bytes(b"broken")
    (corpus / "images" / "train_5.png").write_bytes(b"broken")
    train(
        corpus,
        tmp_path / "out",
        "vgs_small",
        task__lengths=["rest"],
        # A batch may lose all but one image: at 16 px that leaves the group norm a single value to normalise.
        task__image_size=32,
        optimization__max_update=3,
        checkpoint__save_interval_updates=0,
    )
    skips = [record.message for record in caplog.records if "skipped in training" in record.message]
    assert any("train_3.wav" in skip and "1 so far" in skip or "2 so far" in skip for skip in skips)
    assert any("train_5.png" in skip for skip in skips)


def test_short_clips_are_dropped_with_their_count_and_names(
    corpus: Path, tmp_path: Path, caplog: Any
) -> None:
    train(
        corpus,
        tmp_path,
        "vgs_small",
        task__lengths=["rest"],
        optimization__max_update=1,
        task__min_duration_s=0.45,
        checkpoint__save_interval_updates=0,
    )
    assert "dropped 4 of 10 utterances shorter than 0.45 s (train_0.wav" in caplog.text
    with pytest.raises(ManifestError, match="no utterance of 9 s or more"):
        train(corpus, tmp_path / "none", "vgs_small", task__lengths=["rest"], task__min_duration_s=9.0)


def test_phases_that_do_not_fill_the_run_are_refused(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="end at update 6, the run at update 8"):
        train(corpus, tmp_path, task__lengths=["4 updates", "2 updates"])


def test_a_new_training_starts_from_the_last_state_of_another(
    corpus: Path, joint_run: Path, tmp_path: Path
) -> None:
    out = train(
        corpus,
        tmp_path,
        "vgs_small",
        task__lengths=["rest"],
        optimization__max_update=1,
        optimization__lr=[1e-12],
        model__init_from=str(joint_run / "checkpoint_last.pt"),
    )
    start, end = weights(joint_run / "checkpoint_last.pt"), weights(out / "checkpoint_last.pt")
    name = "speech_encoder.encoder.layers.1.fc1.weight"
    torch.testing.assert_close(start[name], end[name], atol=1e-6, rtol=0)


def test_region_features_without_their_file_are_refused_with_the_cure(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="task.region_features.*give its path"):
        train(corpus, tmp_path, model__image_encoder="regions")
