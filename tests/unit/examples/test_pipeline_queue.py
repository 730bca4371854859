"""Stages in a queue: so many at a time, in order, none begun after one that failed."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from doit.exceptions import InvalidDodoFile

from examples import pipeline as module
from examples.pipeline import Pipeline, Stage, clock_seconds
from fairseq_mtssl.errors import StageError


def stage(out: Path, name: str, seconds: float = 0.0, code: int = 0) -> Stage:
    """Writes when it ran and with how many threads."""
    folder = out / name
    text = (
        "import json, os, pathlib, sys, time\n"
        f"folder = pathlib.Path({str(folder)!r}); folder.mkdir(exist_ok=True)\n"
        f"begin = time.time(); time.sleep({seconds})\n"
        "told = {'begin': begin, 'end': time.time(), 'threads': os.environ.get('OMP_NUM_THREADS')}\n"
        "(folder / 'told').write_text(json.dumps(told))\n"
        f"sys.exit({code})\n"
    )
    return Stage(name, ["python", "-c", text], folder, [folder / "told"])


def told(out: Path, name: str) -> dict[str, float]:
    return json.loads((out / name / "told").read_text())


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.torch.cuda, "is_available", lambda: False)


def test_as_many_as_asked_for_run_at_once(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    stages = [stage(tmp_path, name, 0.6) for name in "abc"]
    pipeline.run(*stages, at_once=2)
    a, b, c = (told(tmp_path, name) for name in "abc")
    assert a["begin"] < b["end"] and b["begin"] < a["end"]  # side by side
    assert c["begin"] >= min(a["end"], b["end"])
    assert {each["threads"] for each in (a, b, c)} == {"1"}
    assert pipeline.commands == [each.line for each in stages]
    assert pipeline.total_seconds()["total"] < sum(pipeline.seconds[name] for name in "abc")


def test_stages_of_a_queue_that_are_done_are_not_run_again(tmp_path: Path) -> None:
    stages = [stage(tmp_path, name) for name in "ab"]
    first = Pipeline(tmp_path)
    first.run(*stages, at_once=2)
    before = told(tmp_path, "a")
    again = Pipeline(tmp_path)
    again.run(*stages, at_once=2)
    assert told(tmp_path, "a") == before and again.total_seconds() == first.total_seconds()


def test_after_a_failure_no_other_is_begun_and_those_under_way_end(tmp_path: Path) -> None:
    stages = [stage(tmp_path, "bad", code=3), stage(tmp_path, "long", 1.5), stage(tmp_path, "x", 3.0)]
    stages += [stage(tmp_path, "late")]
    start = time.monotonic()
    with pytest.raises(StageError, match="bad ended with exit code 3"):
        Pipeline(tmp_path).run(*stages, at_once=2)
    assert (tmp_path / "long" / "told").is_file() and not (tmp_path / "late").exists()
    assert time.monotonic() - start < 30


def test_a_stage_waits_for_those_that_it_needs_and_what_follows_comes_before_the_finish(
    tmp_path: Path,
) -> None:
    first, needs = stage(tmp_path, "a", 0.5), replace(stage(tmp_path, "b"), needs=("a",))
    finished = []
    Pipeline(tmp_path).run(
        first,
        needs,
        at_once=2,
        then=lambda done: [replace(stage(tmp_path, f"{done.name} after"), needs=(done.name,))],
        finish=lambda done: finished.append(
            (done.name, (tmp_path / f"{done.name} after" / "told").is_file())
        ),
    )
    assert told(tmp_path, "a")["end"] <= told(tmp_path, "b")["begin"]
    assert sorted(finished) == [("a", True), ("b", True)]


def test_what_is_done_is_in_the_database_before_the_next_begins(tmp_path: Path) -> None:
    folder, database = tmp_path / "b", tmp_path / ".doit.json"
    text = f"import os, shutil; os.mkdir({str(folder)!r}); shutil.copy({str(database)!r}, {str(folder)!r})"
    copy = Stage("b", ["python", "-c", text], folder, [folder / ".doit.json"])
    Pipeline(tmp_path).run(stage(tmp_path, "a"), copy, at_once=1)
    seen = json.loads((folder / ".doit.json").read_text())
    assert {"prepare a", "a", "prepare b"} <= seen.keys() and "b" not in seen


def test_an_interruption_waits_for_those_under_way_and_begins_no_other(tmp_path: Path) -> None:
    interrupt = ["python", "-c", "import os, signal; os.kill(os.getppid(), signal.SIGINT)"]
    stages = [Stage("stop", interrupt, tmp_path / "stop", []), stage(tmp_path, "long", 2.0)]
    # a shell without job control starts programs in the background with this signal ignored
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            Pipeline(tmp_path).run(*stages, stage(tmp_path, "x", 3.0), stage(tmp_path, "late"), at_once=2)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "long" / "told").is_file() and not (tmp_path / "late").exists()


def test_two_stages_of_one_name_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidDodoFile, match="names must be unique"):
        Pipeline(tmp_path).run(stage(tmp_path, "a"), stage(tmp_path, "a"))


def test_one_core_does_them_in_order(tmp_path: Path) -> None:
    Pipeline(tmp_path).run(*[stage(tmp_path, name) for name in "ab"], at_once=1)
    assert told(tmp_path, "a")["end"] <= told(tmp_path, "b")["begin"]


def test_an_empty_queue_runs_and_takes_no_time(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.run()
    assert pipeline.total_seconds() == {"total": 0.0}


@pytest.mark.parametrize(
    ("seconds", "at_once", "clock"),
    [
        ([], 2, 0.0),
        ([3.0, 4.0], 1, 7.0),
        ([3.0, 4.0], 2, 4.0),
        ([5.0, 1.0, 1.0, 4.0], 2, 6.0),
        ([2.0], 3, 2.0),
    ],
)
def test_the_time_of_a_queue_is_that_of_its_stages_run_so_many_at_once(seconds, at_once, clock) -> None:
    assert clock_seconds(seconds, at_once) == clock
