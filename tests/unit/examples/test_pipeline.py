"""Stages: run once, resumed, done anew when they must be; nothing of the user's is removed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from examples import pipeline as module
from examples.pipeline import Pipeline, Stage, run_example
from fairseq_mtssl.errors import ConfigError, StageError


def writing(out: Path, name: str, text: str = "x", needs: tuple[str, ...] = (), fails: bool = False) -> Stage:
    """A stage that appends a line to its product, so that runs can be counted."""
    folder = out / name
    code = (
        "import pathlib, sys\n"
        f"folder = pathlib.Path({str(folder)!r}); folder.mkdir(exist_ok=True)\n"
        f"(folder / 'product').open('a').write({text!r})\n"
        f"sys.exit({3 if fails else 0})\n"
    )
    return Stage(name, ["python", "-c", code], folder, [folder / "product"], needs)


def read(out: Path, name: str) -> str:
    return (out / name / "product").read_text()


def test_a_finished_stage_is_not_done_twice_and_keeps_its_seconds(tmp_path, capsys) -> None:
    first = Pipeline(tmp_path)
    first.run(writing(tmp_path, "a"))
    again = Pipeline(tmp_path)
    again.run(writing(tmp_path, "a"))
    assert read(tmp_path, "a") == "x"
    assert again.seconds == first.seconds and again.total_seconds()["total"] == first.seconds["a"]
    assert again.commands == first.commands and len(first.commands) == 1
    assert "done before" in capsys.readouterr().out


def test_a_fresh_pipeline_runs_every_stage_again(tmp_path) -> None:
    Pipeline(tmp_path).run(writing(tmp_path, "a"))
    Pipeline(tmp_path, fresh=True).run(writing(tmp_path, "a"))
    assert read(tmp_path, "a") == "x"  # emptied, then written once


def test_a_changed_command_empties_the_folder_and_redoes_what_needs_it(tmp_path) -> None:
    def run(text: str) -> None:
        pipeline = Pipeline(tmp_path)
        pipeline.run(writing(tmp_path, "a", text))
        pipeline.run(writing(tmp_path, "b", "b", needs=("a",)))
        pipeline.run(writing(tmp_path, "c", "c"))
        # what is left untouched keeps this mark
        (tmp_path / "b" / "mark").touch()
        (tmp_path / "c" / "mark").touch()

    run("old")
    (tmp_path / "b" / "mark").write_text("kept?")
    (tmp_path / "c" / "mark").write_text("kept?")
    run("new")
    assert read(tmp_path, "a") == "new" and read(tmp_path, "b") == "b"
    assert (tmp_path / "b" / "mark").read_text() == ""
    assert (tmp_path / "c" / "mark").read_text() == "kept?"


def test_a_failed_stage_goes_on_with_what_it_left(tmp_path) -> None:
    stage = writing(tmp_path, "a", fails=True)
    with pytest.raises(StageError, match="exit code 3"):
        Pipeline(tmp_path).run(stage)
    with pytest.raises(StageError):
        Pipeline(tmp_path).run(stage)
    assert read(tmp_path, "a") == "xx"  # not emptied in between: a training resumes from its checkpoint


def test_seconds_before_an_interruption_count(tmp_path) -> None:
    stage = writing(tmp_path, "a", fails=True)
    for _ in range(2):
        with pytest.raises(StageError):
            Pipeline(tmp_path).run(stage)
    record = tmp_path / ".seconds" / "a"
    assert record.is_file()
    record.write_text("1000.0")
    pipeline = Pipeline(tmp_path)
    with pytest.raises(StageError):
        pipeline.run(stage)
    assert 1000.0 <= pipeline.seconds["a"] < 1060.0


def test_a_product_that_was_removed_is_made_again(tmp_path) -> None:
    Pipeline(tmp_path).run(writing(tmp_path, "a"))
    (tmp_path / "a" / "product").unlink()
    Pipeline(tmp_path).run(writing(tmp_path, "a"))
    assert read(tmp_path, "a") == "x"


def test_a_stage_that_leaves_no_product_is_an_error(tmp_path) -> None:
    stage = Stage("a", ["python", "-c", "pass"], tmp_path / "a", [tmp_path / "a" / "product"])
    with pytest.raises(StageError, match="left no .*product"):
        Pipeline(tmp_path).run(stage)


def test_files_that_no_stage_has_made_are_refused_not_removed(tmp_path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match="were not made here"):
        Pipeline(tmp_path, fresh=True).run(writing(tmp_path, "a"))
    assert (tmp_path / "a" / "thesis.txt").read_text() == "years"


def test_a_training_is_done_anew_when_a_recipe_changes_even_while_it_trains(tmp_path, monkeypatch) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    (recipes / "r.yaml").write_text("old")
    monkeypatch.setattr(module, "RECIPES", recipes)
    change = f"import pathlib; pathlib.Path({str(recipes / 'r.yaml')!r}).write_text('new')"
    stage = writing(tmp_path, "a")
    stage = Stage("a", [*stage.command[:2], f"{change}\n{stage.command[2]}"], stage.folder, stage.products)
    training = Stage(stage.name, stage.command, stage.folder, stage.products, is_training=True)
    for _ in range(
        3
    ):  # the recipe of the first run was the old one: the second run starts anew, the third rests
        Pipeline(tmp_path).run(training)
    assert read(tmp_path, "a") == "x"
    assert (tmp_path / "logs" / "a.log").is_file()


def test_a_failed_training_shows_its_last_lines_and_where_its_log_is(tmp_path) -> None:
    code = "[print('line', i) for i in range(60)]; raise SystemExit('cause' + ' of it')"
    stage = Stage("a", ["python", "-c", code], tmp_path / "a", [], is_training=True)
    with pytest.raises(StageError) as error:
        Pipeline(tmp_path).run(stage)
    assert "cause of it" in str(error.value) and "logs/a.log" in str(error.value)
    assert "line 59" in str(error.value) and "line 5\n" not in str(error.value)
    assert "line 5\n" in (tmp_path / "logs" / "a.log").read_text()


def test_the_printed_command_can_be_retyped(tmp_path, capsys) -> None:
    stage = Stage("a", ["python", "-c", "print('a b')"], tmp_path / "a", [])
    Pipeline(tmp_path).run(stage)
    assert "$ python -c 'print('\"'\"'a b'\"'\"')'" in capsys.readouterr().out


def test_a_fault_of_the_users_ends_an_example_without_a_traceback(capsys) -> None:
    def error() -> None:
        raise ConfigError("--out", ["is wrong; give another"])

    def stop() -> None:
        raise KeyboardInterrupt

    assert run_example(error) == 1
    assert capsys.readouterr().err == "error: --out: is wrong; give another\n"
    assert run_example(stop) == 130
    assert "goes on" in capsys.readouterr().err


def test_programs_are_those_of_this_environment() -> None:
    assert module._program("python") == sys.executable
    assert Path(module._program("mtssl")).parent == Path(sys.executable).parent
