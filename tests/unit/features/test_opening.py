"""Features by the names that commands give them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fairseq_mtssl.cli import options
from fairseq_mtssl.errors import ConfigError, TargetError
from fairseq_mtssl.features.base import batch_samples
from fairseq_mtssl.features.opening import open_features
from fairseq_mtssl.features.stored import write_description
from fairseq_mtssl.labels import kmeans
from fairseq_mtssl.modules import precision


def test_mfccs_have_no_precision_to_choose() -> None:
    assert options.PRECISIONS == precision.PRECISIONS
    with pytest.raises(ConfigError, match="--precision.*mfcc-cmn is always in float32"):
        open_features("mfcc-cmn", torch.device("cpu"), "bfloat16")
    assert open_features("mfcc", torch.device("cpu"), "auto").source == {"features": "mfcc"}


@pytest.mark.parametrize("name", ["mfcc", "mfcc-cmn", "log-mel"])
def test_only_a_checkpoint_has_weights_to_leave_out(name) -> None:
    assert open_features(name, torch.device("cpu")).source == {"features": name}
    with pytest.raises(ConfigError, match=f"--random-weights.*{name} has no weights"):
        open_features(name, torch.device("cpu"), random_seed=1)


def test_batches_are_for_gpus_unless_asked_for() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert batch_samples(None, cpu) is None
    assert batch_samples(None, cuda) == 400 * 16_000
    assert batch_samples(2.0, cpu) == 32_000
    assert batch_samples(0.0, cuda) is None


def test_stored_features_of_another_kind_are_not_mixed(tmp_path: Path) -> None:
    write_description(tmp_path, {"features": "mfcc"})
    write_description(tmp_path, {"features": "mfcc"})
    with pytest.raises(TargetError, match="now asked for"):
        write_description(tmp_path, {"features": "layer"})


def test_the_backends_offered_are_those_there_are() -> None:
    assert options.BACKENDS == kmeans.BACKENDS
