"""Carries a schedule out on fairseq's optimizer: learning rate, resets, dead branches."""

from __future__ import annotations

import logging
from typing import Any

from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.schedule import Schedule, StepWeights

logger = logging.getLogger(__name__)

MAX_DRIFT = 0.05
"""Share by which an epoch's updates may differ from those of the first before that is said."""

PHASE, SCHEDULE = "phase", "schedule"
"""Keys of the optimizer's first parameter group, which a checkpoint keeps: the phase that the optimizer's
state belongs to, and where the phases of the run begin."""


def keep_schedule(optimizer: FairseqOptimizer, schedule: Schedule, setting: str) -> Schedule:
    """The schedule as it was resolved when the run began; `schedule` itself in a new run.

    Lengths in epochs or in shares are resolved once and then kept in the checkpoint: epochs of batches that
    are cut by length differ by a batch or two, and after resuming on another number of GPUs by a factor, so
    that a phase that is under way would begin at another update each time.
    setting: what the schedule follows from as the user wrote it. If it has changed, the new one holds.
    """
    group = optimizer.optimizer.param_groups[0]
    kept = group.get(SCHEDULE)
    if kept is None or kept["setting"] != setting:
        group[SCHEDULE] = {
            "setting": setting,
            "starts": list(schedule.starts),
            "total": schedule.total,
            "updates_per_epoch": schedule.updates_per_epoch,
        }
        return schedule
    before, now = kept["updates_per_epoch"], schedule.updates_per_epoch
    if abs(now - before) > MAX_DRIFT * before and list(schedule.starts) != kept["starts"]:
        logger.warning(
            "an epoch has %d updates, and had %d when the run began; its phases stay where they were laid "
            "then, at updates %s of %d. To lay them anew, change task.phases or task.lengths",
            *(now, before, kept["starts"], kept["total"]),
        )
    return Schedule.fixed(schedule.phases, kept["starts"], kept["total"], before)


def begin_update(optimizer: FairseqOptimizer, schedule: Schedule, step: StepWeights, peak_lr: float) -> None:
    """Bring the optimizer to what holds at an update, before its gradients are applied.

    The state of an optimizer that belongs to an earlier phase is forgotten if the present phase, or one that
    was passed over since, resets it. May be repeated (gradient accumulation, a retried or a resumed update).
    """
    optimizer.set_lr(peak_lr * step.lr_factor)
    group = optimizer.optimizer.param_groups[0]
    # checkpoints of older versions do not say which phase their state belongs to: that of the update before
    owner = group.get(PHASE, schedule.index(step.update - 1))
    entered = schedule.phases[owner + 1 : step.phase + 1]
    if step.update > 0 and any("optimizer" in phase.reset for phase in entered):
        optimizer.optimizer.state.clear()
    group[PHASE] = step.phase
    if step.update == schedule.starts[step.phase]:
        phase = schedule.phases[step.phase]
        logger.info(
            "phase %d of %d, %s: updates %d to %d, alpha %s, resets %s",
            step.phase + 1,
            len(schedule.phases),
            step.name,
            step.update,
            schedule.end(step.phase),
            f"{phase.alpha[0]:g}"
            if phase.alpha[0] == phase.alpha[1]
            else f"{phase.alpha[0]:g} to {phase.alpha[1]:g}",
            ", ".join(phase.reset) or "nothing",
        )


def forget_gradients(optimizer: FairseqOptimizer, parameters: list[Any]) -> None:
    """Make sure that parameters of a dead branch are left alone by the optimizer.

    A gradient of zeros, which half precision and some distributed wrappers put where there was none,
    would still let them decay.
    Raises: ConfigError if half precision flattens all gradients into one, where none can be left out.
    """
    if not parameters:
        return
    for parameter in parameters:
        parameter.grad = None
    if isinstance(optimizer, FP16Optimizer):
        if optimizer.has_flat_params:
            raise ConfigError(
                "common.fp16_no_flatten_grads",
                ["false with a phase that leaves a branch untrained would let it decay; set it to true"],
            )
        dead = {id(parameter) for parameter in parameters}
        for half, full in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True):
            if id(half) in dead:
                full.grad = None


def loss_scale(optimizer: Any) -> float:
    """AMP's loss scale, which it lowers when it silently leaves a step out; 0 with any other optimizer."""
    return float(optimizer.scaler.get_scale()) if isinstance(optimizer, AMPOptimizer) else 0.0
