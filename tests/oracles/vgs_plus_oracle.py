"""VGS+ of Khorrami et al. 2023 (arXiv 2306.02972) with raw dot products, read as formulas.

One function a formula, many of them for one clip or one frame, in plain torch functions; slow. No module of
the package, of fairseq or of torch is used. Weights come by the names that they have in the package's model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Noise = Callable[[Tensor], Tensor]


@dataclass
class Sizes:
    """convolutions: (channels, kernel, stride) of the feature extractor; shared, layers: speech layers below
    the VGS branch and in all; heads: of every attention; image_layers: BERT layers over regions;
    position_groups: groups of channels of the positional convolution; temperature: divides the cosines of
    L_AUD; margin: of L_AV."""

    convolutions: Sequence[tuple[int, int, int]]
    shared: int
    layers: int
    heads: int
    image_layers: int
    position_groups: int
    temperature: float = 0.1
    margin: float = 1.0


@dataclass
class Batch:
    """source: (B, S); frames: valid frames of each clip; regions: (U, R, F); boxes: (U, R, 4); image_of: the
    image of each clip. masked: masked frames of each clip; negatives: (M, N) indices into the M masked frames
    of all clips; gumbel: logits to what the Gumbel softmax makes of them."""

    source: Tensor
    frames: Sequence[int]
    regions: Tensor
    boxes: Tensor
    image_of: Sequence[int]
    masked: Sequence[Sequence[int]]
    negatives: Sequence[Sequence[int]]
    gumbel: Noise


def losses(w: Weights, sizes: Sizes, batch: Batch) -> dict[str, Tensor]:
    """L_AV as "loss_vgs", L_AUD as "loss_ssl", and the weighted parts of the latter."""
    convolved = convolutions(w, sizes, batch.source)
    features = layer_norm(convolved, w, "speech_encoder.layer_norm")
    below = speech_input(w, sizes, features, batch.masked)
    for layer in range(sizes.shared):
        below = fairseq_layer(below, w, f"speech_encoder.encoder.layers.{layer}", sizes.heads, batch.frames)
    above = below
    for layer in range(sizes.shared, sizes.layers):
        above = fairseq_layer(above, w, f"speech_encoder.encoder.layers.{layer}", sizes.heads, batch.frames)
    speech = speech_embeddings(w, sizes, below, batch.frames)
    images = [image_embedding(w, sizes, *pair) for pair in zip(batch.regions, batch.boxes, strict=True)]
    contrastive, perplexity, codes = contrastive_loss(w, sizes, features, above[:, 1:], batch)
    found = {
        "contrastive": contrastive,
        "diversity": 0.1 * (codes - perplexity) / codes,
        "penalty": (convolved**2).mean(),
        "loss_vgs": margin_softmax(
            [images[image] for image in batch.image_of], speech, batch.image_of, sizes.margin
        ),
    }
    found["loss_ssl"] = found["contrastive"] + found["diversity"] + found["penalty"]
    return found


# -- speech


def convolutions(w: Weights, sizes: Sizes, source: Tensor) -> Tensor:
    """(B, S) -> (B, T, C): weighted sums over windows, then GELU; the channels of the first convolution are
    standardised over time before it."""
    x = source[:, :, None]  # (B, samples, channels)
    for index, (_, kernel, stride) in enumerate(sizes.convolutions):
        prefix = f"speech_encoder.feature_extractor.conv_layers.{index}"
        windows = x.unfold(1, kernel, stride)  # (B, T, channels, kernel)
        x = torch.einsum("btck,ock->bto", windows, w[f"{prefix}.0.weight"])
        if index == 0:
            mean = x.mean(1, keepdim=True)
            variance = ((x - mean) ** 2).mean(1, keepdim=True)
            x = (x - mean) / (variance + 1e-5).sqrt() * w[f"{prefix}.2.weight"] + w[f"{prefix}.2.bias"]
        x = gelu(x)
    return x


def speech_input(w: Weights, sizes: Sizes, features: Tensor, masked: Sequence[Sequence[int]]) -> Tensor:
    """(B, T, C) -> (B, 1 + T, D): projected, masked, the CLS token in front, positions added, normalised."""
    frames = linear(features, w, "speech_encoder.post_extract_proj")
    rows = []
    for row, hidden in zip(frames, masked, strict=True):
        tokens = [w["speech_encoder.mask_emb"] if t in hidden else row[t] for t in range(len(row))]
        rows.append(torch.stack([w["speech_encoder.cls_token"].flatten(), *tokens]))
    x = torch.stack(rows)
    x = x + positions(w, x, sizes.position_groups)
    return layer_norm(x, w, "speech_encoder.encoder.layer_norm")


def positions(w: Weights, x: Tensor, groups: int) -> Tensor:
    """(B, N, D) -> (B, N, D): a convolution in groups of channels, padding or not, and GELU.

    Its weight has one length for each place of the kernel. An even kernel reaches further back than ahead.
    """
    prefix = "speech_encoder.encoder.pos_conv.0"
    direction = w[f"{prefix}.weight_v"]
    weight = w[f"{prefix}.weight_g"] * direction / (direction**2).sum((0, 1), keepdim=True).sqrt()
    kernel, width = weight.size(2), x.size(2) // groups
    # zeros before and after, so that N windows of the kernel remain
    zeros = [x.new_zeros(len(x), size, x.size(2)) for size in (kernel // 2, kernel - 1 - kernel // 2)]
    windows = torch.cat([zeros[0], x, zeros[1]], 1).unfold(1, kernel, 1)  # (B, N, D, kernel)
    parts = []
    for group in range(groups):
        channels = slice(group * width, (group + 1) * width)
        parts.append(torch.einsum("bnck,ock->bno", windows[:, :, channels], weight[channels]))
    return gelu(torch.cat(parts, 2) + w[f"{prefix}.bias"])


def fairseq_layer(x: Tensor, w: Weights, prefix: str, heads: int, frames: Sequence[int]) -> Tensor:
    """(B, N, D) -> (B, N, D): post-norm transformer layer; a clip of n frames attends to 1 + n tokens."""
    rows = []
    for row, valid in zip(x, frames, strict=True):
        q, k, v = (linear(row, w, f"{prefix}.self_attn.{name}_proj") for name in "qkv")
        attended = linear(
            attention(q, k[: 1 + valid], v[: 1 + valid], heads), w, f"{prefix}.self_attn.out_proj"
        )
        row = layer_norm(row + attended, w, f"{prefix}.self_attn_layer_norm")
        fed = linear(gelu(linear(row, w, f"{prefix}.fc1")), w, f"{prefix}.fc2")
        rows.append(layer_norm(row + fed, w, f"{prefix}.final_layer_norm"))
    return torch.stack(rows)


# -- L_AUD


def contrastive_loss(
    w: Weights, sizes: Sizes, features: Tensor, context: Tensor, batch: Batch
) -> tuple[Tensor, Tensor, int]:
    """-log of the share of each masked frame's own code, a mean over the frames; the perplexity of the mean
    use of the code book; the number of its entries.

    features: (B, T, C), unmasked; context: (B, T, D), of the masked input.
    """
    places = [(row, t) for row, hidden in enumerate(batch.masked) for t in sorted(hidden)]
    entries = w["ssl_head.quantizer.vars"][0]  # (groups · V, d)
    logits = linear(torch.stack([features[place] for place in places]), w, "ssl_head.quantizer.weight_proj")
    groups = w["ssl_head.project_q.weight"].size(1) // entries.size(1)
    logits = logits.reshape(len(places), groups, -1)
    chosen = batch.gumbel(logits)
    perplexity = torch.zeros((), dtype=logits.dtype)
    vectors = []
    for group, book in enumerate(entries.chunk(groups)):
        use = softmax(logits[:, group]).mean(0)
        perplexity = perplexity + (-(use * (use + 1e-7).log()).sum()).exp()
        vectors.append(chosen[:, group] @ book)
    targets = linear(torch.cat(vectors, 1), w, "ssl_head.project_q")
    predicted = [linear(context[place], w, "ssl_head.final_proj") for place in places]
    total = torch.zeros((), dtype=logits.dtype)
    for frame, prediction in enumerate(predicted):
        other = [n for n in batch.negatives[frame] if not torch.equal(targets[n], targets[frame])]
        scores = torch.stack([cosine(prediction, targets[n]) for n in [frame, *other]]) / sizes.temperature
        total = total - scores[0] + torch.logsumexp(scores, 0)
    return total / len(places), perplexity, len(entries)


# -- L_AV


def speech_embeddings(w: Weights, sizes: Sizes, shared: Tensor, frames: Sequence[int]) -> list[Tensor]:
    """(B, 1 + T, D) -> B vectors (D,): ResDAVEnet over all frames, the projected CLS, one BERT layer."""
    tokens = resdavenet(w, shared[:, 1:])
    found = []
    for row, state, valid in zip(tokens, shared, frames, strict=True):
        first = two_linear(state[0], w, "speech_head.cls_projection")
        x = torch.cat([first[None], row[: valid // (len(state[1:]) // len(row))]])
        x = bert_layer(x, w, "speech_head.layer", sizes.heads)
        found.append(linear(x[0], w, "speech_head.projection"))
    return found


def resdavenet(w: Weights, x: Tensor) -> Tensor:
    """(B, T, D) -> (B, T / 16, C): a linear layer, then four stages of two residual blocks each."""
    prefix = "speech_head.resdavenet"
    x = batch_norm(linear(x, w, f"{prefix}.input"), w, f"{prefix}.input_norm").clamp(min=0)
    for stage in range(4):
        for block in range(2):
            x = residual_block(x, w, f"{prefix}.stages.{stage}.{block}", stride=2 if block == 0 else 1)
    return x


def residual_block(x: Tensor, w: Weights, prefix: str, stride: int) -> Tensor:
    """(B, T, C) -> (B, T / stride, C'); where the shape changes the input that is added is convolved, too."""
    hidden = batch_norm(same_convolution(x, w[f"{prefix}.conv1.weight"], stride), w, f"{prefix}.norm1").clamp(
        min=0
    )
    hidden = batch_norm(same_convolution(hidden, w[f"{prefix}.conv2.weight"], 1), w, f"{prefix}.norm2")
    if f"{prefix}.shortcut_conv.weight" in w:
        x = batch_norm(
            same_convolution(x, w[f"{prefix}.shortcut_conv.weight"], stride), w, f"{prefix}.shortcut_norm"
        )
    return (hidden + x).clamp(min=0)


def same_convolution(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(B, T, C) -> (B, ceil(T / stride), C') with an odd kernel, zeros beyond both ends."""
    reach = weight.size(2) // 2
    zeros = x.new_zeros(len(x), reach, x.size(2))
    windows = torch.cat([zeros, x, zeros], 1).unfold(1, weight.size(2), stride)
    return torch.einsum("btck,ock->bto", windows, weight)


def image_embedding(w: Weights, sizes: Sizes, regions: Tensor, boxes: Tensor) -> Tensor:
    """(R, F), (R, 4) -> (D,): regions and boxes normalised, their mean, a CLS token in front, BERT layers."""
    seen = layer_norm(
        linear(regions, w, "image_encoder.feature_projection"), w, "image_encoder.feature_norm", 1e-12
    )
    placed = layer_norm(linear(boxes, w, "image_encoder.box_projection"), w, "image_encoder.box_norm", 1e-12)
    x = torch.cat([w["image_encoder.encoder.cls"][None], (seen + placed) / 2])
    for layer in range(sizes.image_layers):
        x = bert_layer(x, w, f"image_encoder.encoder.layers.{layer}", sizes.heads)
    return two_linear(x[0], w, "image_encoder.projection")


def bert_layer(x: Tensor, w: Weights, prefix: str, heads: int) -> Tensor:
    """(N, D) -> (N, D): post-norm transformer layer in which every token attends to all."""
    together = x @ w[f"{prefix}.self_attn.in_proj_weight"].T + w[f"{prefix}.self_attn.in_proj_bias"]
    attended = linear(attention(*together.chunk(3, 1), heads), w, f"{prefix}.self_attn.out_proj")
    x = layer_norm(x + attended, w, f"{prefix}.norm1", 1e-12)
    fed = linear(gelu(linear(x, w, f"{prefix}.linear1")), w, f"{prefix}.linear2")
    return layer_norm(x + fed, w, f"{prefix}.norm2", 1e-12)


def margin_softmax(
    images: Sequence[Tensor], speech: Sequence[Tensor], image_of: Sequence[int], margin: float
) -> Tensor:
    """-log of the share of a pair, less a margin, among itself and the pairs with other images; for the image
    among captions plus for the caption among images, a mean over pairs."""
    count = len(speech)
    total = torch.zeros((), dtype=speech[0].dtype)
    for pair in range(count):
        others = [n for n in range(count) if image_of[n] != image_of[pair]]
        own = images[pair] @ speech[pair] - margin
        captions = torch.stack([own, *(images[pair] @ speech[n] for n in others)])
        pictures = torch.stack([own, *(images[n] @ speech[pair] for n in others)])
        total = total + torch.logsumexp(captions, 0) - own + torch.logsumexp(pictures, 0) - own
    return total / count


# -- what everything is made of


def linear(x: Tensor, w: Weights, prefix: str) -> Tensor:
    return x @ w[f"{prefix}.weight"].T + w[f"{prefix}.bias"]


def two_linear(x: Tensor, w: Weights, prefix: str) -> Tensor:
    return linear(gelu(linear(x, w, f"{prefix}.0")), w, f"{prefix}.2")


def gelu(x: Tensor) -> Tensor:
    """x times the standard normal distribution function of x."""
    return x * (1.0 + torch.erf(x / math.sqrt(2.0))) / 2.0


def layer_norm(x: Tensor, w: Weights, prefix: str, eps: float = 1e-5) -> Tensor:
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * w[f"{prefix}.weight"] + w[f"{prefix}.bias"]


def batch_norm(x: Tensor, w: Weights, prefix: str) -> Tensor:
    """(B, T, C): each channel standardised over all frames of the batch, padding among them."""
    mean = x.mean((0, 1))
    variance = ((x - mean) ** 2).mean((0, 1))
    return (x - mean) / (variance + 1e-5).sqrt() * w[f"{prefix}.weight"] + w[f"{prefix}.bias"]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """(N, D), (M, D), (M, D) -> (N, D): each head has its share of the dimensions."""
    parts = []
    for query, key, value in zip(q.chunk(heads, 1), k.chunk(heads, 1), v.chunk(heads, 1), strict=True):
        parts.append(softmax(query @ key.T / math.sqrt(key.size(1))) @ value)
    return torch.cat(parts, 1)


def softmax(x: Tensor) -> Tensor:
    shares = (x - x.detach().amax(-1, keepdim=True)).exp()
    return shares / shares.sum(-1, keepdim=True)


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / ((a * a).sum().sqrt() * (b * b).sum().sqrt())
