"""Measures the time of each part of the model in an update of `joint_sequential_small`, forward and backward.

    OMP_NUM_THREADS=1 python examples/benchmark/small_update.py

Prints for each part the median over some runs in milliseconds, on a batch of the recipe's size with made-up
clips and images of the sizes in the embedded corpus.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from examples.results import print_table
from fairseq_mtssl.data.audio import SAMPLE_RATE_HZ
from fairseq_mtssl.models.joint_ssl_vgs import JointSslVgsConfig, JointSslVgsModel
from fairseq_mtssl.modules.hidden import Hidden
from fairseq_mtssl.modules.log_mel import log_mel
from fairseq_mtssl.report.page import Table

RECIPE = "joint_sequential_small"
SECONDS = (1.6, 2.0)  # of the clips of a batch, which have similar lengths
ROUNDS, WARM_UP = 15, 3


def main() -> None:
    """Build the recipe's model, time its parts, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="of the recipe")
    args = parser.parse_args()
    cfg = recipe(args.overrides)
    model, batch = build(cfg), int(cfg.dataset.batch_size)
    rows = [[name, f"{milliseconds(run):.1f}"] for name, run in parts(model, batch, cfg.task.image_size)]
    print_table(Table([f"part, {batch} pairs, {torch.get_num_threads()} threads", "ms"], rows))


def recipe(overrides: list[str]) -> Any:
    """The composed configuration."""
    from fairseq.dataclass.initialize import hydra_init
    from hydra import compose, initialize_config_module

    hydra_init(RECIPE)
    with initialize_config_module("fairseq.config", version_base="1.1"):
        return compose(RECIPE, ["task.data=made-up", *overrides])


def build(cfg: Any) -> JointSslVgsModel:
    """The recipe's model, in training."""
    fields = JointSslVgsConfig.__dataclass_fields__
    settings = JointSslVgsConfig(**{name: value for name, value in cfg.model.items() if name in fields})
    settings.image_size, settings.seed = int(cfg.task.image_size), 1
    return JointSslVgsModel.build_model(settings).train()


def parts(model: JointSslVgsModel, batch: int, image_size: int) -> list[tuple[str, Callable[[], Any]]]:
    """Name and one run of each part, on the output of the part before it."""
    torch.manual_seed(0)
    encoder, shared = model.speech_encoder, model.cfg.shared_layers
    shortest, longest = (int(seconds * SAMPLE_RATE_HZ) for seconds in SECONDS)
    lengths = torch.randint(shortest, longest, (batch,))
    lengths[0] = longest
    source = torch.randn(batch, longest)
    images = torch.randint(0, 256, (batch, 3, image_size, image_size), dtype=torch.uint8)
    extracted = encoder.forward_features(source, lengths)
    extracted.features = extracted.features.detach().requires_grad_()
    embedded = encoder.embed(extracted)
    hidden = Hidden(embedded.states.detach().requires_grad_(), embedded.padding)
    frames = encoder.frames(hidden).detach().requires_grad_()
    ids = torch.arange(batch)
    mask = model.draw_mask(extracted, ids)

    branch: Any = model.ssl_head

    def backward(result: Tensor) -> None:
        result.square().mean().backward()

    return [
        ("log-mel energies (no gradient)", lambda: log_mel(source, encoder.conv_layers[0][0])),
        (
            "feature extractor with log-mel",
            lambda: backward(encoder.forward_features(source, lengths).features),
        ),
        ("projection, positional convolution", lambda: backward(encoder.embed(extracted).states)),
        (f"{shared} shared layers", lambda: backward(encoder.forward_layers(hidden, 0, shared).states)),
        (
            "layers of SSL alone",
            lambda: backward(encoder.forward_layers(hidden, shared, encoder.num_layers).states),
        ),
        ("SSL head", lambda: backward(branch.contrast(frames, extracted.features, mask).loss)),
        ("speech head", lambda: backward(model.speech_head(frames, extracted.lengths, frames[:, 0]))),
        ("image encoder", lambda: backward(model.encode_image(images))),
    ]


def milliseconds(run: Callable[[], Any]) -> float:
    """The median time of a run."""
    taken = []
    for _ in range(WARM_UP + ROUNDS):
        start = time.perf_counter()
        run()
        taken.append(1000 * (time.perf_counter() - start))
    return statistics.median(taken[WARM_UP:])


if __name__ == "__main__":
    main()
