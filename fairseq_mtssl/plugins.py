"""Additions from other packages: modules that register a branch, an image encoder, an evaluation or a corpus.

A package names its modules in the entry point group `fairseq_mtssl.plugins`, in its pyproject.toml:

    [project.entry-points."fairseq_mtssl.plugins"]
    my_corpus = "my_package.my_corpus"

Every registry calls `load` before it looks a name up. Importing such a module must do nothing but register.
"""

from __future__ import annotations

import warnings
from importlib.metadata import entry_points

GROUP = "fairseq_mtssl.plugins"
loading: str | None = None
"""The plugin that is being imported, by the name of its entry point; registries note it."""
_is_loaded = False


def load() -> None:
    """Import the modules that installed packages name in the group, in the first call alone.

    A module that cannot be imported is warned about and left out, since most commands do not need it.
    """
    global _is_loaded, loading
    if _is_loaded:
        return
    _is_loaded = True  # first, because a module that registers something may ask a registry itself
    for entry in entry_points(group=GROUP):
        loading = entry.name
        try:
            entry.load()
        except Exception as error:
            cause = f"{type(error).__name__}: {error}"
            warnings.warn(
                f"the plugin {entry.name} ({entry.value}) cannot be imported: {cause}", stacklevel=2
            )
    loading = None
