"""Scenes of one or two coloured shapes: their content, their images and their captions.

Images are drawn with numpy by inequalities and integer arithmetic, with 4 x 4 samples per pixel, so that the
pixels are the same with every version of every library.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import numpy as np

from fairseq_mtssl.corpora.data_folder import pick

COLOURS = {
    "red": (222, 44, 40),
    "orange": (255, 140, 10),
    "yellow": (250, 228, 60),
    "green": (46, 175, 70),
    "blue": (60, 100, 245),
    "purple": (150, 62, 200),
    "pink": (255, 160, 205),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "moon")
BACKGROUNDS = ((18, 18, 24), (14, 34, 44), (48, 34, 22), (52, 52, 56))  # which no caption mentions
PLACES = {
    "at the top left": (0.27, 0.27),
    "at the top right": (0.73, 0.27),
    "at the bottom left": (0.27, 0.73),
    "at the bottom right": (0.73, 0.73),
    "in the middle": (0.5, 0.5),
    "at the top": (0.5, 0.27),
    "at the bottom": (0.5, 0.73),
    "on the left": (0.27, 0.5),
    "on the right": (0.73, 0.5),
}
# the relation of the first thing to the second -> that of the second to the first
RELATIONS = {"above": "below", "left of": "right of"}
RADIUS = {
    "small": 0.12,
    "": 0.18,
}  # as a fraction of the side of the image; captions do not mention the size ""
_SAMPLES = 4
_SINGLE_SHARE = 0.5


@dataclass(frozen=True)
class Thing:
    """One shape, whose size is "small" or "" (the usual size)."""

    size: str
    colour: str
    shape: str

    @property
    def combination(self) -> tuple[str, str]:
        return self.colour, self.shape

    @property
    def words(self) -> str:
        return " ".join(word for word in (self.size, self.colour, self.shape) if word)


@dataclass(frozen=True)
class Scene:
    """One thing at a place, or two things, the first of which is `above` or `left of` the second."""

    things: tuple[Thing, ...]
    where: str

    @property
    def description(self) -> str:
        """The canonical description, which two scenes share if and only if they have the same content."""
        return " ".join([self.things[0].words, self.where, *(thing.words for thing in self.things[1:])])


def draw_scene(rng: random.Random, first: list[tuple[str, str]], other: list[tuple[str, str]]) -> Scene:
    """A random scene. first: combinations for one of its things; other: for the second thing, if any."""
    things = [_draw_thing(rng, first)]
    if rng.random() < _SINGLE_SHARE:
        return Scene(tuple(things), pick(list(PLACES), rng))
    things.append(_draw_thing(rng, other))
    while things[1].combination == things[0].combination:
        things[1] = _draw_thing(rng, other)
    if rng.random() < 0.5:
        things.reverse()
    return Scene(tuple(things), pick(list(RELATIONS), rng))


def _draw_thing(rng: random.Random, combinations: list[tuple[str, str]]) -> Thing:
    return Thing(pick(list(RADIUS), rng), *pick(combinations, rng))


def tell(scene: Scene, rng: random.Random) -> str:
    """A caption such as "a small red circle above a blue star"; either of the two things may come first."""
    first, *others = (_with_article(thing.words) for thing in scene.things)
    if not others:
        return f"{first} {scene.where}"
    if rng.random() < 0.5:
        return f"{first} {scene.where} {others[0]}"
    return f"{others[0]} {RELATIONS[scene.where]} {first}"


def _with_article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def render(scene: Scene, size_px: int, rng: random.Random) -> np.ndarray:
    """Draw a scene with random background, shades, tilts and small shifts.

    Returns: (size_px, size_px, 3) uint8.
    """
    background = _shade(pick(BACKGROUNDS, rng), rng)
    pixels = np.empty((size_px, size_px, 3), dtype=np.int64)
    pixels[:] = background
    for thing, (x, y) in zip(scene.things, _centres(scene, rng), strict=True):
        tilt_rad = (rng.random() - 0.5) * 0.4
        # (size, size, 1) counts of 0..16 samples covered
        covered = _coverage(thing, x, y, tilt_rad, size_px)[:, :, None]
        colour = np.array(_shade(COLOURS[thing.colour], rng))
        pixels += (colour - pixels) * covered // (_SAMPLES * _SAMPLES)
    return pixels.astype(np.uint8)


def _shade(colour: tuple[int, int, int], rng: random.Random) -> tuple[int, ...]:
    return tuple(min(255, max(0, channel + int(rng.random() * 21) - 10)) for channel in colour)


def _centres(scene: Scene, rng: random.Random) -> list[tuple[float, float]]:
    """Centres of the things, far enough apart, as fractions of the side of the image; y grows downwards."""

    def shift(most: float) -> float:
        return (rng.random() - 0.5) * 2 * most

    if len(scene.things) == 1:
        x, y = PLACES[scene.where]
        return [(x + shift(0.03), y + shift(0.03))]
    # along the axis of the relation, and across it
    along = [0.265 + shift(0.02), 0.735 + shift(0.02)]
    across = [0.5 + shift(0.15), 0.5 + shift(0.15)]
    points = list(zip(along, across, strict=True))
    return points if scene.where == "left of" else [(x, y) for y, x in points]


def _coverage(thing: Thing, x: float, y: float, tilt_rad: float, size_px: int) -> np.ndarray:
    """(size_px, size_px) int64: how many of the 4 x 4 samples of each pixel lie inside the shape."""
    side = size_px * _SAMPLES
    at = (np.arange(side) + 0.5) / side
    # rounded, because mathematical libraries differ in the last bit
    cosine, sine = round(math.cos(tilt_rad), 6), round(math.sin(tilt_rad), 6)
    across, down = at[None, :] - x, at[:, None] - y
    radius = RADIUS[thing.size]
    u = (cosine * across + sine * down) / radius
    v = (cosine * down - sine * across) / radius
    inside = _inside(thing.shape, u, v)
    # (4 size, 4 size) -> (size, 4, size, 4) -> (size, size)
    return inside.reshape(size_px, _SAMPLES, size_px, _SAMPLES).sum(axis=(1, 3), dtype=np.int64)


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether each point lies in a shape of radius about 1 around the origin; v grows downwards."""
    square_radius = u * u + v * v
    if shape == "circle":
        return square_radius <= 1
    if shape == "ring":
        return (square_radius <= 1) & (square_radius >= 0.3)
    if shape == "moon":
        return (square_radius <= 1.1) & ((u - 0.55) * (u - 0.55) + v * v >= 0.75)
    if shape == "square":
        return (abs(u) <= 0.86) & (abs(v) <= 0.86)
    if shape == "cross":
        return ((abs(u) <= 0.3) & (abs(v) <= 1)) | ((abs(v) <= 0.3) & (abs(u) <= 1))
    if shape == "triangle":
        return (v <= 0.8) & (abs(u) <= (v + 1) * 0.58)
    if shape == "heart":
        p, q = u * 1.15, 0.12 - v * 1.15
        body = p * p + q * q - 1
        return body * body * body <= p * p * q * q * q
    return _inside_star(u, v)


def _inside_star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Whether each point lies in a five-pointed star: inside at least four of its five lines."""
    inner = 0.36  # distance of each line from the centre
    sides = np.zeros(np.broadcast_shapes(u.shape, v.shape), dtype=np.int64)
    for point in range(5):
        angle_rad = -math.pi / 2 + point * 2 * math.pi / 5
        x, y = round(math.cos(angle_rad), 6), round(math.sin(angle_rad), 6)
        sides += u * x + v * y <= inner
    return (sides >= 4) & (u * u + v * v <= 1.5)
