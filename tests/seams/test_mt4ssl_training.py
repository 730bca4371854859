"""From audio and labels to checkpoints: an exact teacher, exact resuming, dictionaries inside, refusals."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compiler import Traced
from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from tiny_corpora import make_labels, make_pairs
from training import checkpoint_of, copy_as_last, different_weights, train, train_mt4ssl, weights

from fairseq_mtssl.checkpoints import load_model
from fairseq_mtssl.errors import ConfigError, ManifestError
from fairseq_mtssl.models.mt4ssl import Mt4sslModel
from fairseq_mtssl.modules.ema import ema_decay
from fairseq_mtssl.ssl.base import SslBatch
from fairseq_mtssl.ssl.mt4ssl import Mt4ssl
from fairseq_mtssl.tasks.mt4ssl import Mt4sslTask


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopping_anywhere_and_resuming_gives_the_uninterrupted_run(
    corpus: Path, labels: Path, mt4ssl_run: Path, tmp_path: Path, stop: int
) -> None:
    """Teacher and dictionary included; 3 is the end of an epoch."""
    train_mt4ssl(corpus, copy_as_last(checkpoint_of(mt4ssl_run, stop), tmp_path), labels)
    names = weights(mt4ssl_run / "checkpoint_last.pt")
    assert any(name.startswith("ssl_head.teacher.") for name in names)
    assert different_weights(tmp_path, mt4ssl_run) == []


def test_several_masked_views_train_and_resume_exactly_and_validate_as_one(
    corpus: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = Mt4ssl.forward, []

    def watched(self: Any, encoder: Any, batch: SslBatch) -> Any:
        seen.append((self.training, len(batch.mask) // len(batch.lengths)))
        return forward(self, encoder, batch)

    monkeypatch.setattr(Mt4ssl, "forward", watched)
    settings = {"model__clone_batch": 2, "optimization__max_update": 3}
    straight = train_mt4ssl(corpus, tmp_path / "straight", labels, **settings)
    resumed = copy_as_last(checkpoint_of(straight, 1), tmp_path / "resumed")
    train_mt4ssl(corpus, resumed, labels, **settings)
    assert set(seen) == {(True, 2), (False, 1)}
    assert different_weights(resumed, straight) == []


@pytest.mark.parametrize("update_freq", [1, 4])
@pytest.mark.parametrize("stop", [None, 2])
def test_the_teacher_equals_a_loop_over_the_students_of_all_updates(
    corpus: Path,
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    update_freq: int,
    stop: int | None,
) -> None:
    """Batches of one: with update_freq 4 an epoch of 10 is 3 updates, its last of two batches."""
    first: dict[str, torch.Tensor] = {}
    build = Mt4sslTask.build_model

    def remember(self: Mt4sslTask, *args: Any) -> Any:
        model = build(self, *args)
        first.update({name: weight.clone() for name, weight in model.state_dict().items()})
        return model

    settings = {"optimization__update_freq": [update_freq], "dataset__batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(Mt4sslTask, "build_model", remember)
        train_mt4ssl(corpus, tmp_path, labels, **settings, optimization__max_update=stop or 5)
    if stop:  # the schedule of the learning rate differs between the two parts; the teacher's does not
        train_mt4ssl(corpus, tmp_path, labels, **settings, optimization__max_update=5)
    names = [name for name in first if name.startswith("ssl_head.teacher.")]
    assert len(names) == 16 * 3 + 2
    oracle = {name: first[name].double() for name in names}
    for update in range(1, 6):
        student = weights(checkpoint_of(tmp_path, update))
        decay = ema_decay(update, 0.8, 0.95, 5)
        for name in names:
            own = student["speech_encoder.encoder." + name.removeprefix("ssl_head.teacher.")]
            oracle[name] = decay * oracle[name] + (1 - decay) * own.double()
        for name in names:
            torch.testing.assert_close(student[name].double(), oracle[name], atol=1e-6, rtol=0)
    assert not torch.allclose(oracle[names[0]], first[names[0]].double(), atol=1e-6)


def test_an_overflow_moves_neither_the_update_number_nor_the_teacher(
    corpus: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As fp16 does it: the loss scaler raises while gradients are clipped."""
    clip, calls, moved = FairseqOptimizer.clip_grad_norm, [], []

    def overflowing(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) in (2, 3):
            raise OverflowError("setting loss scale to: 64.0")
        return clip(self, *args, **kwargs)

    move = Mt4sslModel.step_branch
    monkeypatch.setattr(FairseqOptimizer, "clip_grad_norm", overflowing)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)  # fairseq assumes a GPU here
    monkeypatch.setattr(
        Mt4sslModel, "step_branch", lambda self, updates: (moved.append(updates), move(self, updates))
    )
    train_mt4ssl(corpus, tmp_path, labels, optimization__max_update=4)
    assert len(calls) == 6
    assert moved == [1, 2, 3, 4]


@pytest.mark.parametrize(("scales", "steps"), [((4.0, 2.0), 0), ((4.0, 4.0), 1), ((4.0, 8.0), 1)])
def test_an_update_that_amp_leaves_out_does_not_move_the_teacher(
    scales: tuple[float, float], steps: int
) -> None:
    """AMP skips a step silently and lowers its loss scale; the task tells by that."""
    readings = iter(scales)
    optimizer = AMPOptimizer.__new__(AMPOptimizer)
    optimizer._grad_scaler = SimpleNamespace(get_scale=lambda: next(readings))
    optimizer.step = lambda: None
    moved: list[int] = []
    task = Mt4sslTask.__new__(Mt4sslTask)
    task.optimizer_step(optimizer, SimpleNamespace(step_branch=moved.append), 7)
    assert moved == [8] * steps


def test_a_checkpoint_loads_with_its_dictionary_where_no_path_exists(
    corpus: Path, mt4ssl_run: Path, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "elsewhere.pt"
    state = torch.load(mt4ssl_run / "checkpoint_last.pt", map_location="cpu", weights_only=False)
    state["cfg"]["task"]["data"] = state["cfg"]["task"]["labels"] = "/nowhere"
    torch.save(state, path)
    loaded = load_model(path)
    (dictionary,) = loaded.task.dictionaries
    assert dictionary.symbols == ["<s>", "<pad>", "</s>", "<unk>", "0", "1", "2", "3", "4", "5"]
    assert loaded.model.ssl_head.label_heads[0].out_features == 10
    out = loaded.model.extract_features(torch.randn(1, 8_000), None)
    assert out["x"].shape == (1, 24, 16)
    for name, weight in weights(mt4ssl_run / "checkpoint_last.pt").items():
        assert torch.equal(loaded.model.state_dict()[name], weight)


def test_a_checkpoint_loads_for_fine_tuning_without_its_teacher(mt4ssl_run: Path) -> None:
    loaded = load_model(mt4ssl_run / "checkpoint_last.pt", overrides={"model": {"online": False}})
    assert not [
        name
        for name in loaded.model.state_dict()
        if name.startswith(("ssl_head.teacher.", "ssl_head.regression."))
    ]


def test_the_task_state_is_plain_and_that_of_hubert_is_read_too(mt4ssl_run: Path) -> None:
    from fairseq.data import Dictionary

    state = torch.load(mt4ssl_run / "checkpoint_last.pt", map_location="cpu", weights_only=False)[
        "task_state"
    ]
    assert json.loads(json.dumps(state)) == state
    task = Mt4sslTask.__new__(Mt4sslTask)
    from fairseq.tasks.fairseq_task import StatefulContainer

    task.state = StatefulContainer()
    theirs = Dictionary()
    theirs.add_symbol("17")
    task.load_state_dict({"dictionaries": [theirs]})
    assert task.label_classes == [5] and task.dictionaries[0].symbols == theirs.symbols


def meters(folder: Path, split: str) -> set[str]:
    state = torch.load(folder / "checkpoint_last.pt", map_location="cpu", weights_only=False)
    return {entry[1] for entry in state["extra_state"]["metrics"][split]}


def test_losses_and_accuracies_of_both_heads_are_metrics(mt4ssl_run: Path) -> None:
    assert {
        "loss",
        "loss_on",
        "loss_off",
        "acc_off",
        "target_var",
        "prediction_var",
        "feature_var",
    } <= meters(mt4ssl_run, "train")
    best = torch.load(mt4ssl_run / "checkpoint_best.pt", map_location="cpu", weights_only=False)
    assert best["cfg"]["checkpoint"]["best_checkpoint_metric"] == "loss"


def test_valid_metrics_hold_the_accuracy_of_both_heads(
    corpus: Path, labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fairseq_cli import train as fairseq_train

    seen: list[dict[str, Any]] = []
    stats = fairseq_train.get_valid_stats
    monkeypatch.setattr(fairseq_train, "get_valid_stats", lambda *args: seen.append(stats(*args)) or seen[-1])
    train_mt4ssl(corpus, tmp_path, labels, optimization__max_update=2)
    assert {"loss", "loss_on", "loss_off", "acc_on", "acc_off"} <= set(seen[-1])


@pytest.mark.parametrize(
    ("with_labels", "online", "lacking"),
    [(True, False, ("ssl_head.teacher.", "ssl_head.regression.")), (False, True, ("ssl_head.label_heads.",))],
)
def test_either_target_alone_trains(
    corpus: Path, labels: Path, tmp_path: Path, with_labels: bool, online: bool, lacking: tuple[str, ...]
) -> None:
    sets = [labels] if with_labels else []
    out = train_mt4ssl(corpus, tmp_path, *sets, model__online=online, optimization__max_update=2)
    assert not [name for name in weights(out / "checkpoint_last.pt") if name.startswith(lacking)]


def test_two_label_sets_at_two_rates_and_layers_train_together(
    corpus: Path, labels: Path, tmp_path: Path
) -> None:
    fast = make_labels(tmp_path / "fast", corpus, clusters=9, rate_hz=100.0)
    out = train_mt4ssl(
        corpus,
        tmp_path / "out",
        labels,
        fast,
        model__label_layers=[2, 3],
        model__label_head="cosine",
        optimization__max_update=2,
    )
    state = weights(out / "checkpoint_last.pt")
    assert state["ssl_head.label_heads.0.label_embs_concat"].shape[0] == 10
    assert state["ssl_head.label_heads.1.label_embs_concat"].shape[0] == 13
    assert {"acc_off_0", "acc_off_1", "data_wait"} <= meters(out, "train")


def test_labels_of_another_rate_are_refused_before_training(
    corpus: Path, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        ManifestError, match=r"(?s)valid.km: 6 errors.*line 1: 19 labels for 38 frames"
    ) as error:
        train_mt4ssl(corpus, tmp_path, labels, task__label_rate_hz=100.0)
    assert "They would fit 50 Hz" in str(error.value)


def test_a_new_training_starts_from_another_with_its_teacher_or_from_its_student(
    corpus: Path, labels: Path, mt4ssl_run: Path, tmp_path: Path
) -> None:
    settings = {"optimization__max_update": 2, "optimization__lr": [1e-12]}
    start = weights(mt4ssl_run / "checkpoint_last.pt")
    out = train_mt4ssl(
        corpus, tmp_path / "a", labels, model__init_from=str(mt4ssl_run / "checkpoint_last.pt"), **settings
    )
    name = "ssl_head.teacher.layers.1.fc1.weight"
    decay = ema_decay(1, 0.8, 0.95, 5)
    student = start["speech_encoder.encoder.layers.1.fc1.weight"]
    expected = decay * start[name] + (1 - decay) * student
    torch.testing.assert_close(weights(checkpoint_of(out, 1))[name], expected, atol=1e-6, rtol=0)
    bare = {key: value for key, value in start.items() if not key.startswith("ssl_head.teacher.")}
    torch.save({"model": bare}, tmp_path / "bare.pt")
    out = train_mt4ssl(corpus, tmp_path / "b", labels, model__init_from=str(tmp_path / "bare.pt"), **settings)
    torch.testing.assert_close(weights(checkpoint_of(out, 1))[name], student, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lr_scheduler__phase_ratio": [0.03, 0.9, 0.07]}, "of 8 updates leaves none for the decay"),
        ({"task__min_duration_s": 9.0}, "wanted 0 < min ≤ max"),
        ({"model__label_layers": [1, 2]}, "wanted one for each of 1 label sets"),
        ({"model__clone_batch": 0}, "clone_batch 0: wanted 1 or more"),
        ({"task__label_rate_hz": [50, 100]}, "wanted one for each of 1 label sets"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused(
    corpus: Path, labels: Path, tmp_path: Path, settings: dict[str, Any], error: str
) -> None:
    with pytest.raises(ConfigError, match=error):
        train_mt4ssl(corpus, tmp_path, labels, **settings)


def test_short_utterances_are_dropped_and_counted_and_labels_stay_with_theirs(
    corpus: Path, labels: Path, tmp_path: Path, caplog: Any
) -> None:
    train_mt4ssl(
        corpus,
        tmp_path,
        labels,
        task__min_duration_s=0.45,
        task__max_duration_s=0.5,
        optimization__max_update=2,
    )
    assert "dropped 4 of 10 utterances shorter than 0.45 s" in caplog.text


@pytest.mark.parametrize(("ssl", "views"), [("mt4ssl", 1), ("hubert", 1), ("data2vec", 1), ("mt4ssl", 2)])
def test_it_is_the_ssl_branch_of_the_joint_model_on_the_same_schedules(
    corpus: Path, labels: Path, tmp_path: Path, ssl: str, views: int
) -> None:
    """Two updates of self-supervision, two of retrieval: the teacher moves in the first two alone."""
    out = train(
        corpus,
        tmp_path,
        model__ssl=ssl,
        model__clone_batch=views,
        model__average_top_k_layers=2,
        task__labels=[] if ssl == "data2vec" else [str(labels)],
        task__speed_perturb=0.0,
        task__lengths=["2 updates", "rest"],
        optimization__max_update=4,
        checkpoint__no_epoch_checkpoints=False,
    )
    states = [weights(checkpoint_of(out, update)) for update in (1, 2, 4)]
    name = "ssl_head.teacher.layers.0.fc1.weight"
    assert any(key.startswith("ssl_head.label_heads.") for key in states[0]) == (ssl != "data2vec")
    assert (name in states[0]) == (ssl != "hubert")
    if ssl != "hubert":
        assert not torch.equal(states[0][name], states[1][name])
        assert torch.equal(states[1][name], states[2][name])


def test_a_speech_only_corpus_brings_its_own_labels_to_the_joint_model(
    corpus: Path, labels: Path, tmp_path: Path
) -> None:
    make_pairs(tmp_path / "speech", "train", 5, seed=3)
    settings: dict[str, Any] = {
        "model__ssl": "mt4ssl",
        "model__average_top_k_layers": 2,
        "task__labels": [str(labels)],
        "task__speed_perturb": 0.0,
        "task__lengths": ["rest"],
        "task__ssl_data": str(tmp_path / "speech"),
        "optimization__max_update": 2,
        "checkpoint__save_interval_updates": 0,
    }
    recipe = "joint_simultaneous_small"
    with pytest.raises(ConfigError, match="both task.labels and ssl_labels"):
        train(corpus, tmp_path / "none", recipe, **settings)
    own = make_labels(tmp_path / "own", tmp_path / "speech")
    out = train(corpus, tmp_path / "out", recipe, **settings, task__ssl_labels=[str(own)])
    assert (out / "checkpoint_last.pt").is_file()


def test_an_ssl_branch_without_the_labels_it_needs_is_refused(
    corpus: Path, labels: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="ssl=hubert needs task.labels, and has 0"):
        train(corpus, tmp_path, model__ssl="hubert")
    with pytest.raises(ConfigError, match="ssl=wav2vec2 takes no task.labels, and has 1"):
        train(corpus, tmp_path, task__labels=[str(labels)], task__speed_perturb=0.0)
    with pytest.raises(ConfigError, match="would not fit their frames any more"):
        train(corpus, tmp_path, model__ssl="hubert", task__labels=[str(labels)])


def test_a_compiled_run_in_buckets_leaves_the_checkpoint_of_any_other(
    corpus: Path, labels: Path, mt4ssl_run: Path, tmp_path: Path, traced: Traced
) -> None:
    compiled = {"model__compile": True, "task__num_batch_buckets": 2, "optimization__max_update": 2}
    train_mt4ssl(corpus, tmp_path, labels, **compiled)
    assert traced.graphs() >= 2
    found, plain = (weights(folder / "checkpoint_last.pt") for folder in (tmp_path, mt4ssl_run))
    assert found.keys() == plain.keys() and all(weight.isfinite().all() for weight in found.values())
    loaded = load_model(tmp_path / "checkpoint_last.pt")
    assert loaded.model.speech_encoder.compute.compiled and not loaded.model.speech_encoder.compiling
