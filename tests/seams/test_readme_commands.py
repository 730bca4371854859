"""Every shell command of the README and of the examples' READMEs: run where that is quick, else taken apart.

A command of a kind that is not known here fails, so that none goes untested.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
READMES = [
    ROOT / "README.md",
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#]+)")
SUBSTITUTION = re.compile(r'"\$\(([^)]*)\)"')


def commands(readme: Path) -> Iterator[str]:
    """Commands of the fenced `sh` blocks; a line that ends in a backslash goes on in the next."""
    for language, block in FENCE.findall(readme.read_text(encoding="utf-8")):
        if language not in ("sh", "bash", "shell"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


ALL = [
    pytest.param(command, id=f"{readme.parent.name}: {command[:60]}")
    for readme in READMES
    for command in commands(readme)
]


def test_the_readmes_have_commands() -> None:
    assert len(list(commands(READMES[0]))) > 10


@pytest.mark.parametrize("command", ALL)
def test_a_command_of_a_readme_works(command, compose, run_program, tmp_path) -> None:
    words = shlex.split(SUBSTITUTION.sub("SUBSTITUTED", command))
    for inner in SUBSTITUTION.findall(command):
        run = run_program(shlex.split(inner), cwd=tmp_path)
        assert run.returncode == 0 and run.stdout.strip(), run.stderr
    settings = [word for word in words if re.match(r"^[A-Z_]+=", word)]
    if words[0] == "make":
        check_make(words, settings, run_program)
    elif words[0] == "fairseq-hydra-train":
        check_training(words, compose)
    elif words[0] == "mtssl":
        check_mtssl(words)
    elif words[0] == "python":
        check_script(words, run_program)
    elif words[0] == "pip":
        check_pip(words)
    elif words[0] == "fairseq-validate":
        check_validate(words)
    else:
        pytest.fail(f"no check for this kind of command: {command}")


def check_make(words: list[str], settings: list[str], run_program) -> None:
    """The target exists, and every setting is a variable of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for setting in settings:
        assert re.search(
            rf"\$\({setting.partition('=')[0]}\)|\(or \$\({setting.partition('=')[0]}\)", makefile
        )
    run = run_program(["make", "-n", "-C", str(ROOT), *words[1:]])
    assert run.returncode == 0, run.stderr


def check_training(words: list[str], compose) -> None:
    """The recipe takes every key: composition refuses those it does not know."""
    recipe = words[words.index("--config-name") + 1]
    overrides = [word for word in words[1:] if "=" in word]
    flags = [word for word in words[1:] if "=" not in word and word != recipe]
    assert set(flags) <= {"--config-name", "--cfg", "job"}
    cfg = compose(recipe, overrides)
    assert cfg.task.data
    if cfg.task.get("phases"):
        from fairseq_mtssl.tasks.vgs_retrieval import read_phases

        assert read_phases(cfg.task)


def check_mtssl(words: list[str]) -> None:
    """The console script's own parser takes the command."""
    from fairseq_mtssl.cli.main import build_parser

    build_parser().parse_args(words[1:])


def check_script(words: list[str], run_program) -> None:
    """The script exists, and its help knows every option."""
    script = ROOT / words[1]
    assert script.is_file(), script
    run = run_program(["python", str(script), "--help"])
    assert run.returncode == 0, run.stderr
    for option in (word for word in words[2:] if word.startswith("--")):
        assert re.search(rf"{re.escape(option)}\b", run.stdout), f"{script} has no {option}"


def check_pip(words: list[str]) -> None:
    """Extras that setup.py declares, files that are there."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    assert words[1] == "install"
    for extra in re.findall(r"\[([\w,-]+)\]", " ".join(words)):
        assert all(f'"{name}"' in setup for name in extra.split(","))
    if "-c" in words:
        assert (ROOT / words[words.index("-c") + 1]).is_file()


def check_validate(words: list[str]) -> None:
    """fairseq's own parser takes the command, with our task's options among its."""
    from fairseq import options

    import fairseq_mtssl

    user_dir = str(Path(fairseq_mtssl.__file__).parent)
    arguments = [user_dir if word == "SUBSTITUTED" else word for word in words[1:]]
    args = options.parse_args_and_arch(options.get_validation_parser(), arguments)
    assert isinstance(args, argparse.Namespace) and args.task in ("joint_ssl_vgs", "phoneme_probe")


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_relative_links_lead_somewhere(readme) -> None:
    broken = [link for link in LINK.findall(readme.read_text("utf-8")) if not (readme.parent / link).exists()]
    assert not broken


def test_every_recipe_is_in_the_readme_and_names_its_own_command() -> None:
    text = READMES[0].read_text(encoding="utf-8")
    for path in (ROOT / "fairseq_mtssl" / "config").glob("[!_]*.yaml"):
        assert f"`{path.stem}`" in text, path.stem
        header = path.read_text(encoding="utf-8").partition("defaults:")[0]
        assert f"fairseq-hydra-train --config-name {path.stem} " in header, path.stem


def test_every_subcommand_is_in_the_readme() -> None:
    from fairseq_mtssl.cli.main import COMMANDS

    text = READMES[0].read_text(encoding="utf-8")
    assert all(f"mtssl {name}" in text for name in COMMANDS)


def test_make_help_names_every_target(run_program) -> None:
    run = run_program(["make", "-s", "-C", str(ROOT), "help"])
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text("utf-8"), re.M)
    assert run.returncode == 0 and phony is not None
    assert all(f"make {target}" in run.stdout for target in phony[1].split() if target != "help")


def test_the_makefile_says_which_python_it_wants(run_program, tmp_path) -> None:
    fake = tmp_path / "python3.9"
    fake.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.9.1\nexit 1\n')
    fake.chmod(0o755)
    words = ["make", "-s", "-C", str(ROOT), "setup", f"PYTHON={fake}", f"VENV={tmp_path / 'venv'}"]
    run = run_program(words)
    assert run.returncode != 0
    assert "Python 3.9.1" in run.stderr and "3.10, 3.11 or 3.12" in run.stderr
    assert not (tmp_path / "venv").exists()
