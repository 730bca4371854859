"""Renamed configuration keys. The earlier names still work, with a warning.

To rename a key, add it to `RENAMED` and keep a field of the earlier name beside the new one, which
`earlier_name` makes: Hydra and fairseq refuse or drop keys that no dataclass has. `tasks.base` moves the
values of the sections task and model to the new names before anything reads them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

RENAMED = {
    "front_end": "feature_extractor",
    "masked_views": "clone_batch",
    "repair": "re_pairing",
}
"""Earlier name -> name; no two sections have a key of the same earlier name."""


def earlier_name(old: str) -> Any:
    """The dataclass field of a renamed key under its earlier name; null: not given."""
    return dataclasses.field(default=None, metadata={"help": f"the earlier name of {RENAMED[old]}"})


def with_new_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values under today's names. A value that is given under an earlier name takes precedence."""
    kept = {name: value for name, value in values.items() if name not in RENAMED}
    moved = {new: values[old] for old, new in RENAMED.items() if values.get(old) is not None}
    return {**kept, **moved}
