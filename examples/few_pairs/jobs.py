"""The variants that are trained on few pairs, and the command of each run.

**How self-supervision gets the speech of all captions.** `task.data` is the folder of the few pairs,
`task.ssl_data` that of all captions. With `task.ssl_on_pairs=false` and `task.ssl_ratio=1`, 32 clips drawn
from all captions are added to each batch of 32 pairs, and the SSL loss is computed on these clips only.
Self-supervision therefore sees all captions equally often, VGS keeps its batch of 32 pairs, and an update
costs as much as on all pairs. If the SSL loss were computed on the pairs too, a ratio of 1 would double its
cost and take half of its clips from the few pairs; a ratio of 9, which is the corpus in proportion, would
cost ten times as much.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from examples import stages
from examples.pipeline import Stage
from examples.variants import CONSTANT_SPEED, FIRST_PARTS, PARTS, Variant, phase_lengths, update_settings
from fairseq_mtssl.errors import ConfigError

UPDATES = 1505
ALL = "all"
RECIPE = "joint_sequential_small"
ON_ALL_CAPTIONS = ("task.ssl_on_pairs=false", "task.ssl_ratio=1")


@dataclass(frozen=True)
class FewVariant(Variant):
    """A variant on few pairs.

    only_vgs: whether it has as many updates as a sequence has of VGS, instead of as many as it has in all.
    tower: whether its image encoder is taken from VGS on all pairs, and frozen.
    """

    only_vgs: bool = False
    tower: bool = False


def _known(*variants: FewVariant) -> dict[str, FewVariant]:
    return {variant.name: variant for variant in variants}


SHORT, LONG = "equal VGS updates", "equal total updates"
TOWER = "image tower of all pairs"
VARIANTS = _known(
    FewVariant("w2v2_vgs", "w2v2_vgs", "(W2V2, VGS)"),
    FewVariant("mt4ssl_vgs", "w2v2_vgs", "(MT4SSL, VGS)", ("model.ssl=mt4ssl", CONSTANT_SPEED), "mt4ssl"),
    FewVariant("vgsplus", "vgsplus", "VGS+"),
    FewVariant("vgs", "vgs", f"VGS, {LONG}"),
    FewVariant("vgs-short", "vgs", f"VGS, {SHORT}", only_vgs=True),
)
COMPARISONS = _known(
    FewVariant("vgs-constant-speed", "vgs", f"VGS at constant speed, {LONG}", (CONSTANT_SPEED,)),
    FewVariant(
        "vgs-short-constant-speed", "vgs", f"VGS at constant speed, {SHORT}", (CONSTANT_SPEED,), only_vgs=True
    ),
)
"""Trained on request: comparisons for (MT4SSL, VGS), whose labels allow no change of speed."""
DIAGNOSES = _known(
    FewVariant("w2v2_vgs-tower", "w2v2_vgs", f"(W2V2, VGS), {TOWER}", tower=True),
    FewVariant("vgs-tower", "vgs", f"VGS, {TOWER}, {LONG}", tower=True),
    FewVariant("vgs-short-tower", "vgs", f"VGS, {TOWER}, {SHORT}", only_vgs=True, tower=True),
)
TITLES = tuple(each.title for each in (VARIANTS | COMPARISONS | DIAGNOSES).values())


@dataclass(frozen=True)
class Job:
    """One training. pairs: a number or `all`. by: `image` or `caption`, what there are fewer of, or ""."""

    variant: FewVariant
    pairs: str
    by: str
    seed: int

    @property
    def name(self) -> str:
        """The name of its folder."""
        words = [self.variant.name, self.pairs, self.by, f"seed{self.seed}"]
        return "-".join(word for word in words if word)

    def data(self, whole: Path, out: Path) -> Path:
        """The folder of its pairs. whole: the folder of all pairs."""
        return out / f"data-{self.pairs}-{self.by}" if self.by else whole

    def updates(self, total: int) -> int:
        """The updates of this run. total: those of a sequence."""
        return total - total // PARTS * FIRST_PARTS if self.variant.only_vgs else total


@dataclass(frozen=True)
class Setting:
    """The settings of all runs. whole: the folder of all pairs. updates: those of a sequence, both phases."""

    whole: Path
    out: Path
    updates: int = UPDATES
    recipe: str = RECIPE
    overrides: tuple[str, ...] = ()


def jobs_of(
    variants: list[FewVariant], sizes: list[str], ways: tuple[str, ...], seeds: list[int]
) -> list[Job]:
    """Every combination, ordered by seed, then by size; with all pairs there is one run for all `ways`."""
    return [
        Job(variant, pairs, by, seed)
        for seed in seeds
        for pairs in sizes
        for by in (("",) if pairs == ALL else ways)
        for variant in sorted(variants, key=lambda each: -each.cost)
    ]


def sizes_of(text: str) -> list[str]:
    """Read --pairs. Raises: ConfigError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word == ALL or (word.isdecimal() and int(word) > 0) for word in words) or len(
        set(words)
    ) < len(words):
        raise ConfigError("--pairs", [f"got {text!r}, wanted numbers above 0 or all, each once, as 300,all"])
    return words


def pairs_stage(pairs: str, by: str, whole: Path, out: Path) -> Stage:
    """`manifests/fewer_pairs.py`, which writes a folder with a part of the pairs."""
    folder = out / f"data-{pairs}-{by}"
    words = ["--data", str(whole), "--pairs", pairs, "--by", by]
    made = stages.manifest_stage("fewer_pairs", folder, words)
    return replace(made, name=folder.name, needs=("data",))


def training(job: Job, setting: Setting, labels: Stage, tower: Stage | None = None) -> Stage:
    """The training of a job.

    labels: the stage that makes the labels of all captions. tower: the run whose image encoder is taken.
    Raises: ConfigError if the variant needs a tower and there is none.
    """
    variant = job.variant
    part = max(1, setting.updates // PARTS)
    words = [
        f"task.schedule={variant.schedule}",
        f"task.lengths={phase_lengths(variant.schedule, setting.updates, 'updates')}",
        f"common.seed={job.seed}",
        *update_settings(job.updates(setting.updates), part, part),
    ]
    needs = [f"data-{job.pairs}-{job.by}" if job.by else "data"]
    if variant.schedule != "vgs":
        words += [f"task.ssl_data={stages.hydra_value(str(setting.whole))}", *ON_ALL_CAPTIONS]
    words += variant.settings
    if variant.needs_labels:
        folder = stages.hydra_value(str(labels.folder))
        words += [f"task.labels=[{folder}]", f"task.ssl_labels=[{folder}]"]
        needs.append(labels.name)
    if variant.tower:
        if tower is None:
            raise ConfigError(variant.name, ["takes its image encoder from VGS on all pairs; give that run"])
        words += [f"model.init_from={stages.hydra_value(str(tower.products[0]))}"]
        words += ["model.init_parts=[image_encoder]", "model.frozen_parts=[image_encoder]"]
        needs.append(tower.name)
    words += setting.overrides
    data = job.data(setting.whole, setting.out)
    last = "checkpoint_last.pt"
    return stages.training_stage(job.name, setting.recipe, data, setting.out, words, needs, last)
