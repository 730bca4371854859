"""The nine variants of Khorrami et al. and the numbers of their Tables I and II.

Retrieval was measured on the 5,000 test images of SpokenCOCO with five captions each, ABX on LibriSpeech
dev-clean. Source: Khorrami, Cruz Blandón, Virtanen and Räsänen, EUSIPCO 2023, arXiv 2306.02972.
"""

from __future__ import annotations

from dataclasses import dataclass

SOURCE = "Khorrami et al. 2023, arXiv 2306.02972"
PHASES = {"w2v2": "W2V2", "vgs": "VGS", "vgsplus": "VGS+"}
"""A phase in `task.schedule` -> its name in the paper."""


@dataclass(frozen=True)
class Published:
    """The numbers of one variant: recalls and errors in percent, and the layers (1 to 12) of these errors."""

    s2i_r1: float
    s2i_r10: float
    i2s_r1: float
    i2s_r10: float
    within: float
    within_layer: int
    across: float
    across_layer: int


PUBLISHED = {
    "W2V2": Published(0.0, 0.2, 0.0, 0.2, 7.05, 3, 9.53, 4),
    "VGS": Published(28.4, 69.4, 40.1, 81.5, 4.82, 4, 6.44, 4),
    "VGS+": Published(29.0, 70.1, 40.1, 81.8, 5.09, 8, 6.81, 8),
    "(W2V2, VGS+)": Published(32.0, 74.7, 44.4, 85.0, 6.95, 2, 8.72, 5),
    "(VGS, VGS+)": Published(27.9, 68.8, 39.3, 81.3, 5.49, 7, 7.55, 8),
    "(W2V2, VGS)": Published(32.3, 74.9, 44.8, 84.8, 6.74, 2, 8.75, 2),
    "(VGS, W2V2)": Published(0.0, 0.2, 0.0, 0.2, 8.4, 1, 11.54, 2),
    "(VGS+, W2V2)": Published(14.5, 52.0, 7.5, 32.5, 6.23, 8, 8.35, 8),
    "(VGS+, VGS)": Published(28.8, 70.0, 39.8, 81.5, 4.50, 9, 6.02, 9),
}
"""Variant -> its numbers, in the order of the tables."""


def variant_name(schedule: str) -> str:
    """The paper's name of a schedule: `w2v2_vgs` -> `(W2V2, VGS)`; unknown phases keep their names."""
    names = [PHASES.get(phase, phase) for phase in schedule.split("_")]
    return names[0] if len(names) == 1 else f"({', '.join(names)})"


def kinds_of(variant: str) -> tuple[str, ...]:
    """The phases of a variant, in order: `(W2V2, VGS)` -> `("W2V2", "VGS")`."""
    return tuple(name.strip() for name in variant.strip("()").split(","))


def in_papers_order(variants: list[str]) -> list[str]:
    """The paper's variants in its order, then the others in the given order."""
    order = list(PUBLISHED)
    return sorted(variants, key=lambda name: order.index(name) if name in order else len(order))
