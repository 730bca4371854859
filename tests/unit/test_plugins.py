"""Modules that other packages name as plugins are imported once, and a broken one stops nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fairseq_mtssl import plugins


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """install(entry points by name, source by module): a package in a folder of its own, not yet loaded."""
    monkeypatch.setattr(plugins, "_is_loaded", False)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(entries: dict[str, str], sources: dict[str, str]) -> None:
        about = tmp_path / "outside-1.0.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
        lines = [f"[{plugins.GROUP}]", *(f"{name} = {value}" for name, value in entries.items())]
        (about / "entry_points.txt").write_text("\n".join(lines) + "\n")
        for module, source in sources.items():
            (tmp_path / f"{module}.py").write_text(source)

    yield write
    for path in tmp_path.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_a_plugin_is_imported_in_the_first_call_alone(install, capsys) -> None:
    # the plugin asks for the plugins itself, as one does that looks up what is registered
    source = "from fairseq_mtssl import plugins\nplugins.load()\nprint('registered')\n"
    install({"one": "outside_one"}, {"outside_one": source})
    plugins.load()
    sys.modules.pop("outside_one")
    plugins.load()
    assert capsys.readouterr().out == "registered\n"


def test_a_broken_plugin_is_warned_about_and_the_others_are_imported(install) -> None:
    install(
        {"broken": "outside_broken", "sound": "outside_sound"},
        {"outside_broken": "1 / 0\n", "outside_sound": ""},
    )
    with pytest.warns(UserWarning, match=r"plugin broken \(outside_broken\).*ZeroDivisionError"):
        plugins.load()
    assert "outside_sound" in sys.modules
