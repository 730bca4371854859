"""Makes the recipes of fairseq_mtssl known to Hydra: `fairseq-hydra-train --config-name joint_sequential`.

Hydra imports every module below the namespace package `hydra_plugins` when a Hydra program starts, whichever
program that is. So this file imports nothing heavy, and reaches fairseq_mtssl only inside a fairseq program.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import sys
from importlib.util import find_spec
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

PACKAGE = "fairseq_mtssl"
SCHEMA = "fairseq_schema"


def user_dir() -> str:
    """The folder that fairseq wants as `common.user_dir` (what `mtssl user-dir` prints); imports nothing."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"{PACKAGE} is not importable although its Hydra plugin is; install fairseq-mtssl again."
        )
    return str(Path(spec.origin).parent)


def recipe_names() -> list[str]:
    """What `--config-name` offers: one YAML each; a name that begins with `_` is a part, not a recipe."""
    found = Path(user_dir(), "config").glob("*.yaml")
    return sorted(path.stem for path in found if not path.stem.startswith("_"))


# `common.user_dir: ${mtssl_user_dir:}` in a recipe: spawned workers re-import the package through this folder
OmegaConf.register_new_resolver("mtssl_user_dir", user_dir, replace=True)


class FairseqMtsslSearchPathPlugin(SearchPathPlugin):
    """Appends our recipes to the search path, in fairseq programs only.

    There it also imports the package *before* the composition: this puts our dataclasses in Hydra's
    ConfigStore, so that every key of a recipe is known, typed, and overridable without `+`. Any other Hydra
    program is left alone: its search path, its ConfigStore and its start-up time stay what they were.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if "fairseq" not in sys.modules:
            return
        importlib.import_module(PACKAGE)
        _store_schema()
        search_path.append(provider="fairseq-mtssl", path=f"pkg://{PACKAGE}.config")
        _refuse_misspelt_recipe()


def _store_schema() -> None:
    """Store fairseq's own sections, typed, under a name that our recipes put first in their defaults.

    fairseq's `hydra_init` stores them under the name of the recipe that is asked for. Hydra would merge the
    two last (a behaviour deprecated since 1.1), and fairseq's nulls would overwrite what a recipe takes from
    a group or from another recipe; so this copy goes.
    """
    from fairseq.dataclass.configs import FairseqConfig

    store = ConfigStore.instance()
    store.store(name=SCHEMA, node=FairseqConfig, provider="fairseq-mtssl")
    for name in recipe_names():
        store.repo.pop(f"{name}.yaml", None)


def _refuse_misspelt_recipe() -> None:
    """Say which recipe was meant; fairseq would take its bare defaults, as it stores them by any name."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            args, _ = get_args_parser().parse_known_args()
    except SystemExit:  # not a Hydra command line: a program that composes by itself
        return
    name = args.config_name
    if not name or args.config_dir or args.config_path or _fairseq_has(name):
        return
    close = difflib.get_close_matches(name, recipe_names(), n=3, cutoff=0.75)
    if close and name not in close:
        raise SystemExit(
            f"--config-name {name}: no such recipe; did you mean {' or '.join(close)}? "
            f"All: {', '.join(recipe_names())}"
        )


def _fairseq_has(name: str) -> bool:
    spec = find_spec("fairseq")
    folder = Path(spec.origin).parent if spec and spec.origin else Path()
    return Path(folder, "config", name).with_suffix(".yaml").is_file()
