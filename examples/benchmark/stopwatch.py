"""Where the time of an update goes, told by hooks that both sides allow."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor, nn

from examples.benchmark.load import synchronise

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
    """Attached to a side, it gives the seconds of each of PARTS of the updates between `begin` and `end`.

    The convolutions' backward pass is the last one, from the gradient of their output on. What lies before
    the gradient of the heads' inputs is theirs. The encoder has everything else, its positional convolution
    and the masking included. On a GPU it waits at every border, which costs time: not for the timed updates.
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
        """Take the hooks away."""
        for undo in self._undo:
            undo.remove() if hasattr(undo, "remove") else undo()
        self._undo = []

    def now(self) -> float:
        """Seconds, after what the device had to do."""
        synchronise(self.device)
        return time.perf_counter()

    # -- called by the training loop

    def begin(self) -> None:
        """An update begins."""
        self._at, self._spent = {"update": self.now()}, {}

    def forward(self) -> None:
        """Its forward pass begins."""
        self._at["forward"] = self.now()

    def backward(self) -> None:
        """Its forward pass has ended and the backward pass begins."""
        self._at["backward"] = self.now()

    def step(self) -> None:
        """The backward pass has ended."""
        self._at["step"] = self.now()

    def end(self) -> None:
        """The update has ended."""
        at, spent, end = self._at, self._spent, self.now()
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
        """The seconds so far, which then begin anew."""
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
