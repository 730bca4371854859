"""Runs the stages of an example one after the other, each as the very command a user would type.

A stage leaves a record of its command. Run again, a finished stage is skipped, an interrupted one goes on
(fairseq from its last checkpoint), and one whose command or input has changed is done anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import torch

import fairseq_mtssl
from examples.training_bar import TrainingBar
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.errors import ConfigError, MtsslError, StageError

RECORDS = ".stages"
LAST_LINES = 25
RECIPES = Path(fairseq_mtssl.__file__).parent / "config"


@dataclass(frozen=True)
class Stage:
    """One command.

    name: of its record and its log. command: the words, a program of this environment first.
    folder: nothing but what it makes is in it; it is removed before the stage is done anew.
    products: files that are there when it is done. needs: stages whose redoing makes this one stale.
    is_training: its output is fairseq's, shown as one progress bar and kept in a log.
    """

    name: str
    command: Sequence[str]
    folder: Path
    products: Sequence[Path]
    needs: Sequence[str] = ()
    is_training: bool = False

    @property
    def line(self) -> str:
        """The command to retype."""
        return shlex.join(self.command)

    @property
    def fingerprint(self) -> str:
        """What, once changed, makes a record worthless: the command, and for a training the recipes."""
        recipes = sorted(RECIPES.glob("*.yaml")) if self.is_training else []
        text = self.line + "".join(path.read_text(encoding="utf-8") for path in recipes)
        return hashlib.sha256(text.encode()).hexdigest()


class Pipeline:
    """Stages that share an output folder.

    out: the folder; records go to `out/.stages`, the output of trainings to `out/logs`.
    fresh: do every stage anew.
    """

    def __init__(self, out: Path, fresh: bool = False) -> None:
        self.out = out
        self.fresh = fresh
        self.seconds: dict[str, float] = {}
        self.commands: list[str] = []
        self.redone: set[str] = set()  # names of stages that were run by this object
        self._wall = 0.0
        (out / RECORDS).mkdir(parents=True, exist_ok=True)
        activate = Path(sys.prefix, "bin", "activate")
        if activate.is_file() and shutil.which("mtssl") != _program("mtssl"):
            print(f"To retype the commands below, first: source {os.path.relpath(activate)}", flush=True)

    def run(self, *together: Stage) -> None:
        """Do stages that are not done; several at the same time, each with its share of the cores.

        Where a GPU is found or there are fewer cores than stages they are done one after the other.
        Raises: StageError if a command fails (the others are run to their ends first); ConfigError if a
        folder holds what no stage here has made.
        """
        self.commands += [stage.line for stage in together]
        threads = usable_cores() // len(together)
        if len(together) == 1 or threads < 1 or torch.cuda.is_available():
            for stage in together:
                self._run(stage)
                self._wall += self.seconds[stage.name]
            return
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        with ThreadPoolExecutor(len(together)) as pool:
            runs = [
                pool.submit(self._run, stage, environment, position)
                for position, stage in enumerate(together)
            ]
        for run in runs:
            run.result()
        self._wall += max(self.seconds[stage.name] for stage in together)

    def run_queue(
        self,
        stages: Sequence[Stage],
        at_once: int,
        then: Callable[[Stage], Iterable[Stage]] = lambda stage: (),
    ) -> None:
        """Do stages that are not done, so many at the same time, in this order; each has one core.

        Where a GPU is found they are done one after the other with all cores, as with one at once. When one
        fails or all are interrupted, those under way are run to their ends and no other is begun.
        then: of a stage that is done, what comes straight after it on the same core, one after the other; a
        generator goes on when the stage that it gave is done.
        Raises: as `run`, for the first in the order that failed.
        """
        followers: dict[str, list[Stage]] = {stage.name: [] for stage in stages}
        at_once = 1 if torch.cuda.is_available() else max(1, min(at_once, len(stages)))
        environment = {**os.environ, "OMP_NUM_THREADS": "1"} if at_once > 1 else None
        free: SimpleQueue[int] = SimpleQueue()
        for position in range(at_once):
            free.put(position)

        def work(stage: Stage) -> None:
            position = free.get()
            try:
                self._run(stage, environment, position)
                for follower in then(stage):
                    followers[stage.name].append(follower)
                    self._run(follower, environment, position)
            finally:
                free.put(position)

        with ThreadPoolExecutor(at_once) as pool:
            runs = [pool.submit(work, stage) for stage in stages]
            try:
                wait(runs, return_when=FIRST_EXCEPTION)
            finally:
                pool.shutdown(cancel_futures=True)
        for run in runs:
            if not run.cancelled():
                run.result()
        chains = [[stage, *followers[stage.name]] for stage in stages]
        self.commands += [each.line for chain in chains for each in chain]
        self._wall += clock_seconds(
            [sum(self.seconds[each.name] for each in chain) for chain in chains], at_once
        )

    def _run(self, stage: Stage, environment: Mapping[str, str] | None = None, position: int = 0) -> None:
        record = self._read(stage)
        fingerprint = stage.fingerprint  # once: a recipe may be edited while it trains
        same = record.get("fingerprint") == fingerprint and not self.fresh
        same = same and not self.redone.intersection(stage.needs)
        if same and record.get("finished") and not _missing(stage):
            self.seconds[stage.name] = record["seconds"]
            _say(f"— {stage.name}: done before ({record['seconds']:.0f} s)\n  {stage.line}")
            return
        self.redone.add(stage.name)
        before = float(record.get("seconds", 0.0)) if same else 0.0
        if not same:
            self._clear(stage, made_here=bool(record))
        _say(f"\n— {stage.name}{', going on' if same else ''}\n$ {stage.line}")
        start = time.monotonic()
        try:
            self._write(stage, fingerprint, False, before)
            self._execute(stage, environment, position)
        finally:
            self.seconds[stage.name] = round(before + time.monotonic() - start, 1)
            self._write(stage, fingerprint, False, self.seconds[stage.name])
        self._write(stage, fingerprint, True, self.seconds[stage.name])
        _say(f"  {stage.name}: {self.seconds[stage.name]:.0f} s")

    def total_seconds(self) -> dict[str, float]:
        """Seconds by stage and, under `total`, by the clock; with what was spent before an interruption."""
        return {**self.seconds, "total": round(self._wall, 1)}

    def _execute(self, stage: Stage, environment: Mapping[str, str] | None, position: int) -> None:
        words = [_program(stage.command[0]), *stage.command[1:]]
        if not stage.is_training:
            code, tail = subprocess.run(words, check=False, env=environment).returncode, ""
        else:
            log = self.out / "logs" / f"{stage.name}.log"
            log.parent.mkdir(exist_ok=True)
            with TrainingBar(stage.name, stage.folder, position) as bar:
                code, tail = _stream(words, log, bar.read, environment)
            tail = f"\n{tail}\nAll of its output is in {log}."
        if code != 0:
            raise StageError(stage.name, f"ended with exit code {code}: {stage.line}{tail}")
        missing = _missing(stage)
        if missing:
            raise StageError(stage.name, f"left no {', '.join(map(str, missing))}: {stage.line}")

    def _clear(self, stage: Stage, made_here: bool) -> None:
        if not stage.folder.exists():
            return
        if not made_here and any(stage.folder.iterdir()):
            raise ConfigError(
                str(stage.folder),
                ["holds files that were not made here; give another output folder or remove it"],
            )
        shutil.rmtree(stage.folder)

    def _path(self, stage: Stage) -> Path:
        return self.out / RECORDS / f"{stage.name}.json"

    def _read(self, stage: Stage) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path(stage).read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _write(self, stage: Stage, fingerprint: str, finished: bool, seconds: float) -> None:
        record = {"command": stage.line, "fingerprint": fingerprint, "finished": finished, "seconds": seconds}
        self._path(stage).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def clock_seconds(seconds: Sequence[float], at_once: int) -> float:
    """How long jobs take by the clock, so many at the same time, each begun as soon as one before it ends."""
    ends = [0.0] * at_once
    for each in seconds:
        earliest = ends.index(min(ends))
        ends[earliest] += each
    return max(ends)


def run_example(main: Callable[[], None]) -> int:
    """Run an example's main; a error of the user's, or an interruption, ends it without a traceback."""
    try:
        main()
    except MtsslError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


def _say(text: str) -> None:
    """Print in one piece, line end included, so that stages side by side do not write into each other."""
    print(f"{text}\n", end="", flush=True)


def _missing(stage: Stage) -> list[Path]:
    return [path for path in stage.products if not path.is_file()]


def _program(name: str) -> str:
    """The program of the environment that runs this, whichever folder or PATH it was called from."""
    if name == "python":
        return sys.executable
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name


def _stream(
    words: Sequence[str],
    log: Path,
    on_line: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Run a command, append its output to a log and show every line to a reader.

    environment: of the command; None: this one's.
    Returns: the exit code and the last lines.
    """
    lines: list[str] = []
    with (
        log.open("a", encoding="utf-8") as file,
        subprocess.Popen(
            words,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
        ) as process,
    ):
        assert process.stdout is not None  # asked for above
        for line in process.stdout:
            file.write(line)
            lines = [*lines[1 - LAST_LINES :], line.rstrip()]
            on_line(line)
    return process.returncode, "\n".join(lines)
