from __future__ import annotations

import hashlib
import random
from itertools import combinations

import numpy as np
import pytest

from fairseq_mtssl.corpora import scene_images as images


def every_combination() -> list[tuple[str, str]]:
    return [(colour, shape) for colour in images.COLOURS for shape in images.SHAPES]


def draw(seed: int) -> tuple:
    """A scene and the centres of its things."""
    rng = random.Random(seed)
    every = every_combination()
    scene = images.draw_scene(rng, every, every)
    return scene, images._centres(scene, rng)


def test_shapes_never_touch_each_other_or_the_border() -> None:
    for seed in range(150):
        scene, centres = draw(seed)
        covered = [
            images._coverage(thing, *centre, tilt, 48)
            for thing, centre in zip(scene.things, centres, strict=True)
            for tilt in (-0.2, 0.0, 0.2)
        ]
        for one in covered:
            assert one.max() == 16  # whole pixels are inside
            assert one[[0, -1]].sum() + one[:, [0, -1]].sum() == 0
        if len(scene.things) == 2:
            for one in covered[:3]:
                assert all((one * other == 0).all() for other in covered[3:])


def test_the_relation_of_a_caption_holds_in_the_image() -> None:
    for seed in range(100):
        scene, centres = draw(seed)
        if len(scene.things) == 2:
            axis = {"left of": 0, "above": 1}[scene.where]
            assert centres[0][axis] < centres[1][axis] - 0.4
            assert abs(centres[0][1 - axis] - centres[1][1 - axis]) < 0.31


@pytest.mark.parametrize("size", ["small", ""])
def test_shapes_are_told_apart_at_the_smallest_size(size: str) -> None:
    masks = {
        shape: images._coverage(images.Thing(size, "red", shape), 0.5, 0.5, 0.0, 32) > 8
        for shape in images.SHAPES
    }
    for one, other in combinations(images.SHAPES, 2):
        differing = (masks[one] ^ masks[other]).sum() / (masks[one] | masks[other]).sum()
        assert differing > 0.1, (one, other)


def test_colours_are_told_apart_from_each_other_and_from_the_backgrounds() -> None:
    colours = [np.array(colour) for colour in images.COLOURS.values()]
    dark = [np.array(colour) for colour in images.BACKGROUNDS]
    # shades move each channel by up to 10
    assert min(np.abs(a - b).max() for a, b in combinations(colours, 2)) > 40
    assert min(np.abs(a - b).max() for a in colours for b in dark) > 80


def test_captions_from_either_side_mean_the_same_scene() -> None:
    scene = images.Scene(
        (images.Thing("small", "red", "circle"), images.Thing("", "orange", "star")), "above"
    )
    assert scene.description == "small red circle above orange star"
    assert {images.tell(scene, random.Random(seed)) for seed in range(20)} == {
        "a small red circle above an orange star",
        "an orange star below a small red circle",
    }


def test_a_scene_of_one_thing_is_described_by_its_place() -> None:
    scene = images.Scene((images.Thing("", "blue", "ring"),), "at the top left")
    assert images.tell(scene, random.Random(0)) == "a blue ring at the top left"


def test_the_two_things_of_a_scene_differ() -> None:
    rng = random.Random(0)
    pair = [("red", "star"), ("blue", "star")]
    for _ in range(50):
        scene = images.draw_scene(rng, pair, pair)
        assert len({thing.combination for thing in scene.things}) == len(scene.things)


def test_pixels_are_the_same_on_every_machine() -> None:
    scene, _ = draw(5)
    pixels = images.render(scene, 48, random.Random(0))
    assert (pixels.shape, pixels.dtype) == ((48, 48, 3), np.uint8)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "a97cccf5cca472b2"
