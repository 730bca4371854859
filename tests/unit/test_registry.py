"""Registries: what is registered by name, by this package or a plugin."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import adding
import pytest

from fairseq_mtssl import plugins
from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.evaluation.base import EVALUATIONS
from fairseq_mtssl.image_encoders.base import IMAGE_ENCODERS
from fairseq_mtssl.registry import Registry
from fairseq_mtssl.ssl.base import BRANCHES


def test_the_plugins_are_registered_when_a_name_is_first_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugins, "_is_loaded", False)
    monkeypatch.syspath_prepend(str(tmp_path))
    added = {"frame_power": BRANCHES, "mean_colour": IMAGE_ENCODERS, "spread": EVALUATIONS}
    for registry in added.values():
        monkeypatch.setattr(registry, "items", dict(registry.items))
    adding.install(tmp_path)
    for name, registry in added.items():
        wanted = [each for each in registry.items if each not in added]
        with pytest.raises(ConfigError) as caught:
            registry.named("none_such")
        names = ", ".join(sorted([*wanted, name]))
        assert str(caught.value) == f"{registry.key}: got 'none_such', wanted one of {names}"
        assert registry.named(name) is registry.items[name]
    for module in [each for each in sys.modules if each.split(".")[0] == "my_package"]:
        del sys.modules[module]


def test_what_is_registered_is_returned_as_it_is_and_its_name_is_taken() -> None:
    shapes: Registry[object] = Registry("model.shape", "shape", "shapes")
    round_shape = object()
    assert shapes.register("round")(round_shape) is round_shape and shapes.named("round") is round_shape
    with pytest.raises(ConfigError, match="model.shape: two shapes are called 'round'; rename one of them"):
        shapes.register("round")(object())
    assert shapes.names() == ["round"] and shapes.named("round") is round_shape


def test_a_command_of_a_plugin_that_fails_is_left_out_and_one_of_ours_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes: Registry[object] = Registry("model.shape", "shape", "shapes")
    for plugin, name in (("p1", "broken"), ("p1", "sound"), (None, "ours")):
        monkeypatch.setattr(plugins, "loading", plugin)
        shapes.register(name)(object())
    commands = argparse.ArgumentParser().add_subparsers()

    def add(commands, name: str) -> None:
        parser = commands.add_parser(name)
        parser.add_argument("--json")
        if name == "broken":
            parser.add_argument("--json")

    with pytest.warns(UserWarning, match="shape 'broken' of the plugin p1 is left out.*conflicting option"):
        shapes.add_commands(commands, add)
    assert list(commands.choices) == ["ours", "sound"]
    shapes.plugins.clear()
    with pytest.raises(argparse.ArgumentError):
        shapes.add_commands(argparse.ArgumentParser().add_subparsers(), add)
