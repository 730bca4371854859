"""The commands that examples are made of, and the results that they leave."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import results, stages

CHANCE = {"r1": 0.5, "r5": 2.5, "r10": 5.0, "median_rank": 100.5}
SCORES = {
    "images": 200,
    "captions": 400,
    "split": "test",
    "relevance": "image",
    "speech_to_image": {"r1": 12.25, "r5": 30.0, "r10": 44.0, "median_rank": 13.0},
    "image_to_speech": {"r1": 10.0, "r5": 31.0, "r10": 47.0, "median_rank": 12.5},
    "chance": {"speech_to_image": CHANCE, "image_to_speech": CHANCE},
}


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\n\r"), min_size=1))
def test_any_path_survives_hydras_grammar(text) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    value = stages.hydra_value(f"/data/{text}/é (1), a=b")
    assert OverridesParser.create().parse_override(f"task.data={value}").value() == f"/data/{text}/é (1), a=b"


def test_a_plain_path_stays_plain() -> None:
    assert stages.hydra_value("runs/demo-1/data_2.x") == "runs/demo-1/data_2.x"


def test_a_training_is_one_fairseq_command_into_its_own_folder(compose) -> None:
    stage = stages.training_stage("r", "vgs_small", Path("d"), Path("out"), ["optimization.max_update=7"])
    cfg = compose("vgs_small", [word for word in stage.command if "=" in word])
    assert stage.line.startswith("fairseq-hydra-train --config-name vgs_small ")
    assert (cfg.task.data, cfg.checkpoint.save_dir, cfg.optimization.max_update) == ("d", "out/r", 7)
    assert stage.folder == Path("out/r") and stage.products == [Path("out/r/checkpoint_best.pt")]


def test_evaluations_and_curves_are_commands_of_mtssl() -> None:
    from fairseq_mtssl.cli.main import build_parser

    run = stages.training_stage("r", "vgs_small", Path("d"), Path("out"))
    evaluation = stages.retrieval_stage(run, Path("d"), Path("out"), "label", Path("out/gallery.png"))
    args = build_parser().parse_args(evaluation.command[1:])
    assert (args.checkpoint, args.split, args.relevance) == ("out/r/checkpoint_best.pt", "test", "label")
    assert Path(args.json) in evaluation.products and Path(args.gallery) in evaluation.products
    phases = [{"name": "w2v2", "first_update": 0}, {"name": "vgsplus", "first_update": 24}]
    curves = stages.curves_stage({"(W2V2, VGS+)": run}, phases, Path("out/curves.png"), Path("out/curves"))
    args = build_parser().parse_args(curves.command[1:])
    assert args.phase == ["0:W2V2", "24:VGS+"] and args.runs == ["(W2V2, VGS+)=out/r"]


def test_labels_are_made_by_the_words_that_finished_stages_are_known_by(tmp_path, monkeypatch) -> None:
    from examples.mt4ssl import run as mt4ssl
    from examples.speechocean import run as speechocean

    first = "mtssl make-targets --data d --features mfcc --clusters 50"
    every = stages.labels_stage("a", "mfcc", 50, Path("d"), Path("o"))
    assert (every.line, every.needs) == (f"{first} --out o/labels/a", ("data",))
    assert (every.name, every.products) == ("labels a", [Path("o/labels/a/targets.json")])
    valid = mt4ssl.measured_labels("a", "mfcc", 50, Path("d"), Path("o"))
    assert valid.line == f"{first} --out o/labels/valid_a --splits valid --fit-split valid"
    assert (valid.name, valid.needs) == ("labels valid_a", ("data", "mt4ssl"))
    monkeypatch.chdir(tmp_path)
    args = speechocean.parse(["--speech", "s", "--more", "m", "--out", "o"])
    experiment = speechocean.Experiment(speechocean.Pipeline(args.out), args)
    some = experiment.labels("a", "r.pt:2", ("train", "test"), "train", ["r"], ["--random-weights"])
    first = "mtssl make-targets --data o/data --features r.pt:2 --clusters 100"
    assert some.line == f"{first} --fit-split train --splits train,test --random-weights --out o/labels/a"
    assert some.needs == ("speech", "r")


def test_scripts_are_named_as_one_would_type_them(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(stages.ROOT)
    assert stages.manifest_stage("scenes", Path("d")).command[:2] == ["python", "manifests/scenes.py"]
    monkeypatch.chdir(tmp_path)
    assert Path(stages.manifest_stage("scenes", Path("d")).command[1]).is_absolute()


def test_the_table_ends_with_chance(capsys) -> None:
    table = results.retrieval_table({"(W2V2, VGS)": SCORES, "VGS": SCORES})
    assert [row[0] for row in table.rows] == ["(W2V2, VGS)", "VGS", "chance"]
    assert table.header[1:3] == ["s→i R@1", "s→i R@5"] and len(table.rows[0]) == len(table.header) == 9
    results.print_table(table)
    lines = capsys.readouterr().out.splitlines()
    assert len({len(line) for line in lines}) == 1 and lines[-1].split()[:2] == ["chance", "0.5"]


def test_a_schedule_reads_as_a_sentence() -> None:
    phases = [{"name": "w2v2", "updates": 800}, {"name": "vgs", "updates": 1200}]
    assert results.schedule_line(phases) == "W2V2 800 updates, then VGS 1200 updates"


def test_versions_name_what_decides_numbers() -> None:
    assert {"python", "torch", "numpy", "fairseq-fixed"} <= set(results.versions())


@pytest.mark.parametrize("recipes", [("joint_sequential_small", "vgs_small")])
def test_the_demo_compares_runs_that_differ_in_schedule_and_length_alone(recipes, compose) -> None:
    first, second = (compose(recipe, ["task.data=d"]) for recipe in recipes)
    for section in ("model", "criterion", "optimizer", "dataset", "common"):
        assert first[section] == second[section], section
    differing = {key for key in first.task if key != "_name" and first.task[key] != second.task[key]}
    assert differing <= {"schedule", "lengths", "max_update"}
