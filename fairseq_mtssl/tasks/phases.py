"""Applies a schedule to fairseq's optimizer: learning rate, resets, and branches that are not trained."""

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
"""Share by which the updates of an epoch may differ from those of the first epoch without a warning."""

PHASE, SCHEDULE = "phase", "schedule"
"""Keys of the optimizer's first parameter group, which checkpoints contain: the phase to which the state of
the optimizer belongs, and the updates at which the phases of the run begin."""


def keep_schedule(optimizer: FairseqOptimizer, schedule: Schedule, setting: str) -> Schedule:
    """Return the schedule as it was resolved when the run began; in a new run this is `schedule`.

    Lengths in epochs or shares are resolved once and kept in the checkpoint. Otherwise the present phase
    would begin at another update each time: with batches cut by length, epochs differ by a batch or two, and
    after resuming on another number of GPUs by a factor.
    setting: the user's settings of the schedule; if they have changed, the new schedule is used.
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
            "an epoch has %d updates, and had %d when the run began; its phases still begin at the updates "
            "resolved then, %s of %d. To resolve them anew, change task.phases or task.lengths",
            *(now, before, kept["starts"], kept["total"]),
        )
    return Schedule.fixed(schedule.phases, kept["starts"], kept["total"], before)


def begin_update(optimizer: FairseqOptimizer, schedule: Schedule, step: StepWeights, peak_lr: float) -> None:
    """Set the optimizer's learning rate for an update, and reset its state if a phase asks for it.

    The state of an earlier phase is cleared if the present phase, or one in between, resets it. May be called
    repeatedly for one update (gradient accumulation, a repeated or resumed update).
    """
    optimizer.set_lr(peak_lr * step.lr_factor)
    group = optimizer.optimizer.param_groups[0]
    # checkpoints of older versions do not contain the phase of their state: it is that of the last update
    state_phase = group.get(PHASE, schedule.index(step.update - 1))
    entered = schedule.phases[state_phase + 1 : step.phase + 1]
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
    """Remove the gradients of parameters that are not trained, so that the optimizer leaves them unchanged.

    Half precision and some distributed wrappers replace a missing gradient by zeros, with which the optimizer
    would still apply weight decay.
    Raises: ConfigError if half precision flattens all gradients into one tensor.
    """
    if not parameters:
        return
    for parameter in parameters:
        parameter.grad = None
    if isinstance(optimizer, FP16Optimizer):
        if optimizer.has_flat_params:
            raise ConfigError(
                "common.fp16_no_flatten_grads",
                ["false would apply weight decay to a branch that a phase does not train; set it to true"],
            )
        untrained = {id(parameter) for parameter in parameters}
        for half, full in zip(optimizer.fp16_params, optimizer.fp32_params, strict=True):
            if id(half) in untrained:
                full.grad = None


def loss_scale(optimizer: Any) -> float:
    """Return AMP's loss scale, which falls when AMP silently skips an update; 0 with other optimizers."""
    return float(optimizer.scaler.get_scale()) if isinstance(optimizer, AMPOptimizer) else 0.0
