"""Runs the stages of an example, each of them a command that a user could type, as tasks of doit.

A stage is two tasks. "prepare NAME" empties the folder of the stage if its command, its recipes or its inputs
have changed; "NAME" runs the command. After an interruption the first task is up to date and the second is
not. The command is therefore run again in the unchanged folder, and fairseq resumes from its last checkpoint.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Semaphore
from typing import Any

import torch
from doit.control import TaskControl
from doit.dependency import Dependency, JsonDB, TimestampChecker
from doit.exceptions import BaseFail
from doit.reporter import ZeroReporter
from doit.runner import MThreadRunner, Runner
from doit.task import DelayedLoader, Task
from doit.tools import config_changed

import fairseq_mtssl
from examples.training_bar import TrainingBar
from fairseq_mtssl.corpora.data_folder import usable_cores
from fairseq_mtssl.errors import ConfigError, MtsslError, StageError

DATABASE, SECONDS = ".doit.json", ".seconds"  # in the output folder
LAST_LINES = 25
RECIPES = Path(fairseq_mtssl.__file__).parent / "config"


@dataclass(frozen=True)
class Stage:
    """One command.

    name: of its task and of its log. command: its words; the first is a program of this environment.
    folder: holds only files that the command writes, and is removed before the stage is run anew.
    products: the files that exist when the stage is done. needs: names of the stages whose products it reads.
    is_training: whether its output is that of fairseq, which is shown as a progress bar and kept in a log.
    """

    name: str
    command: Sequence[str]
    folder: Path
    products: Sequence[Path]
    needs: Sequence[str] = ()
    is_training: bool = False

    @property
    def line(self) -> str:
        """The command as it can be retyped."""
        return shlex.join(self.command)


class Pipeline(ZeroReporter):
    """Runs stages with a common output folder, and is the reporter of doit for their tasks.

    out: the folder. It holds doit's database in `.doit.json`, the seconds of each stage in `.seconds`, and
    the output of trainings in `logs`. fresh: whether every stage is run anew.
    """

    def __init__(self, out: Path, fresh: bool = False) -> None:
        super().__init__(sys.stdout, {})
        self.out = out
        self.fresh = fresh
        self.seconds: dict[str, float] = {}
        self.commands: list[str] = []
        self.redone: set[str] = set()  # names of the stages that were run by this object
        self._planned: set[str] = set()
        self._errors: list[MtsslError] = []
        self._total = 0.0
        (out / SECONDS).mkdir(parents=True, exist_ok=True)
        activate = Path(sys.prefix, "bin", "activate")
        if activate.is_file() and shutil.which("mtssl") != _program("mtssl"):
            print(f"To retype the commands below, first: source {os.path.relpath(activate)}", flush=True)

    def run(
        self,
        *stages: Stage,
        at_once: int | None = None,
        then: Callable[[Stage], Iterable[Stage]] = lambda stage: (),
        finish: Callable[[Stage], None] = lambda stage: None,
    ) -> None:
        """Run the stages that are not done yet, in this order; a stage waits for those that it needs.

        If a stage fails, the running ones finish, and no other begins.

        at_once: how many stages run at the same time with one thread each. By default all of them do, and
            the cores are divided among them. With a GPU they always run one after the other.
        then: returns the stages that follow a stage that is done. finish: is called after all of these.
        Raises: StageError if a command fails; ConfigError if a folder holds what no stage here has made.
        """
        threads = 1 if at_once else max(1, usable_cores() // max(1, len(stages)))
        at_once = 1 if torch.cuda.is_available() else min(at_once or usable_cores(), len(stages)) or 1
        self._environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if at_once > 1 else {})
        chains = [[stage] for stage in stages]

        def follow(chain: list[Stage]) -> Iterator[Task]:
            for follower in then(chain[0]):
                chain.append(follower)
                yield from self._tasks(follower)
            names = [each.name for each in chain]
            yield self._task(f"after {names[0]}", finish, chain[0], task_dep=names)

        tasks = []
        for chain in chains:
            tasks += self._tasks(chain[0])
            later = DelayedLoader(partial(follow, chain), executed=chain[0].name)
            tasks.append(Task(f"after {chain[0].name}", None, loader=later))
        self._run_tasks(tasks, at_once)
        self.commands += [each.line for chain in chains for each in chain]
        seconds = [sum(self.seconds[each.name] for each in chain) for chain in chains]
        self._total += clock_seconds(seconds, at_once)

    def total_seconds(self) -> dict[str, float]:
        """Stage -> seconds and `total` -> elapsed seconds, with the time before an interruption."""
        return {**self.seconds, "total": round(self._total, 1)}

    # -- tasks

    def _run_tasks(self, tasks: Sequence[Task], at_once: int) -> None:
        control = TaskControl(tasks)
        control.process(None)
        self._database = Dependency(JsonDB, str(self.out / DATABASE), TimestampChecker)
        options = (self._database, self, False, self.fresh)
        runner = MThreadRunner(*options, num_process=at_once) if at_once > 1 else Runner(*options)
        self._running = Semaphore(at_once)
        try:
            runner.run_all(control.task_dispatcher())
        finally:
            for _ in range(at_once):  # after an interruption: wait for the commands that run in threads
                self._running.acquire()
        if self._errors:
            raise self._errors[0]

    def _tasks(self, stage: Stage) -> list[Task]:
        """The two tasks of a stage."""
        recipes = sorted(RECIPES.glob("*.yaml")) if stage.is_training else []
        config = {"command": stage.line, "recipes": [path.read_text(encoding="utf-8") for path in recipes]}
        # doit runs what has a file as target before what has it as file_dep
        needed = [self._seconds_path(name) for name in stage.needs if name in self._planned]
        self._planned.add(stage.name)
        prepare, command = (
            self._task(name, work, stage, file_dep=needed, uptodate=[config_changed(config)])
            for name, work in ((f"prepare {stage.name}", self._empty), (stage.name, self._execute_timed))
        )
        command.task_dep.append(prepare.name)
        command.targets = [str(path) for path in (self._seconds_path(stage.name), *stage.products)]
        command.meta = stage
        return [prepare, command]

    def _task(self, name: str, work: Callable[[Stage], None], stage: Stage, **attributes: Any) -> Task:
        """A task that calls work(stage). Its errors are kept and raised later, as doit would print them."""

        def action() -> bool:
            try:
                work(stage)
            except MtsslError as error:
                self._errors.append(error)
                return False
            return True

        return Task(name, [action], io={"capture": False}, verbosity=0, **attributes)

    def _empty(self, stage: Stage) -> None:
        seconds = self._seconds_path(stage.name)
        if stage.folder.exists():
            if not seconds.is_file() and any(stage.folder.iterdir()):
                error = "holds files that were not made here; give another output folder or remove it"
                raise ConfigError(str(stage.folder), [error])
            shutil.rmtree(stage.folder)
        seconds.write_text("0\n", encoding="utf-8")

    def _execute_timed(self, stage: Stage) -> None:
        self.redone.add(stage.name)
        record, start = self._seconds_path(stage.name), time.monotonic()
        before = float(record.read_text(encoding="utf-8"))
        _say(f"\n— {stage.name}{', going on' if before else ''}\n$ {stage.line}")
        try:
            with self._running:
                self._execute(stage)
        finally:
            seconds = self.seconds[stage.name] = round(before + time.monotonic() - start, 1)
            record.write_text(f"{seconds}\n", encoding="utf-8")
        _say(f"  {stage.name}: {seconds:.0f} s")

    def _execute(self, stage: Stage) -> None:
        words = [_program(stage.command[0]), *stage.command[1:]]
        if stage.is_training:
            code, tail = self._train(stage, words)
        else:
            code, tail = subprocess.run(words, check=False, env=self._environment).returncode, ""
        if code != 0:
            raise StageError(stage.name, f"ended with exit code {code}: {stage.line}{tail}")
        missing = [str(path) for path in stage.products if not path.is_file()]
        if missing:
            raise StageError(stage.name, f"left no {', '.join(missing)}: {stage.line}")

    def _train(self, stage: Stage, words: Sequence[str]) -> tuple[int, str]:
        """Run a training, show its progress and append its output to its log.

        Returns: the exit code, and the last lines with the name of the log.
        """
        log = self.out / "logs" / f"{stage.name}.log"
        log.parent.mkdir(exist_ok=True)
        last: deque[str] = deque(maxlen=LAST_LINES)
        pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with (
            log.open("a", encoding="utf-8") as file,
            TrainingBar(stage.name, stage.folder) as bar,
            subprocess.Popen(words, env=self._environment, text=True, errors="replace", **pipes) as process,
        ):
            assert process.stdout is not None  # asked for above
            for line in process.stdout:
                file.write(line)
                last.append(line.rstrip())
                bar.read(line)
        return process.returncode, "\n".join(["", *last, f"All of its output is in {log}."])

    def _seconds_path(self, name: str) -> Path:
        return self.out / SECONDS / name

    # -- what doit reports

    def skip_uptodate(self, task: Task) -> None:
        """Print that a stage was done before."""
        if isinstance(task.meta, Stage):
            self.seconds[task.name] = float(self._seconds_path(task.name).read_text(encoding="utf-8"))
            _say(f"— {task.name}: done before ({self.seconds[task.name]:.0f} s)\n  {task.meta.line}")

    def add_success(self, task: Task) -> None:
        """Write the database now, so that a killed process loses no finished stage."""
        self._database.backend.dump()

    def add_failure(self, task: Task, fail: BaseFail) -> None:
        """Keep an error that is not an MtsslError, such as that of a folder that cannot be written."""
        if not self._errors:
            self._errors.append(StageError(task.name, fail.get_msg()))

    def runtime_error(self, msg: str) -> None:
        """Keep an error that doit found in the tasks, such as two of one name."""
        self._errors.append(StageError("doit", msg))


def clock_seconds(seconds: Sequence[float], at_once: int) -> float:
    """The elapsed time of jobs of which `at_once` run at a time, each as soon as an earlier one has ended."""
    ends = [0.0] * at_once
    for each in seconds:
        earliest = ends.index(min(ends))
        ends[earliest] += each
    return max(ends)


def run_example(main: Callable[[], None]) -> int:
    """Run the main function of an example. Errors of the user and interruptions show no traceback."""
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
    """Print text and line end in one piece, so that simultaneous stages do not mix their lines."""
    print(f"{text}\n", end="", flush=True)


def _program(name: str) -> str:
    """The path of a program in the environment of this Python, if it is there."""
    if name == "python":
        return sys.executable
    path = Path(sys.executable).parent / name
    return str(path) if path.exists() else name
