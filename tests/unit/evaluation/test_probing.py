from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from fairseq_mtssl.evaluation.probing import (
    FrameMoments,
    LabelledFrames,
    LinearProbes,
    ProbeRecipe,
    probe_layers,
    train_probes,
)

RECIPE = ProbeRecipe(updates=150, batch_frames=64, lr=0.05)


def make_frames(count: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (N, 3, 5) and labels of 4 phones: layer 0 is noise, layer 1 codes the phone, layer 2 the same at
    another scale and offset."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(4, size=count)
    frames = rng.standard_normal((count, 3, 5)).astype(np.float32)
    frames[:, 1, :4] += 6 * np.eye(4, dtype=np.float32)[labels]
    frames[:, 2] = 1000 + 0.01 * frames[:, 1]
    return frames, labels


def test_only_layers_that_code_the_phone_predict_it_at_any_scale() -> None:
    probes = train_probes(*make_frames(), 4, RECIPE)
    noise, clear, far = (counts.accuracy() for counts in probes.score([make_frames(seed=1)]))
    assert noise < 40 and clear > 97 and far > 97


def test_shuffled_labels_give_chance_accuracy_on_other_frames() -> None:
    rng = np.random.default_rng(5)
    (frames, labels), (others, wanted) = make_frames(2000), make_frames(2000, seed=1)
    probes = train_probes(frames, rng.permutation(labels), 4, RECIPE)
    # with 2000 frames of 4 phones the standard error is one point
    assert all(
        abs(counts.accuracy() - 25) < 5 for counts in probes.score([(others, rng.permutation(wanted))])
    )


def test_a_layer_alone_gets_the_probe_it_gets_among_others() -> None:
    frames, labels = make_frames()
    every = train_probes(frames, labels, 4, RECIPE)
    alone = train_probes(frames[:, 1:2], labels, 4, RECIPE)
    torch.testing.assert_close(every.weight[1:2], alone.weight, atol=1e-4, rtol=1e-3)


def test_the_same_seed_gives_the_same_probe_and_another_another() -> None:
    frames, labels = make_frames()
    one, two = (train_probes(frames, labels, 4, RECIPE) for _ in range(2))
    other = train_probes(frames, labels, 4, ProbeRecipe(150, 64, 0.05, seed=1))
    assert torch.equal(one.weight, two.weight) and not torch.equal(one.weight, other.weight)


def test_moments_of_parts_are_those_of_all_frames() -> None:
    frames, _ = make_frames()
    moments = FrameMoments(3, 5)
    for piece in np.array_split(frames, 4):
        moments.add(piece)
    mean, scale = moments.finish()
    np.testing.assert_allclose(mean, frames.mean(0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scale, 1 / frames.std(0), rtol=1e-3)


def test_a_dimension_that_never_changes_stays_finite() -> None:
    moments = FrameMoments(1, 2)
    moments.add(np.full((5, 1, 2), 3.0, dtype=np.float32))
    mean, scale = moments.finish()
    assert torch.equal(mean, torch.full((1, 2), 3.0)) and torch.isfinite(scale).all()


def test_logits_use_the_weights_of_their_layer() -> None:
    rng = torch.Generator().manual_seed(0)
    probes = LinearProbes(
        *(torch.randn(shape, generator=rng) for shape in ((2, 3), (2, 3), (2, 3, 4), (2, 1, 4)))
    )
    frames = torch.randn(5, 2, 3, generator=rng)
    for layer in range(2):
        wanted = (frames[:, layer] - probes.mean[layer]) * probes.scale[layer] @ probes.weight[
            layer
        ] + probes.bias[layer]
        torch.testing.assert_close(probes.logits(frames)[layer], wanted)


def labelled(seed: int = 0, unlabelled: int = 100) -> tuple[LabelledFrames, np.ndarray, np.ndarray]:
    """Three utterances, the second without phones; all frames and labels of those that have phones."""
    frames, labels = make_frames(400, seed)
    labels[:unlabelled] = -100
    utterances = (
        np.split(frames, [150, 200]),
        np.split(np.r_[labels[:150], [-100] * 50, labels[200:]], [150, 200]),
    )

    def read(rows: Sequence[int]) -> Iterator[np.ndarray]:
        return (utterances[0][row] for row in rows)

    kept = np.r_[unlabelled:150, 200:400]
    return LabelledFrames(utterances[1], read), frames[kept], labels[kept]


def test_frames_without_a_phone_are_left_out() -> None:
    split, frames, labels = labelled()
    assert len(split) == 250 == len(labels)
    pairs = list(split.utterances())
    assert len(pairs) == 2
    np.testing.assert_array_equal(np.concatenate([each for each, _ in pairs]), frames)
    np.testing.assert_array_equal(np.concatenate([each for _, each in pairs]), labels)
    assert split.share_of(2) == 100 * (labels == 2).mean()


def test_a_sample_is_of_distinct_frames_with_their_own_phones() -> None:
    split, frames, labels = labelled()
    for most, count in ((60, 60), (250, 250), (10_000, 250)):
        sampled, phones = split.sample(most, 3, 5, seed=1)
        rows = [int(np.flatnonzero((frames == each).all((1, 2)))[0]) for each in sampled]
        assert len(set(rows)) == len(rows) == count
        np.testing.assert_array_equal(phones, labels[rows])
    assert not np.array_equal(split.sample(60, 3, 5, seed=1)[0], split.sample(60, 3, 5, seed=2)[0])


def test_every_layer_is_scored_on_every_split_but_train_and_the_best_is_named() -> None:
    splits = {name: labelled(seed)[0] for seed, name in enumerate(("train", "valid", "test"))}
    found = probe_layers(splits, ["1", "2", "3"], 5, 4, RECIPE, max_frames=200)
    assert found["train_frames"] == 200 and found["frames"] == {"valid": 250, "test": 250}
    assert found["best"]["layer"] in ("2", "3") and found["scores"]["1"]["valid"]["accuracy"] < 40
    assert found["best"]["test"] == found["scores"][found["best"]["layer"]]["test"]
    usual = np.bincount(splits["train"].sample(200, 3, 5, RECIPE.seed)[1]).argmax()
    assert found["chance"] == {name: splits[name].share_of(usual) for name in ("valid", "test")}
