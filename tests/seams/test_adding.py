"""What CONTRIBUTING.md says of adding things, done in a package of its own: all four of them run.

Each is one file and one registration; nothing in this package is changed. The programs find the package as
they find any that is installed, by its metadata on the path.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import adding
import pytest
from tiny_recipes import tiny_words
from training import weights


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder on the path with the package of CONTRIBUTING.md."""
    folder = tmp_path_factory.mktemp("site")
    adding.install(folder)
    return folder


@pytest.fixture
def run(site: Path, tmp_path: Path, run_program):
    """run(words): a program of this environment, where the package is installed."""
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])

    def run(words: list[str]):
        return run_program(words, cwd=tmp_path, env={"PYTHONPATH": path})

    return run


def command(first: str) -> list[list[str]]:
    """The commands of a program."""
    return [words for words in adding.commands() if words[0] == first]


def test_every_file_is_registered_by_one_line(tmp_path: Path) -> None:
    modules = [path.removesuffix(".py").replace("/", ".") for path in adding.files()]
    assert sorted(adding.install(tmp_path).values()) == sorted(modules)
    for source in adding.files().values():
        assert source.count("\nregister_") + source.count("\n@register_") == 1


def test_a_corpus_a_branch_an_encoder_and_an_evaluation_of_another_package_run(run, tmp_path: Path) -> None:
    evaluate, prepare = command("mtssl")
    prepared = run(prepare)
    assert prepared.returncode == 0, prepared.stderr
    # one training for the commands of both: what the second has beside the first
    first, second = command("fairseq-hydra-train")
    words = [*first, *(word for word in second if word not in first)]
    settings = ["task.schedule=vgsplus", "task.lengths=[rest]", "optimization.max_update=2"]
    trained = run([*words, *tiny_words(), *settings, "common.log_interval=1"])
    assert trained.returncode == 0, trained.stderr
    assert '"power": ' in trained.stdout + trained.stderr
    saved = weights(tmp_path / "runs" / "joint_sequential_small" / "checkpoint_last.pt")
    assert saved["image_encoder.hidden.weight"].shape == (8, 3)
    assert not [name for name in saved if name.startswith("ssl_head.")]

    evaluated = run(evaluate)
    assert evaluated.returncode == 0, evaluated.stderr
    found = json.loads((tmp_path / "spread.json").read_text())
    assert found["images"] == 2 and found["spread"] > 0
    assert evaluated.stdout == f"spread of 2 images: {found['spread']:.4f}\nwrote spread.json\n"
