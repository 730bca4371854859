"""A registry of classes or functions that are chosen by name in a configuration or on the command line."""

from __future__ import annotations

import argparse
import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from fairseq_mtssl import plugins
from fairseq_mtssl.errors import ConfigError

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """What is registered under each name, by this package and by installed plugins.

    key: where a name is given, such as the configuration key "model.ssl"; errors begin with it. Options
    without a field of their own are given under the same key with "_options" appended.
    noun: what is registered, in the singular, such as "branch"; plural: the same in the plural.
    """

    def __init__(self, key: str, noun: str, plural: str) -> None:
        self.key = key
        self.noun = noun
        self.plural = plural
        self.items: dict[str, T] = {}
        self.plugins: dict[str, str] = {}  # name -> the plugin that registered it

    def register(self, name: str) -> Callable[[Registered], Registered]:
        """Returns a decorator that registers a class or function and returns it unchanged.

        Raises: ConfigError if the name is taken.
        """

        def decorate(item: Any) -> Any:
            if name in self.items:
                raise ConfigError(self.key, [f"two {self.plural} are called {name!r}; rename one of them"])
            self.items[name] = item
            if plugins.loading is not None:
                self.plugins[name] = plugins.loading
            return item

        return decorate

    def names(self) -> list[str]:
        """The registered names in alphabetical order, those of installed plugins included."""
        plugins.load()
        return sorted(self.items)

    def named(self, name: str) -> T:
        """What is registered under a name.

        Raises: ConfigError for an unknown name, listing the registered ones.
        """
        if name not in self.names():
            raise ConfigError(self.key, [f"got {name!r}, wanted one of {', '.join(self.names())}"])
        return self.items[name]

    def add_commands(self, commands: Any, add: Callable[[Any, str], None]) -> None:
        """Add a subcommand for each registered name; what a plugin registered is left out if that fails.

        commands: from `argparse.ArgumentParser.add_subparsers`. add: adds the subcommand of a name to them.
        A plugin's is first added to a parser of its own, so that an exception leaves nothing behind; it is
        warned about, since other commands do not need the plugin.
        """
        for name in self.names():
            if name in self.plugins:
                try:
                    add(argparse.ArgumentParser().add_subparsers(), name)
                except Exception as error:
                    cause = f"{type(error).__name__}: {error}"
                    what = f"the {self.noun} {name!r} of the plugin {self.plugins[name]}"
                    warnings.warn(f"{what} is left out, since its options fail: {cause}", stacklevel=2)
                    continue
            add(commands, name)

    def read_options(self, kind: Any, model: Mapping[str, Any], own: Mapping[str, Any]) -> Any:
        """The options of a registered class, as an instance of its dataclass `kind.Options`.

        model: values of fields of the model's configuration; a field of `kind.Options` with the same name
        takes its value from here. own: the options given under `key`_options, which take precedence. A value
        of None leaves the default.
        Raises: ConfigError naming every option in `own` that `kind.Options` does not have.
        """
        fields = [each.name for each in dataclasses.fields(kind.Options)]
        unknown = [name for name in own if name not in fields]
        if unknown:
            wanted = f"this {self.noun} has {', '.join(fields) or 'none'}"
            errors = [f"{name}: no such option; {wanted}" for name in unknown]
            raise ConfigError(f"{self.key}_options", errors)
        given = {name: model[name] for name in fields if name in model} | dict(own)
        return kind.Options(**{name: value for name, value in given.items() if value is not None})
