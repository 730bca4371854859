from __future__ import annotations

import numpy as np
import torch

from fairseq_mtssl.evaluation.probing import FrameMoments, LinearProbes, ProbeRecipe, train_probes

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
