"""The recipe of LibriSpeech, taken apart by its dry run: every command parses, the stages fit together."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from fairseq_mtssl.corpora.base import parse

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "examples" / "librispeech"
STAGES = ["data", "targets1", "pretrain1", "targets2", "pretrain2", "text", "finetune", "decode"]


def dry_run(*stages: str, **settings: str) -> list[list[str]]:
    """The commands that the script would run, as words."""
    run = script(*stages, DRY="1", **settings)
    assert run.returncode == 0, run.stderr
    return [shlex.split(line) for line in run.stdout.splitlines() if not line.startswith("# ")]


def script(*stages: str, **settings: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    words = ["bash", str(FOLDER / "run.sh"), *stages]
    return subprocess.run(words, env={**kept, **settings}, capture_output=True, text=True, check=False)


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


def settings_of(words: list[str]) -> list[str]:
    return [word for word in words if "=" in word]


def test_all_stages_print_commands_and_touch_nothing(tmp_path) -> None:
    out = tmp_path / "new"
    programs = [words[0] for words in dry_run(OUT=str(out), LM="lm.arpa")]
    assert not out.exists()
    assert programs.count("fairseq-hydra-train") == 2 + 4
    assert programs.count("mtssl") == 2 + 1 + 4 * 4 * 2
    assert programs.count("python") == 1


def test_the_subcommands_take_their_options() -> None:
    from fairseq_mtssl.cli.main import build_parser

    for words in dry_run(LM="lm.arpa", VOCAB="words.txt"):
        if words[0] == "mtssl":
            build_parser().parse_args(words[1:])


def test_the_manifest_script_takes_its_options() -> None:
    [words] = dry_run("data")
    script = Path(words[1])
    assert script.is_file() and script.parent.name == "manifests"
    parse(script.stem, words[2:])


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
def test_the_batch_is_the_same_on_any_number_of_gpus(gpus) -> None:
    parts = []
    for words in dry_run("pretrain1", "pretrain2", "finetune", GPUS=str(gpus)):
        settings = dict(word.split("=", 1) for word in settings_of(words))
        processes = int(settings["distributed_training.distributed_world_size"])
        assert processes <= gpus
        parts.append(processes * int(settings["optimization.update_freq"].strip("[]")))
    assert parts == [16, 16, 8, 8, 8, 8]


def test_the_stages_hand_on_what_the_next_one_reads(compose) -> None:
    commands = dry_run(OUT="o")
    trainings = [words for words in commands if words[0] == "fairseq-hydra-train"]
    first, second, *tunings = (
        compose(option(words, "--config-name"), settings_of(words)) for words in trainings
    )
    assert {cfg.dataset.max_tokens for cfg in (first, second)} == {3_800_000}
    assert {cfg.dataset.max_tokens for cfg in tunings} == {3_200_000}
    targets = [words for words in commands if words[:2] == ["mtssl", "make-targets"]]
    assert [option(words, "--out") for words in targets] == [*first.task.labels, *second.task.labels]
    assert option(targets[1], "--features") == f"{first.checkpoint.save_dir}/checkpoint_last.pt:6"
    assert {cfg.model.pretrained for cfg in tunings} == {f"{second.checkpoint.save_dir}/checkpoint_last.pt"}
    [text] = [words for words in commands if words[:2] == ["mtssl", "prepare-text"]]
    prepared = option(text, "--splits").split(",")
    assert {cfg.dataset.train_subset for cfg in tunings} <= set(prepared)
    assert option(text, "--train") in prepared
    decoded = [words for words in commands if words[:2] == ["mtssl", "transcribe"]]
    assert {option(words, "--split") for words in decoded} <= set(prepared)
    best = {f"{cfg.checkpoint.save_dir}/checkpoint_best.pt" for cfg in tunings}
    assert {option(words, "--checkpoint") for words in decoded} == best


def test_a_stage_that_is_done_is_left_alone(tmp_path) -> None:
    done = tmp_path / "labels1" / "targets.json"
    done.parent.mkdir()
    done.touch()
    run = script("targets1", OUT=str(tmp_path))
    assert run.returncode == 0 and "have " in run.stdout and "mtssl" not in run.stdout


def test_a_failing_stage_stops_the_script(tmp_path) -> None:
    run = script(
        "data", "targets1", ROOT=str(tmp_path / "none"), OUT=str(tmp_path / "o"), PATH=fake_python(tmp_path)
    )
    assert run.returncode == 3
    assert "# targets1" not in run.stdout


def fake_python(folder: Path) -> str:
    """A search path on which `python` fails."""
    (folder / "python").write_text("#!/bin/sh\nexit 3\n")
    (folder / "python").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize("settings, stages", [({"GPUS": "3"}, []), ({}, ["pretrain"])])
def test_unknown_settings_are_refused_with_what_is_known(settings, stages) -> None:
    run = script(*stages, DRY="1", **settings)
    assert run.returncode == 2 and "wanted" in run.stderr


def test_the_console_commands_of_the_readme_run_dry() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    [command] = re.findall(r"^```console\n(.*?)\n```$", text, re.M | re.S)
    words = shlex.split(command)
    settings = dict(word.split("=", 1) for word in words if "=" in word)
    assert words[len(settings) :] == ["bash", "examples/librispeech/run.sh"]
    declared = (FOLDER / "run.sh").read_text(encoding="utf-8")
    assert all(f': "${{{name}:=' in declared for name in settings)
    assert dry_run(**settings)
    assert all(f"**{stage}" in text or f", {stage}.**" in text for stage in STAGES)
