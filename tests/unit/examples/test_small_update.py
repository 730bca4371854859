"""The parts of an update that the small benchmark times."""

from __future__ import annotations

import pytest

from examples.benchmark import small_update


def test_every_part_of_the_recipe_runs_and_is_timed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(small_update, "ROUNDS", 1)
    monkeypatch.setattr(small_update, "WARM_UP", 0)
    monkeypatch.setattr("sys.argv", ["small_update.py", "dataset.batch_size=2"])
    small_update.main()
    lines = capsys.readouterr().out.strip().splitlines()
    assert lines[0].startswith("part, 2 pairs") and len(lines) == 9
    assert all(float(line.split()[-1]) > 0 for line in lines[1:])
