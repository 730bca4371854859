"""Image encoders by regions and by pixels: sizes, layout, independence, refusals."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_grounding import count_parameters
from torch import Tensor, nn

from fairseq_mtssl.errors import ConfigError, ImageError
from fairseq_mtssl.image_encoders.base import ImageEncoder, encoder_named, takes_regions
from fairseq_mtssl.image_encoders.cnn import CnnImageEncoder, CnnOptions
from fairseq_mtssl.image_encoders.patches import PatchImageEncoder, PatchOptions
from fairseq_mtssl.image_encoders.pixels import PixelNorm
from fairseq_mtssl.image_encoders.regions import RegionEncoder, RegionOptions
from fairseq_mtssl.models.vgs_retrieval import VgsRetrievalConfig, VgsRetrievalModel

SMALL: dict[str, Any] = {
    "encoder_embed_dim": 32,
    "image_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_embed_dim": 64,
    "dropout": 0.0,
}
SIZES: dict[str, Any] = {
    "regions": {"image_feature_dim": 12},
    "cnn": {},
    "patches": {"image_size": 32, "image_patch_size": 8},
}
# float32 sums in another order, values of order 1
CLOSE: dict[str, Any] = {"rtol": 1e-4, "atol": 1e-5}


def pixels(count: int = 2, size: int = 32) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)


def regions(count: int = 2, places: int = 5) -> dict[str, Tensor]:
    return {"regions": torch.randn(count, places, 12), "boxes": torch.rand(count, places, 4)}


def region_encoder() -> RegionEncoder:
    return RegionEncoder(RegionOptions(**SMALL, image_feature_dim=12))


def build(kind: str, **changes: Any) -> ImageEncoder:
    """A small encoder of its name."""
    encoder = encoder_named(kind)
    return encoder(encoder.Options(**{**SMALL, **SIZES[kind], **changes}))


def test_region_encoder_has_the_parameter_counts_of_the_paper() -> None:
    encoder = RegionEncoder(RegionOptions())
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
        build("cnn")(images)


def test_default_cnn_stays_small() -> None:
    sizes = {"image_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_embed_dim": 256}
    encoder = CnnImageEncoder(CnnOptions(encoder_embed_dim=128, **sizes))
    assert 200_000 < count_parameters(encoder) < 700_000


@pytest.mark.parametrize("kind", ["cnn", "patches"])
def test_an_image_does_not_depend_on_the_others_of_its_batch(kind: str) -> None:
    encoder = build(kind)
    images = pixels(5)
    assert torch.allclose(encoder(images)[3:4], encoder(images[3:4]), **CLOSE)


@pytest.mark.parametrize("kind", ["cnn", "patches"])
def test_which_object_is_left_of_which_can_be_learned(kind: str) -> None:
    """Two coloured squares side by side at random places: only the layout tells the classes apart."""
    torch.manual_seed(0)
    encoder = build(kind, **({"image_channels": [8, 16, 16], "image_grid": 2} if kind == "cnn" else {}))
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
    encoder = build("cnn")
    for size in (8, 50, 64, 100):
        assert encoder(pixels(size=size)).shape == (2, 32)


def test_patches_are_cut_like_a_strided_convolution_cuts_them() -> None:
    encoder = PatchImageEncoder(PatchOptions(**SMALL, **SIZES["patches"]))
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
        PatchImageEncoder(PatchOptions(**SMALL, **SIZES["patches"]))(pixels(size=40))


@pytest.mark.parametrize("kind", ["regions", "cnn", "patches"])
def test_every_kind_embeds_in_the_size_asked_for_and_learns_everywhere(kind: str) -> None:
    encoder = build(kind, encoder_embed_dim=20)
    out = encoder(regions() if takes_regions(kind) else pixels())
    assert out.shape == (2, 20)
    out.square().sum().backward()
    assert all(p.grad is not None for p in encoder.parameters())
    assert all("scale" not in key and "shift" not in key for key in encoder.state_dict())


@pytest.mark.parametrize("kind", ["regions", "cnn", "patches"])
def test_every_kind_runs_in_half_precision(kind: str) -> None:
    encoder = build(kind).to(torch.bfloat16)
    out = encoder(regions() if takes_regions(kind) else pixels())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()


@pytest.mark.parametrize(
    ("kind", "fields", "error"),
    [
        (
            "resnet",
            {},
            "model.image_encoder: got 'resnet', wanted one of cnn, patches, regions, timm:<name>",
        ),
        ("timm:", {}, "got 'timm:', wanted one of"),
        ("cnn:large", {}, "got 'cnn:large', wanted one of"),
        ("cnn", {"image_weights": "w.pt"}, "image_weights w.pt: image_encoder=cnn takes no weights file"),
        ("patches", {"image_size": 30, "image_patch_size": 8}, "do not tile images of 30 px"),
        ("cnn", {"image_channels": []}, "at least one block"),
        (
            "cnn",
            {"image_encoder_options": {"depth": 2}},
            "model.image_encoder_options: depth: no such option",
        ),
    ],
)
def test_impossible_encoders_are_refused_with_the_cure(kind: str, fields: dict, error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        VgsRetrievalModel.build_model(
            VgsRetrievalConfig(**{"image_encoder": kind, "image_size": 32, **fields})
        )


def test_heads_that_do_not_divide_the_dimensions_are_refused() -> None:
    with pytest.raises(ConfigError, match="5 heads do not divide 32"):
        build("cnn", encoder_attention_heads=5)


def test_all_that_is_wrong_is_said_at_once() -> None:
    wrong = {"image_encoder": "cnn", "image_size": 32, "image_grid": 0, "image_weights": "w.pt"}
    with pytest.raises(ConfigError) as caught:
        VgsRetrievalModel.build_model(VgsRetrievalConfig(**wrong, similarity="none"))
    assert len(caught.value.errors) == 3


def test_options_go_before_the_fields_of_the_model() -> None:
    fields = {**SMALL, "shared_layers": 1, "speech_channels": [32], "speech_strides": [2]}
    config = VgsRetrievalConfig(
        **fields, image_encoder="cnn", image_size=32, image_grid=3, image_encoder_options={"image_layers": 1}
    )
    encoder: Any = VgsRetrievalModel.build_model(config).image_encoder
    assert encoder.options == CnnOptions(**{**SMALL, "image_layers": 1}, image_size=32, image_grid=3)
