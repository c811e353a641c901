# SPDX-License-Identifier: Apache-2.0
"""``lite``: a small convolutional network for all tasks at once, fast on ordinary processors.

Depthwise and 1x1 convolutions throughout. One encoder, which may start from ImageNet, three decoders to
stride 8 (semantics; instances; depth) whose heads speak for the cells of stride 4, and a motion branch that
compares the encoder's features with those of the previous frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.config import from_flat, option
from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses import depth, instance, motion, panoptic_depth, semantic
from dvps_ros.losses.photometric import photometric
from dvps_ros.losses.targets import DenseTargets, FrameBatch, dense_targets
from dvps_ros.losses.term import Term, Terms
from dvps_ros.networks.encoders import ENCODERS, Convolution, encoder, separable
from dvps_ros.networks.fusion.points import PointsConfig, PointsFusion
from dvps_ros.networks.motion import MOTION_UNIT_PX, MotionBranch
from dvps_ros.networks.parts import (
    grid_tokens,
    init_convolutions,
    ray_map,
    unit_length,
    upsample,
)
from dvps_ros.networks.protocol import Network, Objective, PointsPrediction

LATENT_GRID = (6, 16)
"""Rows and columns of the latent tokens."""
PRIOR_DEPTH_M = 15.0
MAX_DEPTH_RATIO = 25.0
"""Depth at the canonical focal length lies within PRIOR_DEPTH_M divided and multiplied by this."""
OFFSET_UNIT_PX = 32.0
"""Pixels for an activation of 1: keeps the head's activations near 1 in training."""


@dataclass(frozen=True)
class LiteConfig:
    """Size of the network."""

    classes: int = option(19, "Classes of the label space.", low=1, high=254)
    embedding: int = option(32, "Length of the identity vectors.", low=1, high=256)
    encoder: str = option("mobilenet_v2", "Encoder, by its name in networks.encoders.", choices=ENCODERS)
    decoder_width: int = option(128, "Channels of the decoders.", low=8, high=256)
    context_width: int = option(
        128, "Channels of the context module and of the latent tokens.", low=8, high=512
    )
    state_width: int = option(
        32, "Channels that are remembered from the previous frame, at stride 8.", low=8, high=256
    )
    canonical_focal_px: float = option(
        500.0, "Focal length at which the depth head speaks in metres, px.", low=1.0, high=10000.0
    )


class Context(nn.Module):
    """Scene context at the deepest stride: two 5x5 residual convolutions and the mean over the image."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.reduce = Convolution(inputs, outputs, 1)
        self.near = nn.ModuleList([separable(outputs, outputs, 5) for _ in range(2)])
        self.scene = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        for layer in self.near:
            x = x + layer(x)
        return x + self.scene(x.mean((2, 3)))[:, :, None, None]


class Decoder(nn.Module):
    """Top-down path from stride 32 to stride 8 that sees where each cell looks (ray directions).

    Features of stride 4 enter at stride 8, the four cells of each as channels: detail at an eighth's price.
    """

    def __init__(self, encoder: tuple[int, ...], context: int, width: int) -> None:
        super().__init__()
        self.top = nn.Conv2d(context, width, 1)
        self.lateral16 = nn.Conv2d(encoder[2], width, 1)
        self.rays16 = nn.Conv2d(2, width, 1, bias=False)
        self.fuse16 = separable(width, width, 5)
        self.lateral8 = nn.Conv2d(encoder[1], width, 1)
        self.lateral4 = nn.Conv2d(encoder[0], width, 2, 2)
        self.rays8 = nn.Conv2d(2, width, 1, bias=False)
        self.fuse8 = nn.Sequential(separable(width, width, 5), separable(width, width, 3))

    def forward(self, features: list[Tensor], context: Tensor, rays16: Tensor, rays8: Tensor) -> Tensor:
        """Features [B,width,H/8,W/8]."""
        x = upsample(self.top(context)) + self.lateral16(features[2]) + self.rays16(rays16)
        x = upsample(self.fuse16(x)) + self.lateral8(features[1]) + self.lateral4(features[0])
        result: Tensor = self.fuse8(x + self.rays8(rays8))
        return result


class Head(nn.Conv2d):
    """1x1 convolution at stride 8 that speaks for each of the four cells of stride 4: output i of theirs are
    its channels 4 i to 4 i + 3."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, 4 * outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """[B,outputs,H/4,W/4]."""
        return F.pixel_shuffle(super().forward(x), 2)

    @torch.no_grad()
    def start(self, bias: Tensor) -> None:
        """Small weights at random and biases [outputs], alike in the four cells."""
        weight = 0.01 * torch.randn(bias.numel(), self.in_channels, 1, 1)
        self.weight.copy_(weight.repeat_interleave(4, 0))
        assert self.bias is not None
        self.bias.copy_(bias.repeat_interleave(4))


class Lite(Network[PointsPrediction]):
    """The network; weights start at random with heads that begin near their priors."""

    name = "lite"
    mean: Tensor
    std: Tensor

    def __init__(self, config: LiteConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or LiteConfig()
        width, context, embedding = config.decoder_width, config.context_width, config.embedding
        self.encoder = encoder(config.encoder)
        channels = self.encoder.channels
        self.context = Context(channels[3], context)
        self.semantic = Decoder(channels, context, width)
        self.instance = Decoder(channels, context, width)
        self.depth = Decoder(channels, context, width)
        self.remember = nn.Conv2d(channels[1], config.state_width, 1)
        self.motion = MotionBranch(config.state_width, width)
        self.class_head = Head(width, config.classes)
        self.instance_head = Head(width, 3)
        self.identity_head = nn.Conv2d(width, embedding, 1)
        self.depth_head = Head(width, 1)
        for name in ("mean", "std"):
            value = torch.tensor(getattr(self.encoder, name)).view(1, 3, 1, 1)
            self.register_buffer(name, value, persistent=False)
        for part in (self.context, self.semantic, self.instance, self.depth, self.remember, self.motion):
            init_convolutions(part)
        # One cell in a hundred is near a centre, one in ten moves (the prior of Lin et al. 2017).
        self.class_head.start(torch.zeros(config.classes))
        self.instance_head.start(torch.tensor([-math.log(99), 0.0, 0.0]))
        self.depth_head.start(torch.zeros(1))
        nn.init.normal_(self.motion.head.weight, std=0.01)
        self.motion.head.bias = nn.Parameter(torch.tensor([0.0, 0.0, -math.log(9)]))
        # Identity vectors are of unit length, so they must not start at zero.
        nn.init.normal_(self.identity_head.weight, std=0.1)
        self.identity_head.bias = nn.Parameter(0.1 * torch.randn(embedding))

    @property
    def state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {"features": (self.config.state_width, "H/8", "W/8")}

    def fusion(self, thing_ids: tuple[int, ...], **options: Any) -> PointsFusion:
        return PointsFusion(thing_ids, from_flat(PointsConfig, options))

    def forward(
        self, image: Tensor, intrinsics: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> PointsPrediction:
        height, width = image.shape[2:]
        previous = (self.initial_state(image) if state is None else state)["features"]
        rays16, rays8 = (ray_map(intrinsics, height, width, s) for s in (16, 8))
        features = self.encoder((image - self.mean) / self.std)
        context = self.context(features[3])
        semantic, instance, depth = (
            decode(features, context, rays16, rays8) for decode in (self.semantic, self.instance, self.depth)
        )
        center, offset = self.instance_head(instance).split((1, 2), 1)
        remembered = self.remember(features[1])
        motion, moving = upsample(self.motion(remembered, previous, instance)).split((2, 1), 1)
        has_previous = (previous.abs().amax((1, 2, 3), keepdim=True) > 0).to(motion.dtype)
        # Depth is proportional to focal length for the same appearance, so the head speaks for one
        # canonical camera; bounding it softly keeps its gradient alive.
        limit = math.log(MAX_DEPTH_RATIO)
        canonical = math.log(PRIOR_DEPTH_M) + limit * torch.tanh(self.depth_head(depth) / limit)
        focal = torch.log(intrinsics[:, 1] / self.config.canonical_focal_px).view(-1, 1, 1, 1)
        return PointsPrediction(
            class_logits=self.class_head(semantic),
            center_logits=center,
            center_offset_px=OFFSET_UNIT_PX * offset,
            log_depth=canonical + focal,
            motion_px=MOTION_UNIT_PX * motion * has_previous,
            moving_logits=moving,
            embedding=unit_length(upsample(self.identity_head(instance))),
            latent=grid_tokens(context, *LATENT_GRID),
            state={"features": remembered},
            depth_features=upsample(depth),
        )


class LiteObjective(Objective):
    """Every task's own loss, frame by frame, and identities between neighbouring frames."""

    targets = staticmethod(dense_targets)
    class_weight: Tensor

    def __init__(self, network: Network, labels: LabelSpace, weights: LiteWeights) -> None:
        super().__init__(network, labels, weights)
        self.register_buffer("class_weight", semantic.class_weights(labels), persistent=False)

    def forward(self, clip: Sequence[FrameBatch], done: float) -> Terms:
        return clip_terms(self.frames(clip), clip, self.class_weight, self.weights)


def clip_terms(
    predictions: Sequence[PointsPrediction],
    clip: Sequence[FrameBatch],
    weight_of_class: Tensor,
    config: LiteWeights,
) -> Terms:
    """The terms of all frames of a batch of clips.

    Args:
        predictions: one a frame of ``clip``; a later one holds the first rows of the one before.

    Raises:
        ConfigError: a term needs what the network does not give.
    """
    terms = Terms()
    for i, (p, frame) in enumerate(zip(predictions, clip, strict=True)):
        t = frame.targets
        for name, term in frame_terms(p, t, weight_of_class, config, has_previous=i > 0).items():
            terms.add(name, term, frame.sources)
        if i > 0:
            rows = len(frame.sources)
            contrast = instance.identity_contrast(
                predictions[i - 1].embedding[:rows],
                clip[i - 1].targets.instance[:rows],
                p.embedding,
                t.instance,
            )
            terms.add("identity", contrast, frame.sources)
    return terms


@dataclass(frozen=True)
class LiteWeights:
    """Weights of the terms; 0 switches a term off.

    They decide what the encoder learns (Adam makes a head indifferent to the weight of its own loss), so the
    defaults balance the gradients in the encoder: semantics first, then depth, then the rest
    (docs/training.md).
    """

    semantic: float = option(1.0, "Cross-entropy of the classes.", low=0.0)
    coarse: float = option(1.0, "Cross-entropy of labels that stand for several classes.", low=0.0)
    lovasz: float = option(3.0, "Lovász surrogate of the classes' mean IoU.", low=0.0)
    coarse_lovasz: float = option(1.5, "The same for labels that stand for several classes.", low=0.0)
    center: float = option(0.15, "Focal loss of the centre heat-map.", low=0.0)
    offset: float = option(0.005, "Offset to the instance's centre, per pixel of error.", low=0.0)
    depth: float = option(2.0, "Error of ln depth.", low=0.0)
    depth_shape: float = option(1.0, "Error of ln depth without its mean over the image.", low=0.0)
    depth_edges: float = option(0.5, "Error of the gradient of ln depth.", low=0.0)
    sky: float = option(0.05, "Sky that is predicted nearer than max_depth_m, in ln depth.", low=0.0)
    smoothness: float = option(0.01, "Edge-aware smoothness of ln depth.", low=0.0)
    motion: float = option(0.01, "Offset to the previous frame, per pixel of error.", low=0.0)
    moving: float = option(0.3, "Moving over ground or not.", low=0.0)
    identity: float = option(0.1, "Contrast of identity vectors between two frames.", low=0.0)
    photometric: float = option(
        0.0, "Likeness to the other frame of a pair, seen through depth and poses.", low=0.0
    )
    guided_smoothness: float = option(0.0, "Smoothness of ln depth within a segment.", low=0.0)
    guided_edges: float = option(0.0, "Breaks of ln depth between segments.", low=0.0)
    guided_triplet: float = option(0.0, "Features of the depth head apart between segments.", low=0.0)
    max_depth_m: float = option(120.0, "True depth beyond this is left out, metres.", low=1.0)


def frame_terms(
    p: PointsPrediction, t: DenseTargets, weight_of_class: Tensor, config: LiteWeights, *, has_previous: bool
) -> dict[str, Term]:
    """The terms of one frame, unweighted; those that cost time are left out where their weight is 0.

    Args:
        has_previous: motion terms are left out in a first frame.

    Raises:
        ConfigError: a term needs what the network does not give.
    """
    dense = t.depth_m * t.dense_depth[:, None, None]
    terms = {
        "semantic": semantic.cross_entropy(p.class_logits, t.class_map, weight_of_class),
        "coarse": semantic.set_cross_entropy(p.class_logits, t.coarse_map, t.groups, weight_of_class),
        "center": instance.center_focal(p.center_logits, t.heat, t.heat_valid),
        "offset": instance.offset_l1(p.center_offset_px, t.offset_px, t.instance > 0),
        "depth": depth.log_l1(p.log_depth, t.depth_m, config.max_depth_m),
        "depth_shape": depth.scale_invariant(p.log_depth, t.depth_m, config.max_depth_m),
        "depth_edges": depth.gradient_l1(p.log_depth, dense, config.max_depth_m),
        "sky": depth.sky_is_far(p.log_depth, t.sky, config.max_depth_m),
        "smoothness": depth.edge_aware_smoothness(p.log_depth, t.image),
    }
    if config.lovasz:
        terms["lovasz"] = semantic.lovasz(p.class_logits, t.class_map)
    if config.coarse_lovasz:
        terms["coarse_lovasz"] = semantic.set_lovasz(p.class_logits, t.coarse_map, t.groups)
    if config.photometric:
        terms["photometric"] = photometric(
            p.log_depth, t.image, t.seen, t.moving != 1, t.intrinsics, [t.other]
        )
    if config.guided_smoothness:
        terms["guided_smoothness"] = panoptic_depth.guided_smoothness(p.log_depth, t.segments)
    if config.guided_edges:
        terms["guided_edges"] = panoptic_depth.guided_edges(p.log_depth, t.segments)
    if config.guided_triplet:
        if p.depth_features is None:
            raise ConfigError("loss.guided_triplet: this network gives no depth features; set it to 0")
        terms["guided_triplet"] = panoptic_depth.guided_triplet(p.depth_features, t.segments)
    if has_previous:
        terms["motion"] = motion.charbonnier(p.motion_px, t.motion_px)
        terms["moving"] = motion.moving_cross_entropy(p.moving_logits, t.moving)
    return terms
