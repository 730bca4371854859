"""timm networks by name, through a stub of timm; the real one where it can be imported."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fairseq_mtssl.errors import CheckpointError, ConfigError, ImageError
from fairseq_mtssl.image_encoders.base import encoder_named

IMAGES = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)


def build(name: str, size_px: int = 8, weights: Path | None = None) -> Any:
    """The encoder of a name, with 10 dimensions."""
    encoder = encoder_named(name)
    path = None if weights is None else str(weights)
    fields = {"encoder_embed_dim": 10, "image_size": size_px, "image_weights": path}
    return encoder(encoder.Options(image_encoder=name, **fields))


class FakeVit(nn.Module):
    """Stands for a timm network: pooled features of fixed-size images, an optional classifier."""

    default_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "classifier": "head"}
    num_features = 6

    def __init__(self, num_classes: int, img_size: int) -> None:
        super().__init__()
        self.body = nn.Linear(3 * img_size * img_size, 6)
        self.head = nn.Linear(6, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images.flatten(1)))


class FakeResnet(nn.Module):
    """Takes images of any size, and no img_size."""

    default_cfg = {"classifier": ("fc",)}
    num_features = 4
    head_hidden_size = 5

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.body = nn.Linear(3, 5)
        self.fc = nn.Linear(5, num_classes) if num_classes else nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.body(images.mean((2, 3))))


def create_model(name: str, pretrained: bool, num_classes: int = 7, **options: Any) -> nn.Module:
    assert not pretrained  # nothing may be downloaded
    if name == "vit":
        return FakeVit(num_classes, options.get("img_size", 224))
    return FakeResnet(num_classes, **options)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["vit", "resnet"]
    stub = SimpleNamespace(
        is_model=lambda name: name in names, list_models=lambda: names, create_model=create_model
    )
    monkeypatch.setitem(sys.modules, "timm", stub)


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_network_embeds_without_its_classifier(name: str) -> None:
    encoder = build(f"timm:{name}")
    assert encoder(IMAGES).shape == (2, 10)
    assert not any("head" in key or "fc" in key for key in encoder.state_dict())
    with pytest.raises(ImageError, match="uint8 RGB"):
        encoder(IMAGES.float())


@pytest.mark.usefixtures("timm")
def test_pixels_are_normalised_as_the_network_was_trained() -> None:
    encoder = build("timm:vit")
    black = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    assert torch.equal(encoder.pixels(black), torch.full((1, 3, 8, 8), -1.0))


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize("wrapped", [None, "model", "state_dict"])
@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_local_weights_are_loaded_and_their_classifier_left(
    tmp_path: Path, name: str, wrapped: str | None
) -> None:
    full: Any = create_model(name, False, **({"img_size": 8} if name == "vit" else {}))
    path = tmp_path / "weights.pth"
    torch.save({wrapped: full.state_dict()} if wrapped else full.state_dict(), path)
    encoder = build(f"timm:{name}", weights=path)
    assert torch.equal(encoder.network.body.weight, full.body.weight)


@pytest.mark.usefixtures("timm")
def test_weights_of_another_network_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"body.weight": torch.zeros(6, 5), "tail.bias": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError) as caught:
        build("timm:vit", weights=path)
    message = str(caught.value)
    for part in (
        "missing body.bias",
        "unexpected tail.bias",
        "body.weight is (6, 5), wanted (6, 192)",
        str(path),
    ):
        assert part in message


@pytest.mark.usefixtures("timm")
@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("absent.pt", None, "Nothing is downloaded"),
        ("broken.pt", b"no zip file", "cannot be read as weights"),
        ("broken.safetensors", b"", "cannot be read as weights|safetensors is not installed"),
    ],
)
def test_weights_that_cannot_be_read_are_refused(
    tmp_path: Path, name: str, content: bytes | None, error: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=error):
        build("timm:vit", weights=tmp_path / name)


@pytest.mark.usefixtures("timm")
def test_a_file_that_is_no_state_dict_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds no state dict"):
        build("timm:vit", weights=tmp_path / "list.pt")


@pytest.mark.usefixtures("timm")
def test_weights_in_safetensors_are_loaded(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    full: Any = create_model("resnet", False)
    safetensors.save_file(full.state_dict(), str(tmp_path / "weights.safetensors"))
    encoder = build("timm:resnet", weights=tmp_path / "weights.safetensors")
    assert torch.equal(encoder.network.body.weight, full.body.weight)


@pytest.mark.usefixtures("timm")
def test_an_unknown_name_is_refused_with_near_ones() -> None:
    with pytest.raises(ConfigError, match="timm knows no `resnte`; near: resnet"):
        build("timm:resnte")


def test_missing_timm_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # what import sees for a module that is not there
    with pytest.raises(ConfigError, match="pip install timm"):
        build("timm:vit_tiny_patch16_224")


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("timm", "torchvision")),
    reason="timm needs torchvision, which has no wheel for this torch here",
)
def test_real_timm_networks_embed_and_load_their_own_weights(tmp_path: Path) -> None:
    import timm

    full = timm.create_model("vit_tiny_patch16_224", pretrained=False, img_size=32)
    torch.save(full.state_dict(), tmp_path / "weights.pt")
    encoder = build("timm:vit_tiny_patch16_224", 32, tmp_path / "weights.pt")
    assert encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape == (2, 10)
    assert torch.equal(encoder.network.pos_embed, full.pos_embed)
