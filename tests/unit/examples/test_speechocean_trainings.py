"""MT4SSL on real speech: what is trained and measured, by which commands."""

from __future__ import annotations

import numpy as np
import pytest
from spoken_sentences import make_data

from examples.speechocean import run
from fairseq_mtssl.errors import ConfigError


def test_passes_are_counted_in_cropped_seconds() -> None:
    # 2 passes over 4 s + 6 s (cropped from 9 s): 20 s in batches of 8 s
    assert run.updates_of(2, np.array([4.0, 9.0]), 6.0, 8.0) == 3
    assert run.updates_of(0.01, np.array([1.0]), 6.0, 60.0) == 1


@pytest.mark.parametrize("kind", sorted(run.TARGETS))
def test_a_pretraining_is_one_command_with_the_targets_of_its_kind(kind, folders, tmp_path, compose) -> None:
    data = make_data(folders, tmp_path / "o" / "data")
    words = ["--speech", "s", "--more", "m", "--out", str(data.parent), "--passes", "8"]
    args = run.parse([*words, "dataset.max_tokens=320000"])
    experiment = run.Experiment(run.Pipeline(args.out), args)
    labels = experiment.labels("l", "mfcc-cmn", ("pretrain", "valid"), "pretrain")
    stage = experiment.training(kind, 3, None if kind == "teacher" else labels)
    settings = [word for word in stage.command if "=" in word]
    cfg = compose(run.RECIPE, settings)
    # 8 passes over 6 × 1 s and 3 × 2 s in batches of 20 s, the last word on the batch being the user's
    assert (cfg.optimization.max_update, cfg.common.seed, cfg.dataset.max_tokens) == (5, 3, 320000)
    assert (cfg.dataset.train_subset, cfg.dataset.valid_subset) == ("pretrain", "valid")
    assert cfg.model.online == (kind != "labels")
    assert list(cfg.task.labels) == ([] if kind == "teacher" else [str(labels.folder)])
    assert stage.products == [data.parent / f"{kind}-seed3" / "checkpoint_last.pt"]
    assert [word for word in settings if run.is_setting(word, args.out)][0] == "dataset.train_subset=pretrain"


def test_an_untrained_network_is_measured_with_random_weights_and_tuned_from_scratch(tmp_path) -> None:
    from fairseq_mtssl.cli.main import build_parser

    first = run.Stage("first-seed11", [], tmp_path / "first", [tmp_path / "first" / "checkpoint_last.pt"])
    (first.folder / ".hydra").mkdir(parents=True)
    (first.folder / ".hydra" / "config.yaml").write_text("model:\n  encoder_layers: 2\n")
    args = run.parse(["--speech", "s", "--more", "m", "--out", str(tmp_path / "o")])
    experiment = run.Experiment(run.Pipeline(args.out), args)
    subjects = {subject.name: subject for subject in run.baselines(first, [4])}
    assert set(subjects) == {"mfcc-seed0", "mfcc-cmn-seed0", "log-mel-seed0", "untrained-seed4"}
    made = experiment.measuring(subjects["untrained-seed4"])
    assert set(made) == {f"{what} {n}" for what in ("labels", "pnmi") for n in "12"} | {
        "abx valid",
        "abx test",
        "ctc",
        "transcribe",
    }
    parsed = build_parser().parse_args(made["labels 2"].command[1:])
    assert (parsed.random_weights, parsed.seed, parsed.fit_split) == (True, 4, "train")
    assert "model.no_pretrained_weights=true" in made["ctc"].command
    assert build_parser().parse_args(made["abx test"].command[1:]).random_weights
    bare = experiment.measuring(subjects["mfcc-seed0"])
    assert set(bare) == {"labels -", "pnmi -", "abx valid", "abx test"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "give --speech and --more, or --from-results"),
        (["--speech", "a", "--more", "b", "--seeds", "1,1"], "wanted whole numbers, each once"),
        (["--speech", "a", "--seeds", "1,01"], "--seeds: got '1,01', .*; give --speech and --more"),
        (["--speech", "a", "--more", "b", "--passes", "0"], "wanted more than 0"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(words, told) -> None:
    with pytest.raises(ConfigError, match=told):
        run.parse(words)
