"""The nine schedules: what is trained, how long, what is kept and measured."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from examples import stages, variants
from examples.pipeline import Stage
from examples.schedules import run
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.published import PUBLISHED, variant_name

ROOT = Path(__file__).resolve().parents[3]
LABELS = stages.labels_stage("mfcc-cmn", "mfcc-cmn", 100, Path("data"), Path("o"))
ALL, ENDS = run.MEASURED_PARTS["all"], run.MEASURED_PARTS["ends"]


def composed(compose, *words: str, variant: str = "w2v2_vgs", seed: int = 3):
    args = run.parse(list(words))
    known = (variants.NINE | variants.BRANCHES)[variant]
    stage = run.training(known, seed, args, Path("data"), run.length_of(args), LABELS)
    recipe = stage.command[stage.command.index("--config-name") + 1]
    return stage, compose(recipe, [word for word in stage.command if "=" in word])


def test_the_variants_are_those_of_the_paper() -> None:
    nine = variants.NINE
    assert {each.title for each in nine.values()} == {variant_name(name) for name in nine} == set(PUBLISHED)
    assert variants.variants_of(None, nine) == list(nine.values())
    assert [each.name for each in variants.variants_of("vgs, w2v2_vgs,vgs", nine)] == ["vgs", "w2v2_vgs"]
    with pytest.raises(ConfigError, match="got mt4ssl, wanted some of w2v2, vgs"):
        variants.variants_of("vgs,mt4ssl", nine)


def test_a_run_is_one_command_with_the_papers_phases(compose) -> None:
    words = ["--updates", "70", "--out", "o", "--abx", "all", "model.encoder_layers=4"]
    stage, cfg = composed(compose, *words)
    assert stage.line.startswith("fairseq-hydra-train --config-name joint_sequential_small task.data=data ")
    assert stage.name == "w2v2_vgs-seed3" and stage.products == [Path("o/w2v2_vgs-seed3/checkpoint_last.pt")]
    assert (cfg.task.schedule, list(cfg.task.lengths)) == ("w2v2_vgs", ["20 updates", "rest"])
    assert (cfg.optimization.max_update, cfg.optimization.max_epoch, cfg.common.seed) == (70, 0, 3)
    kept = cfg.checkpoint
    assert (kept.save_interval_updates, kept.keep_interval_updates, kept.no_epoch_checkpoints) == (
        10,
        -1,
        True,
    )
    assert cfg.model.encoder_layers == 4


def test_base_models_are_one_phase_and_differ_in_nothing_else(compose) -> None:
    _, alone = composed(compose, "--updates", "70", variant="vgs")
    _, both = composed(compose, "--updates", "70", variant="vgsplus_vgs")
    assert list(alone.task.lengths) == ["rest"]
    for section in ("model", "criterion", "optimizer", "optimization", "dataset", "common"):
        assert alone[section] == both[section], section
    differing = {key for key in alone.task if alone.task[key] != both.task[key]}
    assert differing == {"schedule", "lengths"}


@pytest.mark.parametrize("variant", variants.NINE)
def test_every_schedule_fills_its_run(compose, variant) -> None:
    from fairseq_mtssl.schedule import Schedule, parse_schedule

    _, cfg = composed(compose, variant=variant)
    laid = Schedule.resolve(parse_schedule(variant, list(cfg.task.lengths)), cfg.optimization.max_update, 94)
    assert laid.starts == ((0, run.UPDATES * 2 // 7) if "_" in variant else (0,))


def test_the_full_size_counts_in_epochs(compose) -> None:
    _, cfg = composed(compose, "--config", "joint_sequential", "task.region_features=f")
    assert list(cfg.task.lengths) == ["20 epochs", "rest"] and cfg.optimization.max_epoch == 70
    kept = cfg.checkpoint
    assert (kept.save_interval, kept.keep_last_epochs, kept.no_epoch_checkpoints) == (10, -1, False)
    assert cfg.model.vgs_mask_prob == 0


def test_labels_are_relevant_in_training_as_in_evaluation(compose) -> None:
    assert composed(compose, "--relevance", "label")[1].task.relevance == "label"


@pytest.mark.parametrize(
    ("words", "word"),
    [
        (["--updates", "100"], "got 100, wanted a multiple of 7 such as 98: phases are 2/7 and 5/7, checkp"),
        (["--updates", "0"], "such as 7"),
        (["--epochs", "-7"], "--epochs: got -7"),
    ],
)
def test_lengths_that_cannot_be_cut_in_seven_are_refused(words, word) -> None:
    with pytest.raises(ConfigError, match=word):
        run.length_of(run.parse(words))


def test_seeds_are_numbers_each_once() -> None:
    assert variants.seeds_of("1, 2,30") == [1, 2, 30]
    for text in ("", "1,,2", "a", "1,1", "-1"):
        with pytest.raises(ConfigError, match="wanted whole numbers, each once"):
            variants.seeds_of(text)


def test_a_folder_without_items_goes_without_abx(tmp_path, capsys) -> None:
    args = run.parse(["--data", str(tmp_path)])
    assert run.find_item(args, tmp_path) is None
    assert f"manifests/aligned_phones.py --data {tmp_path}" in capsys.readouterr().out
    (tmp_path / "test.item").touch()
    assert run.find_item(args, tmp_path) == tmp_path / "test.item"
    assert run.find_item(run.parse([]), Path("none")) == Path("none/test.item")
    with pytest.raises(ConfigError, match="is not there"):
        run.find_item(run.parse(["--item", str(tmp_path / "no")]), tmp_path)


def trained(folder: Path, *saved: tuple[str, int], keep: bool = True) -> Stage:
    folder.mkdir(parents=True)
    lines = [
        f"[time][fairseq][INFO] - Saved checkpoint o (1)/{name} (epoch 2 @ {updates} updates, score 1) (…)"
        for name, updates in saved
    ]
    (folder / "hydra_train.log").write_text("\n".join(lines))
    for name, _ in saved:
        (folder / name).touch()
    return Stage("vgs-seed1", [], folder, [folder / "checkpoint_last.pt"])


def test_five_of_the_seven_checkpoints_are_measured(tmp_path) -> None:
    from fairseq_mtssl.cli.main import build_parser

    saved = [(f"checkpoint_1_{n}.pt", n) for n in range(10, 80, 10)]
    stage = trained(tmp_path / "r", ("checkpoint_best.pt", 5), *saved)
    found = run.abx_stages(stage, Path("test.item"), Path("data"), ALL)
    assert [each.name for each in found] == [f"abx vgs-seed1 {n}" for n in (10, 20, 30, 50, 70)]
    args = build_parser().parse_args(found[1].command[1:])
    assert (args.checkpoint, args.slicing) == (str(tmp_path / "r" / "checkpoint_1_20.pt"), "librilight")
    assert found[1].products == [Path(args.json)] and Path(args.json).name == "abx_20.json"
    assert tmp_path / "r" in Path(args.json).parents


def test_by_default_a_small_run_is_measured_at_the_ends_of_its_phases(tmp_path, compose) -> None:
    args = run.parse([])
    assert run.measured_parts(args) == ENDS and run.measured_parts(run.parse(["--abx", "all"])) == ALL
    assert run.measured_parts(run.parse(["--config", "joint_sequential"])) == ALL
    _, cfg = composed(compose)
    assert cfg.checkpoint.save_interval_updates == 430 and cfg.optimization.max_update == 1505
    saved = [("checkpoint_1_430.pt", 430), ("checkpoint_2_860.pt", 860), ("checkpoint_last.pt", 1505)]
    stage = trained(tmp_path / "r", *saved)
    found = run.abx_stages(stage, Path("test.item"), Path("data"), ENDS)
    assert [each.name for each in found] == ["abx vgs-seed1 430", "abx vgs-seed1 1505"]


@pytest.mark.parametrize("name", variants.BRANCHES)
def test_other_branches_differ_from_their_comparisons_in_the_branch_alone(compose, name) -> None:
    variant = variants.BRANCHES[name]
    _, cfg = composed(compose, variant=name)
    _, twin = composed(compose, variant=f"{variant.schedule}-constant-speed")
    assert (str(cfg.model.ssl), cfg.task.speed_perturb) == (variant.ssl, 0)
    assert list(cfg.task.labels) == (["o/labels/mfcc-cmn"] if variant.ssl in ("hubert", "mt4ssl") else [])
    for section in ("criterion", "optimizer", "optimization", "dataset", "common"):
        assert cfg[section] == twin[section], section
    differing = {key for key in cfg.model if cfg.model[key] != twin.model[key]}
    differing |= {key for key in cfg.task if cfg.task[key] != twin.task[key]}
    assert differing <= {"ssl", "labels"}


def test_epoch_checkpoints_are_known_by_their_updates_and_gaps_are_told(tmp_path, capsys) -> None:
    saved = [(f"checkpoint{n}.pt", 94 * n) for n in (10, 20, 30, 40, 60, 70)]
    stage = trained(tmp_path / "r", *saved)
    (tmp_path / "r" / "checkpoint10.pt").unlink()
    found = run.abx_stages(stage, Path("test.item"), Path("data"), ALL)
    assert [each.name for each in found] == [f"abx vgs-seed1 {94 * n}" for n in (20, 30, 70)]
    assert "no checkpoint after 940, 4700 updates" in capsys.readouterr().out


def test_a_run_that_ends_with_an_epoch_is_measured_at_its_end(tmp_path) -> None:
    saved = [(f"checkpoint_1_{n}.pt", n) for n in range(10, 70, 10)]
    stage = trained(tmp_path / "r", *saved, ("checkpoint_last.pt", 70))
    found = run.abx_stages(stage, Path("test.item"), Path("data"), ALL)
    assert [each.name for each in found] == [f"abx vgs-seed1 {n}" for n in (10, 20, 30, 50, 70)]
    assert str(tmp_path / "r" / "checkpoint_last.pt") in found[-1].command


def test_a_run_that_keeps_nothing_is_an_error(tmp_path) -> None:
    stage = trained(tmp_path / "r", ("checkpoint_best.pt", 10), ("checkpoint_last.pt", 20))
    with pytest.raises(ConfigError, match="keeps no checkpoint by update or epoch"):
        run.abx_stages(stage, Path("i"), Path("d"), ALL)


def test_the_cost_of_a_variant_orders_the_longest_runs_first() -> None:
    nine = variants.NINE
    ordered = sorted(nine.values(), key=lambda each: -each.cost)
    assert ordered[0].name == "vgsplus" and nine["vgsplus_vgs"].cost < nine["vgs_vgsplus"].cost


def test_the_shell_script_hands_its_words_on(tmp_path) -> None:
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    script = ROOT / "examples" / "schedules" / "run.sh"
    said = subprocess.run(
        ["bash", str(script), "--only", "a b"],
        env={"PYTHON": str(fake), "PATH": "/usr/bin:/bin"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.splitlines() == [str(ROOT / "examples" / "schedules" / "run.py"), "--only", "a b"]
