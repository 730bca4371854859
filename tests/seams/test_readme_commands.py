"""The README, the pages of docs/ and the examples' READMEs: what they say exists and works.

Every shell command in them is run where that is quick, and otherwise taken apart; a command of a kind that is
not known here fails, so that none goes untested. Blocks marked `console`, in CONTRIBUTING.md, are run by
test_adding.py. The Python lines of the README are checked against the signatures of what they call.
"""

from __future__ import annotations

import argparse
import ast
import functools
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_here

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
DOCS = sorted((ROOT / "docs").glob("*.md"))
READMES = [
    README,
    ROOT / "CONTRIBUTING.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "examples").glob("*/README.md")),
    *DOCS,
]
MAX_README_CHARACTERS = 7000
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#]*)(?:#([^)]*))?\)")
SUBSTITUTION = re.compile(r'"\$\(([^)]*)\)"')


def commands(readme: Path) -> Iterator[str]:
    """Commands of the fenced `sh` blocks; a line that ends in a backslash goes on in the next."""
    for language, block in FENCE.findall(readme.read_text(encoding="utf-8")):
        if language not in ("sh", "bash", "shell"):
            continue
        for line in block.replace("\\\n", " ").splitlines():
            if line.strip() and not line.lstrip().startswith("#"):
                yield line.strip()


def name_of(readme: Path) -> str:
    return str(readme.relative_to(ROOT))


ALL = [
    pytest.param(command, id=f"{name_of(readme)}: {command[:60]}")
    for readme in READMES
    for command in commands(readme)
]


def test_the_readme_and_the_pages_have_commands() -> None:
    assert len(list(commands(README))) > 5
    assert len({command for page in (README, *DOCS) for command in commands(page)}) > 50


@pytest.fixture(scope="module")
def run_once(tmp_path_factory):
    """run_once(words) runs a program that changes nothing, the first time that it is asked for."""
    folder = tmp_path_factory.mktemp("programs")
    return functools.lru_cache(maxsize=None)(lambda *words: run_here(words, cwd=folder))


@pytest.mark.parametrize("command", ALL)
def test_a_command_of_a_readme_works(command, compose, run_once) -> None:
    words = shlex.split(SUBSTITUTION.sub("SUBSTITUTED", command))
    for inner in SUBSTITUTION.findall(command):
        run = run_once(*shlex.split(inner))
        assert run.returncode == 0 and run.stdout.strip(), run.stderr
    settings = [word for word in words if re.match(r"^[A-Z_]+=", word)]
    if words[0] == "make":
        check_make(words, settings, run_once)
    elif words[0] == "fairseq-hydra-train":
        check_training(words, compose)
    elif words[0] == "mtssl":
        check_mtssl(words)
    elif words[0] == "python":
        check_script(words, run_once)
    elif words[0] == "pip":
        check_pip(words)
    elif words[0] == "fairseq-validate":
        check_validate(words)
    else:
        pytest.fail(f"no check for this kind of command: {command}")


def check_make(words: list[str], settings: list[str], run_once) -> None:
    """The target exists, and every setting is a variable of the Makefile."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for setting in settings:
        assert re.search(
            rf"\$\({setting.partition('=')[0]}\)|\(or \$\({setting.partition('=')[0]}\)", makefile
        )
    run = run_once("make", "-n", "-C", str(ROOT), *words[1:])
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


def check_script(words: list[str], run_once) -> None:
    """The script exists, and its help knows every option."""
    script = ROOT / words[1]
    assert script.is_file(), script
    run = run_once("python", str(script), "--help")
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


@pytest.mark.parametrize("readme", READMES, ids=name_of)
def test_relative_links_lead_somewhere(readme) -> None:
    broken = []
    for path, heading in LINK.findall(readme.read_text("utf-8")):
        target = readme.parent / path if path else readme
        if not target.exists() or (heading and heading not in anchors(target)):
            broken.append(f"{path}#{heading}" if heading else path)
    assert not broken


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, by GitHub's rule: lower case, no punctuation, hyphens."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_anchor_of_a_heading_is_githubs(tmp_path) -> None:
    (tmp_path / "page.md").write_text('# A\n\n## "The base" model, for 20 epochs: `x_y`\n')
    assert anchors(tmp_path / "page.md") == {"a", "the-base-model-for-20-epochs-x_y"}


def test_every_recipe_is_in_the_readme_and_names_its_own_command() -> None:
    text = README.read_text(encoding="utf-8")
    for path in (ROOT / "fairseq_mtssl" / "config").glob("[!_]*.yaml"):
        assert f"`{path.stem}`" in text, path.stem
        header = path.read_text(encoding="utf-8").partition("defaults:")[0]
        assert f"fairseq-hydra-train --config-name {path.stem} " in header, path.stem


def test_every_subcommand_is_in_the_readme_or_on_a_page() -> None:
    from fairseq_mtssl.cli.main import COMMANDS, EVALUATION_COMMANDS

    text = "\n".join(page.read_text(encoding="utf-8") for page in (README, *DOCS))
    assert [name for name in (*COMMANDS, *EVALUATION_COMMANDS) if f"mtssl {name}" not in text] == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8")) < MAX_README_CHARACTERS


def test_every_page_of_the_documentation_is_linked_from_the_readme() -> None:
    linked = {(ROOT / path).resolve() for path, _ in LINK.findall(README.read_text(encoding="utf-8"))}
    assert [page.name for page in DOCS if page not in linked] == []


def rooms_of_the_map() -> list[str]:
    """What the README's map of the code names in backticks on each line before the colon."""
    section = README.read_text(encoding="utf-8").partition("## Map of the code")[2].partition("\n## ")[0]
    lines = re.findall(r"^- ([^:]+):", section, re.M)
    return re.findall(r"`([^`]+)`", " ".join(lines))


def test_what_the_map_of_the_code_names_exists() -> None:
    rooms = rooms_of_the_map()
    assert rooms
    assert [name for name in rooms if not (ROOT / "fairseq_mtssl" / name).exists()] == []


def test_every_folder_of_the_package_is_in_the_map_of_the_code() -> None:
    folders = {path.parent.name for path in (ROOT / "fairseq_mtssl").glob("*/__init__.py")}
    assert folders - set(rooms_of_the_map()) == set()


def python_errors(source: str) -> list[str]:
    """What of the Python lines does not exist: functions of the package, methods of the model, arguments."""
    import fairseq_mtssl

    tree = ast.parse(source)
    models = {
        target.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and "fairseq_mtssl.load_model(" in ast.unparse(node.value)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    errors = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.value, ast.Name):
            continue
        name = node.value.id
        if name == "fairseq_mtssl" or name in models:
            owner = fairseq_mtssl if name == "fairseq_mtssl" else fairseq_mtssl.Pretrained
            if not hasattr(owner, node.attr):
                errors.append(f"{name}.{node.attr} does not exist")
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        function = ast.unparse(call.func)
        owner, _, attribute = function.rpartition(".")
        if owner == "fairseq_mtssl" and hasattr(fairseq_mtssl, attribute):
            signature, given = inspect.signature(getattr(fairseq_mtssl, attribute)), list(call.args)
        elif owner in models and hasattr(fairseq_mtssl.Pretrained, attribute):
            method = getattr(fairseq_mtssl.Pretrained, attribute)
            signature, given = inspect.signature(method), [call.func, *call.args]
        else:
            continue
        try:
            signature.bind(*given, **{word.arg: word.value for word in call.keywords})
        except TypeError as error:
            errors.append(f"{function}: {error}")
    return errors


def test_the_python_lines_of_the_readme_call_what_exists() -> None:
    blocks = [block for language, block in FENCE.findall(README.read_text("utf-8")) if language == "python"]
    assert blocks
    for block in blocks:
        assert python_errors(block) == []
        for name in ("load_model", "extract_features", "embed_speech", "embed_images"):
            assert f".{name}(" in block


@pytest.mark.parametrize(
    ("lines", "word"),
    [
        ("fairseq_mtssl.open_model('x.pt')", "open_model does not exist"),
        ("fairseq_mtssl.load_model('x.pt', layer=2)", "layer"),
        ("model = fairseq_mtssl.load_model('x.pt')\nmodel.embed_text('x')", "embed_text does not exist"),
        ("model = fairseq_mtssl.load_model('x.pt')\nmodel.embed_speech()", "missing"),
    ],
)
def test_python_lines_that_call_what_does_not_exist_are_noticed(lines, word) -> None:
    assert [error for error in python_errors(lines) if word in error]


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
