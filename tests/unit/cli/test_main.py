"""The console script: commands, exit statuses, clean messages."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import fairseq_mtssl
from fairseq_mtssl.cli import main as cli
from fairseq_mtssl.cli import user_dir
from fairseq_mtssl.errors import ConfigError, MtsslError
from fairseq_mtssl.evaluation.base import EVALUATIONS
from fairseq_mtssl.files import prepare_output
from fairseq_mtssl.inference.devices import pick_device

CLI = Path(cli.__file__).parent
CLI_ROOM = "fairseq_mtssl.cli"
QUICK = {
    "fairseq_mtssl.files",
    "fairseq_mtssl.errors",
    "fairseq_mtssl.evaluation.base",
    "fairseq_mtssl.cli.options",
}


def test_user_dir_prints_the_package_folder_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["user-dir"]) == 0
    printed = capsys.readouterr().out
    assert printed == f"{Path(fairseq_mtssl.__file__).parent.resolve()}\n"


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*cli.COMMANDS, *cli.EVALUATION_COMMANDS))


def test_every_command_of_an_evaluation_takes_what_mtssl_evaluate_takes() -> None:
    parser = cli.build_parser()
    commands = parser._subparsers._group_actions[0].choices
    evaluations = commands["evaluate"]._subparsers._group_actions[0].choices
    names = {
        name: import_module(f"fairseq_mtssl.cli.{stem}").NAME
        for name, stem in cli.EVALUATION_COMMANDS.items()
    }
    assert set(evaluations) == set(names.values()) == set(EVALUATIONS.names())
    for command, name in names.items():
        options, same = (
            {action.dest for action in each[key]._actions}
            for each, key in ((commands, command), (evaluations, name))
        )
        assert options == same and "json" in options


def test_an_unknown_evaluation_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["evaluate", "abc"])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert all(name in printed for name in EVALUATIONS.names())


@pytest.mark.parametrize("argv", [[], ["fly"], ["evaluate-retrieval"], ["retrieve", "--checkpoint", "c"]])
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(argv)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (MtsslError("a.wav: cannot be read. Check the path."), 2, "mtssl user-dir: a.wav: cannot be read."),
        (KeyboardInterrupt(), 130, "mtssl user-dir: interrupted"),
    ],
)
def test_an_error_the_user_can_cure_is_one_message_without_traceback(
    error: BaseException,
    status: int,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(args: object) -> int:
        raise error

    monkeypatch.setattr(user_dir, "run", fail)
    assert cli.main(["user-dir"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(message)
    assert "Traceback" not in printed.err


def test_a_closed_pipe_ends_quietly() -> None:
    # the reader is gone before anything is printed
    command = f"{sys.executable} -m fairseq_mtssl.cli.main user-dir"
    done = subprocess.run(
        ["bash", "-c", f"{{ sleep 0.2; {command}; echo status $? >&2; }} | true"],
        capture_output=True,
        text=True,
    )
    assert "status 141" in done.stderr
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(args: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(user_dir, "run", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["user-dir"])


@pytest.mark.parametrize(
    "stem", ["main", "options", *cli.COMMANDS.values(), *cli.EVALUATION_COMMANDS.values()]
)
def test_subcommands_import_nothing_slow_before_they_run(stem: str) -> None:
    tree = ast.parse((CLI / f"{stem}.py").read_text(encoding="utf-8"))
    modules = set()
    for node in tree.body:  # the top level alone: neither functions nor `if TYPE_CHECKING`
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = node.module or ""
            siblings = {f"{package}.{alias.name}" for alias in node.names}
            modules |= siblings if package == "fairseq_mtssl.cli" else {package}
    assert {
        name for name in modules if name.split(".")[0] in ("fairseq_mtssl", "fairseq", "torch", "numpy")
    } <= QUICK


def test_an_output_path_is_refused_before_the_work_and_its_folder_is_made(tmp_path: Path) -> None:
    assert prepare_output(tmp_path / "new" / "a.json").parent.is_dir()
    with pytest.raises(ConfigError, match="is a folder"):
        prepare_output(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="its folder cannot be made"):
        prepare_output(tmp_path / "file" / "a.json")


def test_cuda_is_refused_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no CUDA device"):
        pick_device("cuda")
