"""Stages in a queue: so many at a time, in order, none begun after one that failed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

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
    pipeline.run_queue(stages, 2)
    a, b, c = (told(tmp_path, name) for name in "abc")
    assert a["begin"] < b["end"] and b["begin"] < a["end"]  # side by side
    assert c["begin"] >= min(a["end"], b["end"])
    assert {each["threads"] for each in (a, b, c)} == {"1"}
    assert pipeline.commands == [each.line for each in stages]
    assert pipeline.total_seconds()["total"] < sum(pipeline.seconds[name] for name in "abc")


def test_a_queue_that_is_done_is_not_done_again(tmp_path: Path) -> None:
    stages = [stage(tmp_path, name) for name in "ab"]
    first = Pipeline(tmp_path)
    first.run_queue(stages, 2)
    before = told(tmp_path, "a")
    again = Pipeline(tmp_path)
    again.run_queue(stages, 2)
    assert told(tmp_path, "a") == before and again.total_seconds() == first.total_seconds()


def test_after_a_failure_no_other_is_begun_and_those_under_way_end(tmp_path: Path) -> None:
    stages = [stage(tmp_path, "bad", code=3), stage(tmp_path, "long", 1.5), stage(tmp_path, "x", 3.0)]
    stages += [stage(tmp_path, "late")]
    start = time.monotonic()
    with pytest.raises(StageError, match="bad ended with exit code 3"):
        Pipeline(tmp_path).run_queue(stages, 2)
    assert (tmp_path / "long" / "told").is_file() and not (tmp_path / "late").exists()
    assert time.monotonic() - start < 30


def test_one_core_does_them_in_order(tmp_path: Path) -> None:
    Pipeline(tmp_path).run_queue([stage(tmp_path, name) for name in "ab"], 1)
    assert told(tmp_path, "a")["end"] <= told(tmp_path, "b")["begin"]


def test_an_empty_queue_is_nothing(tmp_path: Path) -> None:
    pipeline = Pipeline(tmp_path)
    pipeline.run_queue([], 2)
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
def test_the_clock_of_a_queue(seconds, at_once, clock) -> None:
    assert clock_seconds(seconds, at_once) == clock
