"""Vision encoders: their weights, and the tokens that an image becomes.

Shapes are those of the checkpoints, held against transformers by oracles/parameters.py.
"""

from __future__ import annotations

from collections.abc import Callable

from lemnos.models.config import Config
from lemnos.spec.architecture import Encoder, Weight

MAX_IMAGE_PIXELS = 16_777_216
"""Pixels of the largest image the processors of GLM-V and Qwen-VL let through (4096 x 4096)."""


def qwen3_vl(vision: Config, text: Config) -> Encoder:
    """Qwen3-VL's: biased ViT blocks, one merger and three more for deepstack."""
    hidden, out = vision.number("hidden_size"), vision.number("out_hidden_size")
    merge, patch = vision.number("spatial_merge_size", 2), vision.number("patch_size")
    wide, inner = hidden * merge * merge, vision.number("intermediate_size")
    mergers = 1 + len(vision.items("deepstack_visual_indexes"))
    deep = wide * (mergers - 1)  # the later mergers' norms are over merged patches
    weights = [
        *_linear("patch_embed", hidden, vision.number("in_channels", 3) * 2 * patch**2),
        Weight("pos_embed", vision.number("num_position_embeddings"), hidden),
        *_vector("merger.norm", 2 * hidden + 2 * deep),
        *_linear("merger.fc1", wide, wide, copies=mergers),
        *_linear("merger.fc2", out, wide, copies=mergers),
    ]
    depth = vision.number("depth")
    weights += _times(
        depth,
        *_linear("qkv", 3 * hidden, hidden),
        *_linear("proj", hidden, hidden),
        *_linear("fc1", inner, hidden),
        *_linear("fc2", hidden, inner),
        *_vector("norms", 4 * hidden),
    )
    return _encoder(vision, weights, depth, patch, merge)


def glm4v(vision: Config, text: Config) -> Encoder:
    """GLM-4.5V's and 4.6V's: gated ViT blocks, a convolution that merges, a gated merger."""
    hidden, out = vision.number("hidden_size"), vision.number("out_hidden_size")
    merge, patch = vision.number("spatial_merge_size", 2), vision.number("patch_size")
    # transformers: the merger's inner width is intermediate_size, the blocks' is out_hidden_size
    inner, between = vision.number("intermediate_size"), out
    positions = (vision.number("image_size", 336) // patch) ** 2
    weights = [
        *_linear("patch_embed", hidden, vision.number("in_channels", 3) * 2 * patch**2),
        Weight("position_embedding", positions, hidden),
        *_vector("conv_norms", 2 * hidden),
        *_linear("downsample", out, hidden * merge * merge),
        Weight("merger.proj", out, out),
        *_vector("merger.norm", 2 * out),
        Weight("merger.gate_up", 2 * inner, out),
        Weight("merger.down", out, inner),
    ]
    depth = vision.number("depth")
    weights += _times(
        depth,
        Weight("qkv", 3 * hidden, hidden),
        Weight("proj", hidden, hidden),
        Weight("gate_up", 2 * between, hidden),
        Weight("down", hidden, between),
        *_vector("norms", 2 * hidden),
    )
    if vision.flag("attention_bias"):
        weights += _times(depth, *_vector("qkv.bias", 3 * hidden))
    return _encoder(vision, weights, depth, patch, merge)


def llama4(vision: Config, text: Config) -> Encoder:
    """Llama-4's: tiles of a fixed size, a pixel shuffle, two projections."""
    hidden, inner = vision.number("hidden_size"), vision.number("intermediate_size")
    patch, depth = vision.number("patch_size"), vision.number("num_hidden_layers")
    image = vision.number("image_size")
    wide, projected = (
        vision.number("projector_input_dim"),
        vision.number("projector_output_dim"),
    )
    patches = (image // patch) ** 2
    weights = [
        Weight("patch", hidden, vision.number("num_channels", 3) * patch**2),
        *_vector("class", hidden),
        Weight("positions", patches + 1, hidden),
        *_vector("norms", 4 * hidden),
        Weight("adapter.fc1", wide, inner),
        Weight("adapter.fc2", projected, projected),
        Weight(
            "projector", text.number("hidden_size"), vision.number("vision_output_dim")
        ),
    ]
    weights += _times(
        depth,
        *_linear("qkvo", hidden, hidden, copies=4),
        *_linear("fc1", inner, hidden),
        *_linear("fc2", hidden, inner),
        *_vector("norms", 4 * hidden),
    )
    return Encoder(
        tuple(weights),
        depth,
        hidden,
        vision.number("num_attention_heads"),
        pixels_per_token=2 * patch,  # pixel_shuffle_ratio 0.5: two patches a side
        patches_per_token=4,
        max_patches=17 * patches,  # at most 16 tiles and the whole (the processor's)
    )


ENCODERS: dict[str, Callable[[Config, Config], Encoder]] = {
    "glm4v_moe": glm4v,
    "qwen3_vl_moe": qwen3_vl,
    "qwen3_vl": qwen3_vl,
    "qwen3_5_moe": qwen3_vl,
    "llama4": llama4,
}
"""``model_type`` of a wrapper -> its encoder."""


def _encoder(
    vision: Config, weights: list[Weight], depth: int, patch: int, merge: int
) -> Encoder:
    return Encoder(
        tuple(weights),
        depth,
        vision.number("hidden_size"),
        vision.number("num_heads"),
        pixels_per_token=patch * merge,
        patches_per_token=merge * merge,
        max_patches=MAX_IMAGE_PIXELS // patch**2,
    )


def _linear(name: str, rows: int, columns: int, copies: int = 1) -> tuple[Weight, ...]:
    return (
        Weight(f"visual.{name}", rows, columns, copies=copies),
        Weight(f"visual.{name}.bias", rows, 1, copies=copies),
    )


def _vector(name: str, size: int) -> tuple[Weight, ...]:
    return (Weight(f"visual.{name}", size, 1),)


def _times(count: int, *weights: Weight) -> list[Weight]:
    """The weights of ``count`` blocks, as copies."""
    return [
        Weight(f"visual.blocks.{w.name}", w.rows, w.columns, w.split, count * w.copies)
        for w in weights
    ]
