"""The proof that both sides compute the same, and the weights from which both begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from examples.benchmark.batches import batch, move
from examples.benchmark.dump import dump_ours, dump_peer
from examples.benchmark.sides import SIDES, SWITCHED_OFF, Ours, Peer, build, our_name, save
from examples.benchmark.sizes import SIZES, Size
from examples.benchmark.speech import utterances
from examples.benchmark.updates import one_update

UPDATES = 3
LIMITS = {"loss": 1e-5, "gradient": 1e-4, "loss_after_updates": 1e-3, "features_fp32": 1e-4}
"""Relative differences of fp32 above which the two do not count as the same mathematics. Adam's first step
is the rate times the sign of a gradient, rounding noise included, and the two add eps in another place."""


def check(size: str, device: str, weights: str) -> dict[str, Any]:
    """Write the peer's weights to a file, and compare losses, gradients and features from them.

    Without dropout: losses of a batch before the first update and after one and two, which the
    optimizers' steps and the teachers have gone into; the gradient of the first; features of a layer.
    Returns: both sides' losses, and relative differences.
    """
    with torch.backends.cudnn.flags(allow_tf32=False):  # else 10 bits of a GPU's convolutions
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
    """Of every parameter that has one, by our names, on the CPU."""
    rename = our_name if isinstance(side, Peer) else str
    return {
        rename(name): parameter.grad.detach().cpu().clone()
        for name, parameter in side.model.named_parameters()
        if parameter.grad is not None
    }


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """‖ours − theirs‖ / ‖theirs‖ over all parameters; infinite if one side lacks some."""
    if ours.keys() != theirs.keys():
        return float("inf")
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in ours)
    whole = sum(float(each.double().square().sum()) for each in theirs.values())
    return (apart / whole) ** 0.5


def features(size: Size, device: torch.device, weights: Path) -> dict[str, float]:
    """Relative distance of the features of an utterance, in both precisions."""
    wavs = utterances(size.dump_s[:1])
    theirs = next(dump_peer(size, device, weights, "fp32")(wavs))
    found = {}
    for precision in ("fp32", "bf16"):
        ours = next(dump_ours(size, device, weights, precision)(wavs))
        found[f"features_{precision}"] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
    return found
