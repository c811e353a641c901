# SPDX-License-Identifier: Apache-2.0
"""DeepDPS: deeply unified depth-aware panoptic segmentation (He et al., ICCV 2023), with identities over
time.

Every object query of a masked-attention decoder (Mask2Former) gets a geometric query that predicts the depth
of its segment; a backup query predicts that of all pixels that no segment claims. Not in the paper: rows of
segments are found again in the next frame by their mask vectors (``networks.fusion.masks``), so that the
tracker gives ids.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dvps_ros.config import from_flat, option
from dvps_ros.errors import ConfigError
from dvps_ros.losses.guidance import depth_to_semantic, semantic_to_depth
from dvps_ros.losses.masks import query_class, query_masks
from dvps_ros.losses.matching import CostWeights, match
from dvps_ros.losses.segment_depth import backup_depth, query_depth
from dvps_ros.losses.segment_targets import segment_targets
from dvps_ros.losses.targets import FrameBatch
from dvps_ros.losses.term import Term, Terms
from dvps_ros.networks.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, Backbone
from dvps_ros.networks.fusion.masks import ROWS, MasksConfig, MasksFusion
from dvps_ros.networks.masked_attention import (
    AttentionStep,
    DecoderLayer,
    FeedForward,
    Mlp,
    attention_mask,
    sine_positions,
)
from dvps_ros.networks.parts import grid_tokens
from dvps_ros.networks.protocol import MasksPrediction, Network, Objective, channels_last
from dvps_ros.networks.pyramids import LEVELS, DeformablePyramid, PixelDecoder, PlainPyramid

MAX_DEPTH_M = 80.0
"""Depth is this times a sigmoid (Eq. 1)."""
GUIDANCE_LEAST = 4
"""Cells of either kind that a window must hold to say something: K - 1, as in the authors' code."""
LATENT_GRID = (6, 16)
"""Rows and columns of the latent tokens."""


@dataclass(frozen=True)
class DeepDpsConfig:
    """Size of the network; the defaults are the paper's with ResNet-50."""

    classes: int = option(19, "Classes of the label space.", low=1, high=254)
    backbone: str = option("resnet50", "Backbone of the transformers library.", choices=tuple(BACKBONES))
    pixel_decoder: str = option(
        "deformable",
        "Deformable attention as in the paper, or a plain feature pyramid, which all runtimes compute alike.",
        choices=("deformable", "pyramid"),
    )
    width: int = option(256, "Channels of maps and queries.", low=8, high=1024)
    queries: int = option(100, "Object queries.", low=1, high=1000)
    rounds: int = option(3, "Rounds of the decoder over the strides 32, 16 and 8.", low=1, high=10)
    heads: int = option(8, "Heads of every attention; they share the width.", low=1, high=64)
    hidden: int = option(2048, "Channels inside the decoders' feed-forward networks.", low=8, high=8192)
    pixel_layers: int = option(6, "Layers of deformable attention.", low=1, high=20)
    pixel_hidden: int = option(1024, "Channels inside their feed-forward networks.", low=8, high=8192)
    depth_by: str = option(
        "segment",
        "Depth of each segment with a backup, of each segment, or of all pixels at once, as a head of "
        "convolutions does it (the ablation of Table 4).",
        choices=("segment", "segment_only", "pixels"),
    )
    canonical_focal_px: float = option(
        0.0,
        "Focal length at which depth is predicted, px; other cameras' depth is scaled by theirs. 0 as in the "
        "paper: one camera for all.",
        low=0.0,
        high=10000.0,
    )
    slots: int = option(64, "Rows of the segment table.", low=1, high=254)

    def __post_init__(self) -> None:
        # Positions are sines and cosines of two coordinates, heads share the width.
        for what, divisor in ((f"heads = {self.heads}", self.heads), ("4", 4)):
            if self.width % divisor:
                raise ConfigError(f"width: expected a multiple of {what}, got {self.width}")


@dataclass(frozen=True)
class DecoderPrediction:
    """What one decoder layer predicts, for deep supervision; h, w = H/4, W/4."""

    class_logits: Tensor
    """[B,Q,C+1]."""
    mask_logits: Tensor
    """[B,Q,h,w]."""
    depth_m: Tensor | None
    """[B,Q,h,w], or [B,1,h,w] where depth is not by segment; None of the queries before the first layer."""
    backup_depth_m: Tensor | None
    """[B,1,h,w]; None where there is no backup."""


class GeometricQueries(nn.Module):
    """Geometric query enhancement (section 3.2): what object queries know of depth, once a decoder layer.

    Latent slots look at the depth features within the mask of the query that each is bound to, exchange what
    they saw, and hand it to the object queries. The slots are carried from layer to layer; object queries are
    not changed.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.look = AttentionStep(width, heads)
        self.exchange = AttentionStep(width, heads)
        self.enhance = AttentionStep(width, heads)
        self.feed_forward = FeedForward(width, hidden)

    def forward(
        self,
        slots: Tensor,
        slot_positions: Tensor,
        queries: Tensor,
        query_positions: Tensor,
        level: Tensor,
        level_positions: Tensor,
        attends: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The slots [B,Q,width], and the geometric queries [B,Q,width]."""
        slots = self.look(slots, slot_positions, level, level_positions, attends)
        slots = self.exchange(slots, slot_positions, slots, slot_positions)
        return slots, self.feed_forward(self.enhance(queries, query_positions, slots, slot_positions))


class BackupQuery(nn.Module):
    """One query for the depth of the whole image (section 3.3); a step a level, shared by the rounds."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.start, self.position = (nn.Parameter(torch.randn(1, 1, width)) for _ in range(2))
        self.looks = nn.ModuleList(AttentionStep(width, heads) for _ in range(LEVELS))
        self.feed_forwards = nn.ModuleList(FeedForward(width, hidden) for _ in range(LEVELS))

    def forward(self, query: Tensor, level: int, features: Tensor, positions: Tensor) -> Tensor:
        query = self.looks[level](query, self.position, features, positions)
        return self.feed_forwards[level](query)


class DeepDps(Network[MasksPrediction]):
    """The network, with random weights."""

    name = "deep_dps"
    mean: Tensor
    std: Tensor

    def __init__(self, config: DeepDpsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or DeepDpsConfig()
        width = config.width
        self.backbone = Backbone(config.backbone)
        self.semantic, self.depth = self._pixel_decoder(), self._pixel_decoder()
        # Mask2Former's decoder.
        self.queries, self.query_positions = (
            nn.Parameter(torch.randn(1, config.queries, width)) for _ in range(2)
        )
        self.level_positions = nn.Parameter(torch.randn(LEVELS, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, config.heads, config.hidden) for _ in range(config.rounds * LEVELS)
        )
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, config.classes + 1)
        self.mask_vector = Mlp(width, width)
        # Depth.
        self.depth_norm, self.depth_vector = nn.LayerNorm(width), Mlp(width, width)
        self.depth_level_positions = nn.Parameter(torch.randn(LEVELS, width))
        if config.depth_by != "pixels":
            self.slots, self.slot_positions = (
                nn.Parameter(torch.randn(1, config.queries, width)) for _ in range(2)
            )
            self.geometry = nn.ModuleList(
                GeometricQueries(width, config.heads, config.hidden) for _ in self.layers
            )
        else:
            self.depth_head = nn.Conv2d(width, 1, 3, padding=1)
        if config.depth_by == "segment":
            self.backup = BackupQuery(width, config.heads, config.hidden)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    def _pixel_decoder(self) -> PixelDecoder:
        c = self.config
        if c.pixel_decoder == "pyramid":
            return PlainPyramid(self.backbone.channels, c.width)
        return DeformablePyramid(
            self.backbone.channels, c.width, layers=c.pixel_layers, heads=c.heads, hidden=c.pixel_hidden
        )

    @property
    def state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {ROWS: (self.config.slots, self.config.width)}

    def fusion(self, thing_ids: tuple[int, ...], **options: Any) -> MasksFusion:
        config = from_flat(MasksConfig, {"slots": self.config.slots} | options)
        return MasksFusion(thing_ids, self.config.classes, config, propagates=True)

    def forward(
        self, image: Tensor, intrinsics: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> MasksPrediction:
        c, b = self.config, len(image)
        features = self.backbone((image - self.mean) / self.std)
        levels, pixels = self.semantic(features)
        depth_levels, depth_pixels = self.depth(features)
        scale = self._depth_scale(intrinsics)

        tokens, positions = self._tokens(levels, self.level_positions)
        depth_tokens, depth_positions = self._tokens(depth_levels, self.depth_level_positions)
        queries, query_positions = self.queries.expand(b, -1, -1), self.query_positions
        dense = scale * self.depth_head(depth_pixels).sigmoid() if c.depth_by == "pixels" else None
        slots = self.slots.expand(b, -1, -1) if dense is None else None
        backup = self.backup.start.expand(b, -1, -1) if c.depth_by == "segment" else None

        class_logits, mask_logits, vectors = self._segments(queries, pixels)
        predictions = [DecoderPrediction(class_logits, mask_logits, None, None)]
        for i, layer in enumerate(self.layers):
            level = i % LEVELS
            attends = attention_mask(mask_logits, *levels[level].shape[2:])
            queries = layer(queries, query_positions, tokens[level], positions[level], attends)
            class_logits, mask_logits, vectors = self._segments(queries, pixels)
            depth_m, backup_m = dense, None
            if slots is not None:
                slots, geometric = self.geometry[i](
                    slots,
                    self.slot_positions,
                    queries,
                    query_positions,
                    depth_tokens[level],
                    depth_positions[level],
                    attends,
                )
                depth_m = self._depth_of(geometric, depth_pixels, scale)
            if backup is not None:
                backup = self.backup(backup, level, depth_tokens[level], depth_positions[level])
                backup_m = self._depth_of(backup, depth_pixels, scale)
            predictions.append(DecoderPrediction(class_logits, mask_logits, depth_m, backup_m))

        last = predictions[-1]
        assert last.depth_m is not None
        if state is None:
            state = self.initial_state(image)
        return MasksPrediction(
            class_logits=last.class_logits,
            mask_logits=last.mask_logits,
            depth_m=last.depth_m,
            backup_depth_m=self._backup_of(last, scale),
            embedding=self.norm(queries),
            latent=grid_tokens(levels[0], *LATENT_GRID),
            mask_vectors=vectors,
            pixel_vectors=pixels,
            previous_vectors=state[ROWS],
            layers=tuple(predictions),
            depth_features=depth_pixels,
        )

    def _tokens(self, levels: Sequence[Tensor], level_positions: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Maps as tokens [B,N,width], those of a level, and their positions [1,N,width]."""
        # Levels are told apart in the values, too; places only in the keys.
        tokens = [x.flatten(2).transpose(1, 2) + level_positions[i] for i, x in enumerate(levels)]
        positions = [sine_positions(x.shape[2], x.shape[3], x.shape[1], x.device)[None] for x in levels]
        return tokens, positions

    def _segments(self, queries: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Class logits [B,Q,C+1], mask logits [B,Q,h,w], and mask vectors [B,Q,width]."""
        queries = self.norm(queries)
        vectors = self.mask_vector(queries)
        return self.classify(queries), _products(vectors, pixels), vectors

    def _depth_of(self, geometric: Tensor, depth_pixels: Tensor, scale: Tensor) -> Tensor:
        """Eq. 1: 80 sigmoid(psi(X) . E), metres."""
        return scale * _products(self.depth_vector(self.depth_norm(geometric)), depth_pixels).sigmoid()

    def _depth_scale(self, intrinsics: Tensor) -> Tensor:
        """[B,1,1,1]: depth for a sigmoid of 1, metres."""
        scale = torch.full_like(intrinsics[:, 1], MAX_DEPTH_M)
        if self.config.canonical_focal_px > 0:
            scale = scale * intrinsics[:, 1] / self.config.canonical_focal_px
        return scale.view(-1, 1, 1, 1)

    def _backup_of(self, last: DecoderPrediction, scale: Tensor) -> Tensor | None:
        """Where no segment is, an ablation without the backup has the middle of the range."""
        assert last.depth_m is not None
        if last.backup_depth_m is None and last.depth_m.shape[1] > 1:
            return (0.5 * scale).expand_as(last.depth_m[:, :1])
        return last.backup_depth_m


def _products(vectors: Tensor, pixels: Tensor) -> Tensor:
    """[B,Q,h,w]: scalar product of each query's vector [B,Q,C] with that of each pixel [B,C,h,w]."""
    return (vectors @ pixels.flatten(2)).unflatten(2, pixels.shape[2:])


class DeepDpsObjective(Objective):
    """Every decoder layer is matched and supervised on its own (section 3.5); frames are learned one by one.

    Samples with panoptic truth only, or with depth truth only, teach what they can (Table 5).
    """

    targets = staticmethod(segment_targets)
    weights: DeepDpsWeights

    def forward(self, clip: Sequence[FrameBatch], done: float) -> Terms:
        terms = Terms()
        for frame in clip:
            prediction = self.network(channels_last(frame.image), frame.intrinsics)
            self._frame_terms(terms, prediction, frame)
        return terms

    def _frame_terms(self, terms: Terms, p: MasksPrediction, frame: FrameBatch) -> None:
        w, t, sources = self.weights, frame.targets, frame.sources
        masks = t.masks
        cost = CostWeights(w.classification, w.mask, w.dice)
        layers: Sequence[DecoderPrediction] = p.layers
        by_segment = p.depth_m.shape[1] > 1
        with_depth = sum(x.depth_m is not None for x in layers)
        with_backup = sum(x.backup_depth_m is not None for x in layers)
        for x in layers:
            matched = match(
                x.class_logits, x.mask_logits, t.classes, masks, t.known, weights=cost, points=w.points
            )
            classification = query_class(x.class_logits, t.classes, matched, t.has_panoptic, w.no_object)
            terms.add("classification", _summed(classification, len(layers)), sources)
            mask, dice = query_masks(x.mask_logits, masks, t.known, matched, points=w.points)
            terms.add("mask", _summed(mask, len(layers)), sources)
            terms.add("dice", _summed(dice, len(layers)), sources)
            if w.depth and by_segment and x.depth_m is not None:
                depth = query_depth(
                    x.depth_m, t.depth_m, masks, matched, max_depth_m=w.max_depth_m, literal=w.literal
                )
                terms.add("depth", _summed(depth, with_depth), sources)
            if w.backup and x.backup_depth_m is not None:
                backup = backup_depth(
                    x.backup_depth_m, t.depth_m, max_depth_m=w.max_depth_m, literal=w.literal
                )
                terms.add("backup", _summed(backup, with_backup), sources)
        if w.depth and not by_segment:  # one map for all pixels
            dense = backup_depth(p.depth_m, t.depth_m, max_depth_m=w.max_depth_m, literal=w.literal)
            terms.add("depth", dense, sources)
        if w.depth_guidance:
            assert p.depth_features is not None
            least = 1 if w.literal else GUIDANCE_LEAST
            guided = semantic_to_depth(p.depth_features, t.segments, least=least)
            terms.add("depth_guidance", guided, sources)
        if w.semantic_guidance:
            assert p.pixel_vectors is not None
            valid = (t.depth_m > 0) & (t.depth_m <= w.max_depth_m)
            guided = depth_to_semantic(p.pixel_vectors, t.depth_m, valid, literal=w.literal)
            terms.add("semantic_guidance", guided, sources)


def _summed(term: Term, layers: int) -> Term:
    """So that the mean over so many layers becomes the sum over them, as the paper's weights want it."""
    return Term(term.value * layers, term.weight, term.divisor)


@dataclass(frozen=True)
class DeepDpsWeights:
    """Weights of the terms (Eq. 8), and their options; 0 switches a term off."""

    classification: float = option(2.0, "Cross-entropy of the queries' classes.", low=0.0)
    mask: float = option(5.0, "Cross-entropy of the masks.", low=0.0)
    dice: float = option(5.0, "Dice of the masks.", low=0.0)
    depth: float = option(2.5, "Scale-invariant error of ln depth, a segment (Eq. 7).", low=0.0)
    backup: float = option(2.5, "The same of the backup, over the whole image.", low=0.0)
    depth_guidance: float = option(
        0.1, "Depth features apart between segments (Eq. 3 to 5, semantic to depth).", low=0.0
    )
    semantic_guidance: float = option(
        0.1, "Pixel vectors alike where depth is (Eq. 6, depth to semantic).", low=0.0
    )
    no_object: float = option(0.1, "Weight of queries without a segment in the classification.", low=0.0)
    points: int = option(12544, "Points that stand for a mask.", low=1)
    max_depth_m: float = option(80.0, "True depth beyond this is left out, metres.", low=1.0)
    literal: bool = option(
        False, "Losses as they are printed: no root in Eq. 7, sums over neighbours of any length in Eq. 6."
    )


_MASK2FORMER_BACKBONE = "model.pixel_level_module.encoder."
_MASK2FORMER_NAMES = (
    (r"model\.pixel_level_module\.decoder\.", "semantic."),
    (r"semantic\.level_embed", "semantic.level_positions"),
    (r"semantic\.input_projections\.", "semantic.projections."),
    (r"semantic\.mask_projection\.", "semantic.vectors."),
    (r"semantic\.adapter_1\.", "semantic.lateral."),
    (r"semantic\.layer_1\.", "semantic.smooth."),
    (r"semantic\.encoder\.layers\.", "semantic.layers."),
    (r"\.self_attn\.sampling_offsets\.", ".attention.offsets."),
    (r"\.self_attn\.attention_weights\.", ".attention.weights."),
    (r"\.self_attn\.value_proj\.", ".attention.value."),
    (r"\.self_attn\.output_proj\.", ".attention.out."),
    (r"(semantic\.layers\.\d+)\.self_attn_layer_norm\.", r"\1.norm."),
    (r"model\.transformer_module\.queries_embedder\.weight", "query_positions"),
    (r"model\.transformer_module\.queries_features\.weight", "queries"),
    (r"model\.transformer_module\.level_embed\.weight", "level_positions"),
    (r"model\.transformer_module\.decoder\.layernorm\.", "norm."),
    (r"model\.transformer_module\.decoder\.mask_predictor\.mask_embedder\.(\d)\.0", r"mask_vector.layers.\1"),
    (r"model\.transformer_module\.decoder\.layers\.", "layers."),
    (r"\.self_attn\.([qkv])_proj\.", r".self_attention.attention.\1."),
    (r"\.self_attn\.out_proj\.", ".self_attention.attention.out."),
    (r"\.self_attn_layer_norm\.", ".self_attention.norm."),
    (r"\.cross_attn\.", ".cross.attention."),
    (r"\.out_proj\.", ".out."),
    (r"\.cross_attn_layer_norm\.", ".cross.norm."),
    (r"\.fc1\.", ".feed_forward.inner."),
    (r"\.fc2\.", ".feed_forward.outer."),
    (r"\.final_layer_norm\.", ".feed_forward.norm."),
    (r"class_predictor\.", "classify."),
    (r"(\.attention)\.q\.", r"\1.query."),
    (r"(\.attention)\.k\.", r"\1.key."),
    (r"(\.attention)\.v\.", r"\1.value."),
)
"""Names of parameters in the transformers library's Mask2Former behind its backbone, and what they are called
here."""


def mask2former_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of the transformers library's Mask2Former by the names of :class:`DeepDps`, whose half for
    segmentation it is: with them it computes the same classes and masks. Depth is not in it.

    Args:
        weights: the state of ``Mask2FormerForUniversalSegmentation``.
    """
    found = {}
    for name, value in weights.items():
        if name.startswith("criterion."):
            continue
        if name.startswith(_MASK2FORMER_BACKBONE):  # the same class as ours, with names of its own
            name = name.removeprefix(_MASK2FORMER_BACKBONE)
            if not name.startswith("swin.layernorm."):  # which Backbone leaves out
                found[f"backbone.model.{name}"] = value
            continue
        for pattern, replacement in _MASK2FORMER_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".in_proj_" in name:  # query, key and value in one
            start, _, kind = name.rpartition(".in_proj_")
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                found[f"{start}.{part}.{kind}"] = piece
        else:
            found[name] = value[None] if name in ("queries", "query_positions") else value
    return found
