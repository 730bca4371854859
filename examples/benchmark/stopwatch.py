"""The time of each part of an update, measured by hooks of modules."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmark.machine import synchronise

PARTS = (
    "conv forward",
    "conv backward",
    "encoder forward",
    "encoder backward",
    "teacher",
    "heads and losses",
    "optimizer, clipping, EMA",
)


class Stopwatch:
    """Measures the seconds of PARTS in the updates of a side between the marks `update` and `end`.

    The backward pass of the convolutions begins with the gradient of their output, and that of the heads ends
    with the gradient of their inputs. The encoder has the rest, with positional convolution and masking. On a
    GPU it waits at the beginning and end of each part, hence it must not run in updates that are timed.
    """

    def __init__(self, side: Any, device: torch.device) -> None:
        self.device = device
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._at: dict[str, float] = {}
        self._spent: dict[str, float] = {}
        self._undo: list[Any] = []
        self._wrap(side.conv, "conv")
        for head in side.heads:
            self._undo.append(head.register_forward_pre_hook(self._before_head))
        self._watch_teacher(*side.teacher)

    def close(self) -> None:
        """Remove the hooks."""
        for undo in self._undo:
            undo.remove() if hasattr(undo, "remove") else undo()
        self._undo = []

    def now(self) -> float:
        """The time in seconds, after the device has finished its work."""
        synchronise(self.device)
        return time.perf_counter()

    def mark(self, border: str) -> None:
        """Note the time of a border: `update`, `forward`, `backward` or `step` begins, or the update ends."""
        now = self.now()
        if border == "update":
            self._at, self._spent = {}, {}
        self._at[border] = now
        if border == "end":
            self._add_up()

    def _add_up(self) -> None:
        at, spent, end = self._at, self._spent, self._at["end"]
        conv, teacher = spent.get("conv", 0.0), spent.get("teacher", 0.0)
        first_head = at.get("first head", at["backward"])
        heads = at["backward"] - first_head - (teacher if at.get("teacher", 0.0) > first_head else 0.0)
        heads_grad = at.get("heads' gradient", at["backward"])
        conv_grad = at.get("conv's gradient", at["step"])
        found = {
            "conv forward": conv,
            "conv backward": at["step"] - conv_grad,
            "encoder forward": at["backward"] - at["forward"] - conv - teacher - heads,
            "encoder backward": conv_grad - heads_grad,
            "teacher": teacher,
            "heads and losses": heads + heads_grad - at["backward"],
            "optimizer, clipping, EMA": at["forward"] - at["update"] + end - at["step"],
        }
        for name in PARTS:
            self.seconds[name] += found[name]

    def lap(self) -> dict[str, float]:
        """The seconds since the last call, by part."""
        found, self.seconds = self.seconds, dict.fromkeys(PARTS, 0.0)
        return found

    # -- hooks

    def _wrap(self, module: nn.Module, name: str) -> None:
        def before(*_: Any) -> None:
            self._at[name] = self.now()

        def after(_: Any, __: Any, output: Tensor) -> None:
            self._spent[name] = self.now() - self._at[name]
            if output.requires_grad:
                output.register_hook(lambda _: self._at.update({f"{name}'s gradient": self.now()}))

        self._undo += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]

    def _before_head(self, _: nn.Module, inputs: tuple[Tensor]) -> None:
        self._at.setdefault("first head", self.now())
        if inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self._at.update({"heads' gradient": self.now()}))

    def _watch_teacher(self, owner: Any, name: str) -> None:
        own = getattr(owner, name)

        def timed(*words: Any, **more: Any) -> Any:
            self._at["teacher"] = self.now()
            found = own(*words, **more)
            self._spent["teacher"] = self.now() - self._at["teacher"]
            return found

        object.__setattr__(owner, name, timed)
        self._undo.append(lambda: object.__delattr__(owner, name))
