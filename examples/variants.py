"""The variants that the grounding examples train, and their lengths."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.report.published import variant_name
from fairseq_mtssl.schedule import SCHEDULES

PARTS, FIRST_PARTS = 7, 2  # the paper's first phases take 20 of 70 epochs; it measures after about every 10
NEVER = 1_000_000
COSTS = {"w2v2": 1.0, "vgs": 1.0, "vgsplus": 1.6}  # of an update, relative; the longest runs begin first
BRANCH_TITLES = {"hubert": "HuBERT", "data2vec": "data2vec", "mt4ssl": "MT4SSL"}
LABELLED = ("hubert", "mt4ssl")
CONSTANT_SPEED = "task.speed_perturb=0"
BRANCH_NOTE = (
    "HuBERT and MT4SSL predict cluster labels of MFCC-CMN (100 clusters). Labels lie on the frames of the "
    "audio as it is, so that these clips cannot be played faster or slower (task.speed_perturb=0). data2vec "
    "and the rows called 'at constant speed' are trained in the same way: compare the branches with those. "
    "The rows of the paper's nine are trained with the recipe's changes of speed."
)


@dataclass(frozen=True)
class Variant:
    """A row of the tables.

    name: begins the names of its runs' folders. schedule: `task.schedule`. title: its name in tables.
    settings: its overrides. ssl: the branch of the model.
    """

    name: str
    schedule: str
    title: str
    settings: tuple[str, ...] = field(default=())
    ssl: str = "wav2vec2"

    @property
    def needs_labels(self) -> bool:
        return self.ssl in LABELLED

    @property
    def cost(self) -> float:
        """The mean cost of an update over the phases."""
        kinds = self.schedule.split("_")
        shares = [1.0] if len(kinds) == 1 else [FIRST_PARTS / PARTS, 1 - FIRST_PARTS / PARTS]
        return sum(share * COSTS[kind] for share, kind in zip(shares, kinds, strict=True))


AnyVariant = TypeVar("AnyVariant", bound=Variant)


def _nine() -> dict[str, Variant]:
    names = ("_".join(kinds) for kinds in SCHEDULES)
    return {name: Variant(name, name, variant_name(name)) for name in names}


def _branches() -> dict[str, Variant]:
    """(branch, VGS) and branch+VGS of the other three branches, and the variants they are compared with."""
    found = [
        Variant(f"{name}-constant-speed", name, f"{variant_name(name)} at constant speed", (CONSTANT_SPEED,))
        for name in ("w2v2_vgs", "vgs", "vgsplus")
    ]
    for ssl, title in BRANCH_TITLES.items():
        settings = (f"model.ssl={ssl}", CONSTANT_SPEED)
        found += [
            Variant(f"{ssl}_vgs", "w2v2_vgs", f"({title}, VGS)", settings, ssl),
            Variant(f"{ssl}+vgs", "vgsplus", f"{title}+VGS", settings, ssl),
        ]
    return {variant.name: variant for variant in found}


NINE = _nine()
BRANCHES = _branches()


def variants_of(text: str | None, known: Mapping[str, AnyVariant]) -> list[AnyVariant]:
    """Read --only. Raises: ConfigError that names every unknown variant."""
    words = list(dict.fromkeys(word.strip() for word in text.split(","))) if text else list(known)
    unknown = [word for word in words if word not in known]
    if unknown:
        raise ConfigError("--only", [f"got {', '.join(unknown)}, wanted some of {', '.join(known)}"])
    return [known[word] for word in words]


def seeds_of(text: str) -> list[int]:
    """Read --seeds. Raises: ConfigError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words) or len(set(map(int, words))) < len(words):
        raise ConfigError("--seeds", [f"got {text!r}, wanted whole numbers, each once, such as 1,2,3"])
    return [int(word) for word in words]


def in_sevenths(amount: int, option: str, why: str = "") -> int:
    """The length of a run in updates or epochs, checked to be a multiple of the paper's seven parts.

    option: the option that gave it, such as `--updates`. why: added to the error.
    Raises: ConfigError if it is not a multiple of seven.
    """
    if amount < PARTS or amount % PARTS:
        near = max(PARTS, round(amount / PARTS) * PARTS)
        error = f"got {amount}, wanted a multiple of {PARTS} such as {near}"
        raise ConfigError(option, [f"{error}: {why}" if why else error])
    return amount


def phase_lengths(schedule: str, amount: int, unit: str) -> str:
    """`task.lengths` of a schedule in a run of `amount` updates or epochs: the first of two phases is 2/7."""
    first = amount // PARTS * FIRST_PARTS
    return f"[{first} {unit},rest]" if "_" in schedule else "[rest]"


def update_settings(
    updates: int, every: int, part: int, kept: Mapping[str, object] | None = None
) -> list[str]:
    """Overrides of a run that is counted in updates.

    every: updates between validations and between checkpoints. part: a seventh of a whole run; a quarter of
    it, at most 25 updates, is the log interval. kept: further settings, of the checkpoints that are kept.
    """
    settings = {
        "optimization.max_epoch": 0,
        "optimization.max_update": updates,
        "dataset.validate_interval": NEVER,
        "dataset.validate_interval_updates": every,
        "checkpoint.save_interval": NEVER,
        "checkpoint.save_interval_updates": every,
        **(kept or {}),
        "common.log_interval": max(1, min(25, part // 4)),
    }
    return words_of(settings)


def words_of(settings: Mapping[str, object]) -> list[str]:
    """Overrides as words of a command."""
    return [f"{key}={value}" for key, value in settings.items()]
