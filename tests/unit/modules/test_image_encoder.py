"""Image encoders by regions and by pixels: sizes, layout, independence, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError, ImageError
from fairseq_mtssl.modules.attention import count_parameters
from fairseq_mtssl.modules.image_encoder import build_image_encoder, takes_regions
from fairseq_mtssl.modules.raw_image_encoder import CnnImageEncoder, PatchImageEncoder, PixelNorm
from fairseq_mtssl.modules.region_encoder import RegionEncoder

SMALL: dict[str, Any] = {"dim": 32, "layers": 2, "heads": 4, "ffn_dim": 64, "dropout": 0.0}
# float32 sums in another order, values of order 1
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def pixels(count: int = 2, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def regions(count: int = 2, places: int = 5) -> dict[str, Tensor]:
    return {"regions": torch.randn(count, places, 12), "boxes": torch.rand(count, places, 4)}


def region_encoder() -> RegionEncoder:
    return RegionEncoder(12, **SMALL)


def test_region_encoder_has_the_parameter_counts_of_the_paper() -> None:
    encoder = RegionEncoder()
    embedding = [encoder.feature_projection, encoder.feature_norm, encoder.box_projection, encoder.box_norm]
    assert count_parameters(embedding) == 1_580_544
    assert encoder.encoder.cls.numel() == 768
    assert count_parameters(encoder.encoder.layers) == 42_527_232
    assert count_parameters(encoder.projection) == 2_361_600
    assert count_parameters(encoder) == 1_580_544 + 768 + 42_527_232 + 2_361_600


def test_order_of_the_regions_does_not_matter_but_their_boxes_do() -> None:
    torch.manual_seed(0)
    encoder, images = region_encoder(), regions()
    order = torch.tensor([3, 1, 4, 0, 2])
    shuffled = {key: value[:, order] for key, value in images.items()}
    moved = {"regions": images["regions"], "boxes": images["boxes"][:, order]}
    rounding = (encoder(shuffled) - encoder(images)).abs().max().item()
    assert rounding < 1e-5
    assert (encoder(moved) - encoder(images)).abs().max().item() > 100 * rounding


def test_region_embedding_is_the_mean_of_two_normed_projections() -> None:
    encoder, images = region_encoder(), regions()
    seen: list[Tensor] = []
    encoder.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    encoder(images)
    features = images["regions"] @ encoder.feature_projection.weight.T
    places = images["boxes"] @ encoder.box_projection.weight.T
    normed = [
        (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0) for x in (features, places)
    ]
    assert torch.allclose(seen[0], (normed[0] + normed[1]) / 2, **CLOSE)


@pytest.mark.parametrize(
    "images",
    [
        pixels(),
        {"regions": torch.zeros(2, 5, 12)},
        {"regions": torch.zeros(2, 5, 11), "boxes": torch.zeros(2, 5, 4)},
        {"regions": torch.zeros(2, 5, 12), "boxes": torch.zeros(2, 4, 4)},
    ],
    ids=["pixels", "no boxes", "other features", "boxes of another count"],
)
def test_what_is_no_region_batch_is_refused_with_the_shapes_wanted(images: object) -> None:
    with pytest.raises(ImageError, match=r"regions \(M, R, 12\) and boxes \(M, R, 4\)"):
        region_encoder()(images)


def test_pixels_are_normalised_by_channel() -> None:
    norm = PixelNorm((0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    image = torch.tensor([255, 0, 51], dtype=torch.uint8).view(1, 3, 1, 1)
    assert torch.allclose(norm(image).flatten(), torch.tensor([1.0, -1.0, 0.2]), atol=1e-6)
    assert not norm.state_dict()
    assert norm.to(torch.bfloat16)(image).dtype == torch.bfloat16


@pytest.mark.parametrize("images", [torch.rand(2, 3, 32, 32), pixels()[:, :1], pixels()[0], regions()])
def test_what_is_no_rgb_batch_is_refused(images: object) -> None:
    with pytest.raises(ImageError, match="uint8 RGB"):
        CnnImageEncoder(**SMALL)(images)


def test_default_cnn_stays_small() -> None:
    assert 200_000 < count_parameters(CnnImageEncoder()) < 700_000


@pytest.mark.parametrize("kind", ["cnn", "patches"])
def test_an_image_does_not_depend_on_the_others_of_its_batch(kind: str) -> None:
    encoder = build_image_encoder(kind, image_size_px=32, patch_size_px=8, **SMALL)
    images = pixels(5)
    assert torch.allclose(encoder(images)[3:4], encoder(images[3:4]), **CLOSE)


@pytest.mark.parametrize("kind", ["cnn", "patches"])
def test_which_object_is_left_of_which_can_be_learned(kind: str) -> None:
    """Two coloured squares side by side at random places: only the layout tells the classes apart."""
    torch.manual_seed(0)
    encoder = build_image_encoder(
        kind,
        image_size_px=32,
        patch_size_px=8,
        channels=(8, 16, 16),
        grid=2,
        **SMALL,
    )
    judge = nn.Sequential(encoder, nn.Linear(32, 2))
    optimizer = torch.optim.Adam(judge.parameters(), 1e-3)
    for _ in range(150):
        images, red_left = side_by_side(32)
        loss = F.cross_entropy(judge(images), red_left)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    images, red_left = side_by_side(200)
    with torch.no_grad():
        correct = (judge(images).argmax(1) == red_left).float().mean().item()
    assert correct > 0.9  # guessing gives 0.5 ± 0.04


def side_by_side(count: int) -> tuple[Tensor, Tensor]:
    """Grey images (N, 3, 32, 32) with a red and a blue square, and (N,): 1 where red is left."""
    images = torch.full((count, 3, 32, 32), 128, dtype=torch.uint8)
    red_left = torch.randint(0, 2, (count,))
    line = torch.arange(32)
    for first_column, red_here in ((0, red_left), (16, 1 - red_left)):
        top, left = torch.randint(0, 24, (count, 1)), first_column + torch.randint(0, 8, (count, 1))
        rows, columns = (line >= top) & (line < top + 8), (line >= left) & (line < left + 8)
        colour = 255 * F.one_hot(2 - 2 * red_here, 3).to(torch.uint8)
        images = torch.where((rows[:, :, None] & columns[:, None])[:, None], colour[:, :, None, None], images)
    return images, red_left


def test_cnn_takes_images_of_other_sizes() -> None:
    encoder = CnnImageEncoder(**SMALL)
    for size in (8, 50, 64, 100):
        assert encoder(pixels(size=size)).shape == (2, 32)


def test_patches_are_cut_like_a_strided_convolution_cuts_them() -> None:
    encoder = PatchImageEncoder(32, 8, **SMALL)
    seen: list[Tensor] = []
    encoder.tokens.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    images = pixels()
    encoder(images)
    kernel = encoder.patches.weight.view(32, 3, 8, 8)
    wanted = (
        F.conv2d(encoder.pixels(images), kernel, encoder.patches.bias, stride=8).flatten(2).transpose(1, 2)
    )
    assert torch.allclose(seen[0], wanted, **CLOSE)


def test_patches_refuse_images_of_another_size() -> None:
    with pytest.raises(ImageError, match="got images of 40×40 px.*32×32"):
        PatchImageEncoder(32, 8, **SMALL)(pixels(size=40))


@pytest.mark.parametrize("kind", ["regions", "cnn", "patches"])
def test_every_kind_embeds_in_the_size_asked_for_and_learns_everywhere(kind: str) -> None:
    encoder = build_image_encoder(
        kind,
        feature_dim=12,
        image_size_px=32,
        patch_size_px=8,
        embed_dim=20,
        **SMALL,
    )
    out = encoder(regions() if takes_regions(kind) else pixels())
    assert out.shape == (2, 20)
    out.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all("scale" not in key and "shift" not in key for key in encoder.state_dict())


@pytest.mark.parametrize("kind", ["regions", "cnn", "patches"])
def test_every_kind_runs_in_half_precision(kind: str) -> None:
    encoder = build_image_encoder(
        kind,
        feature_dim=12,
        image_size_px=32,
        patch_size_px=8,
        **SMALL,
    ).to(torch.bfloat16)
    out = encoder(regions() if takes_regions(kind) else pixels())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "sizes", "error"),
    [
        ("resnet", {}, "unknown kind `resnet`; choose one of regions, cnn, patches, timm:<name>"),
        ("timm:", {}, "unknown kind"),
        ("cnn", {"weights": "w.pt"}, "only timm:<name> does"),
        ("patches", {"image_size_px": 30, "patch_size_px": 8}, "do not tile images of 30 px"),
        ("cnn", {"heads": 5, "dim": 32}, "5 heads do not divide 32"),
        ("cnn", {"channels": ()}, "at least one stage"),
    ],
)
def test_impossible_encoders_are_refused_with_the_cure(kind: str, sizes: dict, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        build_image_encoder(kind, **sizes)
