"""What a run folder says about itself."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import yaml
from run_folders import write_checkpoint, write_hydra

from fairseq_mtssl.errors import CheckpointError, ConfigError
from fairseq_mtssl.inference.trainings import training_of
from fairseq_mtssl.report.run_folder import RunFolder, data_folder, hydra_record, pick_checkpoint


def read_run_folder(folder: Path) -> RunFolder:
    checkpoint = pick_checkpoint(folder, None)
    return RunFolder(folder, checkpoint, *training_of(checkpoint), **hydra_record(folder))


def test_everything_about_a_training_is_read(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_last.pt", updates=9)
    write_checkpoint(tmp_path / "checkpoint_best.pt")
    write_hydra(tmp_path)
    run = read_run_folder(tmp_path)
    assert (run.checkpoint.name, run.updates, run.seconds, run.parameters) == (
        "checkpoint_best.pt",
        7,
        90.0,
        10,
    )
    assert (run.recipe, run.cwd, run.section("common")["seed"]) == ("vgs_small", Path("/somewhere"), 3)
    assert yaml.safe_load(run.yaml) == run.cfg and run.section("nothing") == {}


def test_the_command_can_be_typed_again(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_best.pt")
    write_hydra(tmp_path, config_sources=[{"path": "/my recipes", "provider": "command-line"}])
    text = read_run_folder(tmp_path).command_text
    assert text.splitlines()[0].endswith("--config-name vgs_small \\")
    assert shlex.split(text.replace("\\\n", " ")) == [
        "fairseq-hydra-train",
        *["--config-dir", "/my recipes", "--config-name", "vgs_small"],
        *["task.data=my data", "task.lengths=[4 updates,rest]"],
    ]


@pytest.mark.parametrize("content", [None, "", "hydra: 3", "hydra: {job: {}}", "{"])
def test_without_hydras_record_the_command_is_unknown(content: str | None, tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_best.pt")
    if content is not None:
        (tmp_path / ".hydra").mkdir()
        (tmp_path / ".hydra" / "hydra.yaml").write_text(content)
    run = read_run_folder(tmp_path)
    assert run.command is None and run.command_text == "" and run.recipe is None


def test_the_last_checkpoint_is_taken_where_none_is_best(tmp_path: Path) -> None:
    last = write_checkpoint(tmp_path / "checkpoint_last.pt")
    assert pick_checkpoint(tmp_path, None) == last
    assert pick_checkpoint(tmp_path, "other.pt") == Path("other.pt")


def test_a_folder_without_a_checkpoint_says_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"neither .*only model\.pt\. Give the folder .*--checkpoint"):
        read_run_folder(tmp_path)


def test_values_that_yaml_does_not_know_are_written_as_text(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "checkpoint_best.pt", task={"_name": "t", "data": Path("/d"), "n": [1, None]})
    assert yaml.safe_load(read_run_folder(tmp_path).yaml)["task"] == {
        "_name": "t",
        "data": "/d",
        "n": [1, None],
    }


def test_pairs_are_looked_for_here_and_where_the_training_was_started(tmp_path: Path) -> None:
    there = tmp_path / "there"
    for split in ("test", "valid"):
        (there / "data").mkdir(parents=True, exist_ok=True)
        (there / "data" / f"{split}.pairs").write_text("")
    write_checkpoint(tmp_path / "checkpoint_best.pt", task={"_name": "t", "data": "data"})
    write_hydra(tmp_path, cwd=str(there))
    run = read_run_folder(tmp_path)
    assert data_folder(run, None, None) == (there / "data", "test")
    assert data_folder(run, str(there / "data"), "valid") == (there / "data", "valid")
    (there / "data" / "test.pairs").unlink()
    assert data_folder(run, None, None) == (there / "data", "valid")
    with pytest.raises(
        ConfigError, match=r"data: holds no dev\.pairs.*--data, another --split, or --captions 0"
    ):
        data_folder(run, None, "dev")
    with pytest.raises(ConfigError, match=r"data: holds no test\.pairs or valid\.pairs"):
        data_folder(run, "data", None)
