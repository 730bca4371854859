"""Carries a schedule out on fairseq's optimizer: learning rate, resets, dead branches."""

from __future__ import annotations

import logging
from typing import Any

from fairseq.optim import FairseqOptimizer
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fp16_optimizer import FP16Optimizer

from fairseq_mtssl.errors import ConfigError
from fairseq_mtssl.schedule import Moment, Schedule

logger = logging.getLogger(__name__)


def begin_update(optimizer: FairseqOptimizer, schedule: Schedule, moment: Moment, peak_lr: float) -> None:
    """Bring the optimizer to what holds at an update, before its gradients are applied.

    Depends on the update number alone and may be repeated (gradient accumulation, a retried or a
    resumed update): a reset happens at the phase's first update and nowhere else.
    """
    optimizer.set_lr(peak_lr * moment.lr_factor)
    if moment.resets_optimizer and moment.update > 0:
        optimizer.optimizer.state.clear()
    if moment.update == schedule.starts[moment.phase]:
        phase = schedule.phases[moment.phase]
        logger.info(
            "phase %d of %d, %s: updates %d to %d, alpha %s, resets %s",
            moment.phase + 1,
            len(schedule.phases),
            moment.name,
            moment.update,
            schedule.end(moment.phase),
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
