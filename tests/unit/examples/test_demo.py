"""What the demo says of pre-training."""

from __future__ import annotations

from typing import Any

from examples.demo.run import EQUAL_TOTAL, EQUAL_VGS, SEQUENCE, pretraining_sentence


def scores(speech_to_image: float, image_to_speech: float) -> dict[str, Any]:
    return {
        "captions": 400,
        "speech_to_image": {"r10": speech_to_image},
        "image_to_speech": {"r10": image_to_speech},
    }


def test_a_difference_beyond_sampling_is_told_with_its_sign_and_a_small_one_is_called_none() -> None:
    found = pretraining_sentence(
        {SEQUENCE: scores(90, 92), EQUAL_VGS: scores(80, 82), EQUAL_TOTAL: scores(92, 92)}
    )
    # twice sqrt(0.91 · 0.09 / 400 + 0.92 · 0.08 / 400) is 3.9 points
    assert "91.0 % with it, 10.0 points above VGS alone with as many VGS updates (81.0 %)" in found
    assert "not distinguishable from VGS alone with as many updates in all (92.0 %)" in found
    assert "± 3.9 points" in found


def test_being_behind_is_told_too() -> None:
    found = pretraining_sentence(
        {SEQUENCE: scores(80, 82), EQUAL_VGS: scores(90, 92), EQUAL_TOTAL: scores(95, 95)}
    )
    assert "10.0 points below VGS alone with as many VGS updates" in found
    assert "14.0 points below VGS alone with as many updates in all" in found
