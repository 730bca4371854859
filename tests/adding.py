"""The files, the plugins and the commands in the section "How to add" of CONTRIBUTING.md."""

from __future__ import annotations

import importlib.util
import re
import shlex
import sys
from pathlib import Path
from typing import Any

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTION = TEXT.partition("\n## How to add\n")[2]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, re.M | re.S)


def files() -> dict[str, str]:
    """Path, as on the first line of each Python block -> source."""
    return {block.partition("\n")[0].removeprefix("# "): block for block in blocks("python")}


def commands() -> list[list[str]]:
    """The words of each command, in their order."""
    return [shlex.split(line) for block in blocks("console") for line in block.splitlines()]


def install(folder: Path) -> dict[str, str]:
    """Write the package and what pip would write of its metadata; returns the entry points by name."""
    for path, source in files().items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(source)
    (project,) = blocks("toml")
    header, _, lines = project.partition('[project.entry-points."fairseq_mtssl.plugins"]\n')
    name, version = re.findall(r'^(?:name|version) = "(.*)"$', header, re.M)
    about = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    entries = dict(re.findall(r'^(\w+) = "(.*)"$', lines, re.M))
    listed = "".join(f"{key} = {value}\n" for key, value in entries.items())
    (about / "entry_points.txt").write_text(f"[fairseq_mtssl.plugins]\n{listed}")
    return entries


def import_file(path: str, folder: Path) -> Any:
    """One of the files, written below a folder and imported from there; importing registers what it adds."""
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(files()[path])
    name = Path(path).stem
    spec = importlib.util.spec_from_file_location(name, folder / path)
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
