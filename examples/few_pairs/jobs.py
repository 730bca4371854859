"""What is trained on few pairs: the variants, and the command of each run.

**How the speech of all captions comes in.** `task.data` is the folder of the few pairs, `task.ssl_data` that
of all captions. With `task.ssl_on_pairs=false` and `task.ssl_ratio=1` each batch of 32 pairs brings 32 clips
drawn from all captions, and the SSL loss is of these alone: self-supervision sees the whole corpus, evenly,
and an update costs what it costs on all pairs, while VGS keeps its batch of 32 pairs. (With the pairs in the
SSL loss, a ratio of 1 would give it half its clips from the few pairs at twice the cost, and a ratio of 9,
the corpus in proportion, would cost ten times as much.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from examples import stages
from examples.pipeline import Stage
from examples.variants import CONSTANT_SPEED, FIRST_PARTS, NEVER, PARTS, Variant
from fairseq_mtssl.errors import ConfigError

UPDATES = 1505
ALL = "all"
RECIPE = "joint_sequential_small"
ON_ALL_CAPTIONS = ("task.ssl_on_pairs=false", "task.ssl_ratio=1")


@dataclass(frozen=True)
class FewVariant(Variant):
    """only_vgs: VGS alone, as many updates as a sequence trains VGS, and not as many as it has in all.

    tower: the image encoder is that of VGS on all pairs, and frozen.
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
"""What (MT4SSL, VGS), whose labels allow no change of speed, is to be compared with; where asked for."""
DIAGNOSES = _known(
    FewVariant("w2v2_vgs-tower", "w2v2_vgs", f"(W2V2, VGS), {TOWER}", tower=True),
    FewVariant("vgs-tower", "vgs", f"VGS, {TOWER}, {LONG}", tower=True),
    FewVariant("vgs-short-tower", "vgs", f"VGS, {TOWER}, {SHORT}", only_vgs=True, tower=True),
)
TITLES = tuple(each.title for each in (VARIANTS | COMPARISONS | DIAGNOSES).values())


@dataclass(frozen=True)
class Job:
    """One training. pairs: how many, or `all`. by: what there are fewer of, image or caption; "" for all."""

    variant: FewVariant
    pairs: str
    by: str
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        words = [self.variant.name, self.pairs, self.by, f"seed{self.seed}"]
        return "-".join(word for word in words if word)

    def data(self, whole: Path, out: Path) -> Path:
        """The folder of its pairs. whole: that of all pairs."""
        return out / f"data-{self.pairs}-{self.by}" if self.by else whole

    def updates(self, total: int) -> int:
        """Of this run, where a sequence has so many in all."""
        return total - first_phase(total) if self.variant.only_vgs else total


@dataclass(frozen=True)
class Setting:
    """What all runs share. whole: the folder of all pairs; updates: of a sequence in all."""

    whole: Path
    out: Path
    updates: int = UPDATES
    recipe: str = RECIPE
    overrides: tuple[str, ...] = ()


def first_phase(updates: int) -> int:
    """The first phase of a sequence of so many updates, 2/7 as in the paper."""
    return updates // PARTS * FIRST_PARTS


def jobs_of(
    variants: list[FewVariant], sizes: list[str], ways: tuple[str, ...], seeds: list[int]
) -> list[Job]:
    """Every combination; all pairs are the same whichever way there are fewer. Seeds first, then sizes."""
    return [
        Job(variant, pairs, by, seed)
        for seed in seeds
        for pairs in sizes
        for by in (("",) if pairs == ALL else ways)
        for variant in sorted(variants, key=lambda each: -each.cost)
    ]


def sizes_of(text: str) -> list[str]:
    """--pairs. Raises: ConfigError."""
    words = [word.strip() for word in text.split(",")]
    if not all(word == ALL or (word.isdecimal() and int(word) > 0) for word in words) or len(
        set(words)
    ) < len(words):
        raise ConfigError("--pairs", [f"got {text!r}, wanted numbers above 0 or all, each once, as 300,all"])
    return words


def pairs_stage(pairs: str, by: str, whole: Path, out: Path) -> Stage:
    """`manifests/fewer_pairs.py`: a folder of so many pairs."""
    folder = out / f"data-{pairs}-{by}"
    words = ["--data", str(whole), "--pairs", pairs, "--by", by]
    made = stages.manifest_stage("fewer_pairs", folder, words)
    return replace(made, name=folder.name, needs=("data",))


def training(job: Job, setting: Setting, labels: Stage, tower: Stage | None = None) -> Stage:
    """One fairseq-hydra-train, whose product is its last checkpoint.

    labels: what makes those of all captions. tower: the run whose image encoder a diagnosis takes.
    """
    variant, updates = job.variant, job.updates(setting.updates)
    part = max(1, setting.updates // PARTS)
    first = f"{first_phase(setting.updates)} updates"
    settings = {
        "task.schedule": variant.schedule,
        "task.lengths": f"[{first},rest]" if "_" in variant.schedule else "[rest]",
        "common.seed": job.seed,
        "optimization.max_epoch": 0,
        "optimization.max_update": updates,
        "dataset.validate_interval": NEVER,
        "dataset.validate_interval_updates": part,
        "checkpoint.save_interval": NEVER,
        "checkpoint.save_interval_updates": part,
        "common.log_interval": max(1, min(25, part // 4)),
    }
    words = [f"{key}={value}" for key, value in settings.items()]
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
    run = stages.training_stage(job.name, setting.recipe, data, setting.out, words, needs)
    return replace(run, products=[run.folder / "checkpoint_last.pt"])
