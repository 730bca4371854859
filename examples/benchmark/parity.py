"""Checks that both sides compute the same, and writes the weights with which both begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmark.inputs import batch, move, utterances
from examples.benchmark.offline import features_of_ours, features_of_peer
from examples.benchmark.parts import SIZES, Size
from examples.benchmark.sides import SIDES, SWITCHED_OFF, Ours, Peer, build, our_name, save
from examples.benchmark.updates import one_update

UPDATES = 3
LIMITS = {"loss": 1e-5, "gradient": 1e-4, "loss_after_updates": 1e-3, "features_fp32": 1e-4}
"""The largest relative differences in fp32. Those after updates are larger, because the first step of Adam
follows the sign of gradients, whose rounding differs, and the two optimizers add eps at different places."""


def check(size: str, device: str, weights: str) -> dict[str, Any]:
    """Write the peer's weights to a file, and compare losses, gradients and features without dropout.

    The losses are those of a batch before the first update and after one and two updates, which include the
    steps of optimizers and teachers; the gradient is that of the first update.
    Returns: the losses of both sides, relative differences, and whether all are within LIMITS.
    """
    with torch.backends.cudnn.flags(allow_tf32=False):  # otherwise a GPU's convolutions use 10 bits
        return _check(SIZES[size], torch.device(device), Path(weights))


def _check(sizes: Size, where: torch.device, weights: Path) -> dict[str, Any]:
    save(build("peer", sizes, torch.device("cpu")), weights)
    losses: dict[str, list[float]] = {}
    gradients: dict[str, dict[str, torch.Tensor]] = {}
    for name in SIDES:
        side = build(name, sizes, where, weights, **SWITCHED_OFF)
        losses[name] = []
        for update in range(UPDATES):
            sample = move(batch(sizes.parity_batch, sizes, seed=3), where)
            losses[name].append(float(one_update(side, sample, update, "fp32")))
            if update == 0:
                gradients[name] = gradient(side)
        del side
    ours, theirs = (losses[name] for name in ("ours", "peer"))
    apart = [abs(a - b) / abs(b) for a, b in zip(ours, theirs)]
    found: dict[str, Any] = {
        "losses": {"ours": ours, "peer": theirs},
        "differences": {
            "loss": apart[0],
            "loss_after_updates": max(apart[1:]),
            "gradient": distance(gradients["ours"], gradients["peer"]),
            **features(sizes, where, weights),
        },
    }
    found["same"] = all(found["differences"][name] <= limit for name, limit in LIMITS.items())
    return found


def gradient(side: Ours | Peer) -> dict[str, torch.Tensor]:
    """The gradients by our names of parameters, on the CPU."""
    rename = our_name if isinstance(side, Peer) else str
    return {
        rename(name): parameter.grad.detach().cpu().clone()
        for name, parameter in side.model.named_parameters()
        if parameter.grad is not None
    }


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """‖ours − theirs‖ / ‖theirs‖ over all parameters; infinite if one side lacks a parameter."""
    if ours.keys() != theirs.keys():
        return float("inf")
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    whole = sum(float(each.double().square().sum()) for each in theirs.values())
    return (apart / whole) ** 0.5


def features(size: Size, device: torch.device, weights: Path) -> dict[str, float]:
    """Relative distance of the features of an utterance, in both precisions."""
    wavs = utterances(size.dump_s[:1])
    theirs = next(features_of_peer(size, device, weights, "fp32")(wavs))
    found = {}
    for precision in ("fp32", "bf16"):
        ours = next(features_of_ours(size, device, weights, precision)(wavs))
        found[f"features_{precision}"] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return found
