"""Training schedules as data: phases with loss weights, lengths, learning-rate courses and resets.

A schedule is a pure function from the number of an update to the weights at that update. Updates are counted
from 0; a phase that starts at update s holds for the updates s, s+1, … until the next phase starts.

Source: Khorrami et al. 2023, arXiv 2306.02972, section 3 (the base and scheduled variants).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fairseq_mtssl.errors import ConfigError

RESETS = ("optimizer", "lr")
DECAYS = ("linear", "cosine", "constant")

ALPHA = {"w2v2": 0.0, "vgs": 1.0, "vgsplus": 0.5}
"""Weight of L_AV in the paper's three kinds of training."""

SCHEDULES = (
    *((name,) for name in ALPHA),
    *((first, second) for first in ALPHA for second in ALPHA if first != second),
)
"""The paper's nine variants, each as the sequence of its kinds of training."""

PHASE_KEYS = ("name", "alpha", "length", "warmup", "decay", "lr_scale", "reset", "course")


@dataclass(frozen=True)
class Length:
    """A phase's length: a number of ``updates`` or ``epochs``, a ``share`` of the run, or the ``rest``."""

    amount: float
    unit: str

    def updates(self, total: int, updates_per_epoch: int) -> int | None:
        """Return the length in updates; None for the rest of the run."""
        if self.unit == "rest":
            return None
        if self.unit == "updates":
            return int(self.amount)
        if self.unit == "epochs":
            return round(self.amount * updates_per_epoch)
        return round(self.amount * total)


@dataclass(frozen=True)
class Phase:
    """One phase as a user writes it.

    alpha: weight of L_AV at the phase's first and last update, in [0, 1]; the weight of L_AUD is 1 − alpha.
    length: see Length.
    warmup: share of the learning-rate course in which the rate rises linearly, in [0, 1).
    decay: how the learning rate falls after the warm-up.
    lr_scale: the phase's peak learning rate as a multiple of the optimizer's.
    reset: what is reset at the phase's first update: the "optimizer" state, the "lr" course.
    course: length of the learning-rate course that the phase begins, which may be longer than the phase;
        None: the course ends where the next one begins, so that the rate falls to 0.
    A phase without the "lr" reset continues the course of the phase before it.
    """

    name: str
    alpha: tuple[float, float]
    length: Length
    warmup: float = 0.1
    decay: str = "linear"
    lr_scale: float = 1.0
    reset: tuple[str, ...] = RESETS
    # repr leaves it out, since a resumed run compares phases by repr (tasks/phases.py) and it moves no phase
    course: Length | None = field(default=None, repr=False)


@dataclass(frozen=True)
class StepWeights:
    """The loss weights and learning-rate factor of one update; the task puts them into the batch as "step".

    phase: index of the phase; name: its name; update: counted from 0.
    vgs_weight, ssl_weight: weights of L_AV and L_AUD; a branch whose weight is 0 is not run.
    lr_factor: multiplies the optimizer's learning rate.
    """

    phase: int
    name: str
    update: int
    vgs_weight: float
    ssl_weight: float
    lr_factor: float


BOTH_HALF = StepWeights(phase=0, name="", update=0, vgs_weight=0.5, ssl_weight=0.5, lr_factor=1.0)
"""The weights of a batch outside a schedule, as in `fairseq-validate`."""


def parse_length(text: Any) -> Length:
    """Read ``1000 updates``, ``20 epochs``, ``40 %``, ``rest``, or a whole number, which means updates.

    Raises: ValueError whose message says what was wanted.
    """
    match = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*(updates?|epochs?|%)?\s*", str(text))
    if str(text).strip() == "rest":
        return Length(0.0, "rest")
    if not match or float(match[1]) <= 0:
        raise ValueError(
            f"length {text!r}: wanted '1000 updates', '20 epochs', '40 %' or 'rest', more than 0"
        )
    amount, unit = float(match[1]), match[2] or "updates"
    if unit == "%":
        return Length(amount / 100, "share")
    if unit.startswith("update") and amount != int(amount):
        raise ValueError(f"length {text!r}: updates are whole; write a whole number, epochs or %")
    return Length(amount, "updates" if unit.startswith("update") else "epochs")


def parse_schedule(
    schedule: str,
    lengths: Sequence[Any],
    warmup: float = 0.1,
    decay: str = "linear",
    first_course: Any = None,
) -> list[Phase]:
    """Make the phases of one of the paper's nine variants.

    schedule: kinds of training joined by underscores: ``w2v2_vgs`` is (W2V2, VGS).
    lengths: one per phase; the last may be "rest".
    first_course: `Phase.course` of the first of two phases; it has no effect on a single phase.
    Raises: ConfigError naming every error.
    """
    names = tuple(schedule.split("_"))
    if names not in SCHEDULES:
        known = ", ".join("_".join(kinds) for kinds in SCHEDULES)
        raise ConfigError(
            "task.schedule", [f"got {schedule!r}, wanted one of {known}; or write task.phases yourself"]
        )
    if len(lengths) != len(names):
        raise ConfigError(
            "task.lengths",
            [f"{len(lengths)} lengths for the {len(names)} phases of {schedule!r}; give one per phase"],
        )
    entries: list[dict[str, Any]] = [
        {"name": name, "alpha": ALPHA[name], "length": length, "warmup": warmup, "decay": decay}
        for name, length in zip(names, lengths, strict=True)
    ]
    if len(entries) > 1:
        entries[0]["course"] = first_course
    return parse_phases(entries)


def parse_phases(entries: Sequence[Mapping[str, Any]]) -> list[Phase]:
    """Read phases written as mappings (YAML); see Phase for the keys.

    alpha: a number, or [first, last] for a ramp.
    Raises: ConfigError naming every error of every phase at once.
    """
    errors: list[str] = [] if entries else ["no phase; write at least one"]
    phases = []
    for number, entry in enumerate(entries, start=1):
        phase_errors: list[str] = []
        phases.append(_parse_phase(number, entry, phase_errors))
        errors += [f"phase {number}: {error}" for error in phase_errors]
    rests = [number for number, phase in enumerate(phases, 1) if phase and phase.length.unit == "rest"]
    if rests and rests != [len(entries)]:
        errors.append("only the last phase may have the length 'rest'")
    if errors:
        raise ConfigError("task.phases", errors)
    return [phase for phase in phases if phase is not None]


def _parse_phase(number: int, entry: Mapping[str, Any], errors: list[str]) -> Phase | None:
    """Read phase `number`; adds what is wrong to `errors`."""
    unknown = [key for key in entry if key not in PHASE_KEYS]
    if unknown:
        errors.append(f"unknown key {', '.join(map(str, unknown))}; wanted {', '.join(PHASE_KEYS)}")
    for key in ("alpha", "length"):
        if key not in entry:
            errors.append(f"{key} is missing; write it")
    if errors:
        return None
    try:
        ends = entry["alpha"]
        ends = [float(ends)] * 2 if isinstance(ends, (int, float)) else [float(end) for end in ends]
        phase = Phase(
            name=str(entry.get("name", f"phase{number}")),
            alpha=(ends[0], ends[1]),
            length=parse_length(entry["length"]),
            warmup=float(entry.get("warmup", 0.1)),
            decay=str(entry.get("decay", "linear")),
            lr_scale=float(entry.get("lr_scale", 1.0)),
            reset=tuple(entry.get("reset", RESETS)),
            course=None if entry.get("course") is None else parse_length(entry["course"]),
        )
    except (TypeError, ValueError, IndexError) as error:
        errors.append(f"{error}; alpha is a number or [first, last], warmup and lr_scale are numbers")
        return None
    if len(ends) != 2 or not all(0 <= end <= 1 for end in ends):
        errors.append(f"alpha {entry['alpha']!r}: wanted a number in [0, 1] or [first, last]")
    if not 0 <= phase.warmup < 1:
        errors.append(f"warmup {phase.warmup}: wanted a share in [0, 1)")
    if phase.decay not in DECAYS:
        errors.append(f"decay {phase.decay!r}: wanted one of {', '.join(DECAYS)}")
    if phase.lr_scale <= 0:
        errors.append(f"lr_scale {phase.lr_scale}: wanted a number above 0")
    if phase.course is not None and (phase.course.unit == "rest" or number > 1 and "lr" not in phase.reset):
        errors.append("course: wanted a length, not 'rest', of a phase that begins one (reset has 'lr')")
    if any(reset not in RESETS for reset in phase.reset):
        errors.append(f"reset {list(phase.reset)}: wanted some of {list(RESETS)}")
    return phase


def run_length(max_update: int, max_epoch: int, updates_per_epoch: int) -> int:
    """Return the updates of the whole run; fairseq stops at the limit that comes first, and 0 is no limit.

    Raises: ConfigError if there is no limit, since a schedule needs an end.
    """
    limits = [limit for limit in (max_update, max_epoch * updates_per_epoch) if limit > 0]
    if not limits:
        raise ConfigError(
            "optimization", ["max_update and max_epoch are both 0; a schedule needs an end: set one"]
        )
    return min(limits)


@dataclass(frozen=True)
class Schedule:
    """The phases of one run, with lengths resolved to updates.

    phases: in order; starts: first update of each; total: updates of the run; updates_per_epoch: the number
    with which lengths in epochs were resolved.
    """

    phases: tuple[Phase, ...]
    starts: tuple[int, ...]
    total: int
    updates_per_epoch: int
    _segments: tuple[tuple[int, int], ...] = field(repr=False)

    @classmethod
    def fixed(
        cls, phases: Sequence[Phase], starts: Sequence[int], total: int, updates_per_epoch: int
    ) -> Schedule:
        """Make the schedule of phases whose first updates are known."""
        segments = _lr_segments(phases, starts, total)
        return cls(tuple(phases), tuple(starts), total, updates_per_epoch, segments)

    @classmethod
    def resolve(cls, phases: Sequence[Phase], total: int, updates_per_epoch: int) -> Schedule:
        """Make the schedule by resolving the phases' lengths.

        Raises: ConfigError if a phase rounds to 0 updates, or the phases do not fill the run exactly.
        """
        starts, position, errors = [], 0, []
        for phase in phases:
            starts.append(position)
            updates = phase.length.updates(total, updates_per_epoch)
            updates = total - position if updates is None else updates
            if updates < 1:
                errors.append(f"phase {phase.name!r} has {updates} updates; lengthen it or the run")
            position += max(updates, 0)
        if position != total:
            errors.append(
                f"the phases end at update {position}, the run at update {total}; give the last phase the "
                f"length 'rest' or set optimization.max_update={position} and optimization.max_epoch=0"
            )
        schedule = cls.fixed(phases, starts, total, updates_per_epoch)
        for index, phase in enumerate(phases):
            begun, end = schedule._segments[index]
            course = schedule._course(index)
            if begun == starts[index] and course < end - begun:
                errors.append(
                    f"the learning-rate course of phase {phase.name!r} has {course} updates, but must last "
                    f"for {end - begun}; lengthen or drop it"
                )
        if errors:
            raise ConfigError("task.phases", errors)
        return schedule

    def index(self, update: int) -> int:
        """Return the index of the phase of an update; for updates past the end, that of the last phase."""
        return max(i for i, start in enumerate(self.starts) if start <= max(update, 0))

    def end(self, index: int) -> int:
        """Return the first update after a phase."""
        return self.starts[index + 1] if index + 1 < len(self.starts) else self.total

    def at(self, update: int) -> StepWeights:
        """Return the weights of an update, counted from 0."""
        index = self.index(update)
        phase, start = self.phases[index], self.starts[index]
        alpha = _ramp(phase.alpha, update - start, self.end(index) - start)
        return StepWeights(
            phase=index,
            name=phase.name,
            update=update,
            vgs_weight=alpha,
            ssl_weight=1.0 - alpha,
            lr_factor=self._lr_factor(index, update),
        )

    def uses_vgs(self, first: int, last: int) -> bool:
        """Return whether L_AV has a weight in the phase of any update from first to last (inclusive)."""
        phases = range(self.index(first), self.index(last) + 1)
        return any(max(self.phases[index].alpha) > 0 for index in phases)

    def uses_ssl(self, first: int, last: int) -> bool:
        """Return whether L_AUD has a weight in the phase of any update from first to last (inclusive)."""
        phases = range(self.index(first), self.index(last) + 1)
        return any(min(self.phases[index].alpha) < 1 for index in phases)

    def _lr_factor(self, index: int, update: int) -> float:
        start, _ = self._segments[index]
        first = self.phases[self.index(start)]  # the phase that begins the course
        course = lr_course(update - start, self._course(index), first.warmup, first.decay)
        return self.phases[index].lr_scale * course

    def _course(self, index: int) -> int:
        """Return the length in updates of a phase's learning-rate course."""
        start, end = self._segments[index]
        length = self.phases[self.index(start)].course
        updates = None if length is None else length.updates(self.total, self.updates_per_epoch)
        return end - start if updates is None else updates


def lr_course(update: int, length: int, warmup: float, decay: str) -> float:
    """Return the learning rate as a share of its peak, within one learning-rate course.

    update: counted from 0 in the course; length: of the course in updates; warmup: share of the course.
    With w = round(warmup · length), update u of the warm-up has the share (u + 1) / w, so that the peak is
    reached at update w − 1. A linear decay then falls by equal steps and would reach 0 at update ``length``,
    so that no update has a rate of 0.
    """
    position = min(max(update, 0), max(length - 1, 0)) + 1
    warm = round(warmup * length)
    if position <= warm:
        return position / warm
    if decay == "constant":
        return 1.0
    share = (length + 1 - position) / (length + 1 - max(warm, 1))
    return share if decay == "linear" else 0.5 * (1.0 - math.cos(math.pi * share))


def _ramp(ends: tuple[float, float], update: int, length: int) -> float:
    if ends[0] == ends[1] or length <= 1:
        return ends[0]
    share = min(max(update / (length - 1), 0.0), 1.0)
    return ends[0] + (ends[1] - ends[0]) * share


def _lr_segments(phases: Sequence[Phase], starts: Sequence[int], total: int) -> tuple[tuple[int, int], ...]:
    """Return for each phase the first update and the end of its learning-rate course."""
    first_phases = [i for i, phase in enumerate(phases) if i == 0 or "lr" in phase.reset]
    bounds = [starts[i] for i in first_phases] + [total]
    courses = [sum(first <= i for first in first_phases) for i in range(len(phases))]  # numbered from 1
    return tuple((bounds[course - 1], bounds[course]) for course in courses)
