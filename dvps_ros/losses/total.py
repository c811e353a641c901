# SPDX-License-Identifier: Apache-2.0
"""All losses of a dense prediction: the named terms, and the only place with their weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dvps_ros.config import option
from dvps_ros.errors import ConfigError, DvpsError
from dvps_ros.labels import LabelSpace
from dvps_ros.losses import depth, instance, motion, panoptic_depth, semantic
from dvps_ros.losses.photometric import View, photometric
from dvps_ros.losses.term import Term, pooled_mean

RARE_CLASS_WEIGHT = {
    "wall": 1.5,
    "fence": 2.5,
    "pole": 4.0,
    "traffic light": 5.0,
    "traffic sign": 5.0,
    "person": 2.5,
    "rider": 3.0,
    "car": 1.5,
    "truck": 3.0,
    "bus": 3.0,
    "train": 3.0,
    "motorcycle": 4.0,
    "bicycle": 3.0,
}
"""Weight of a class in the cross-entropy, by name; 1 for the others. A class that weighs w is told where its
probability is above 1 / (1 + w); the best IoU, when it is x, wants that at x / (1 + x)."""


@dataclass(frozen=True)
class LossConfig:
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


@dataclass(frozen=True)
class Targets:
    """Truth of one frame of a batch at stride 4. B samples; missing truth is masked, not zero."""

    class_map: Tensor
    """uint8 [B,h,w], 255 void."""
    coarse_map: Tensor
    """uint8 [B,h,w], 255 void."""
    groups: Tensor
    """bool [B,G,C]: classes of each coarse label."""
    heat: Tensor
    """float [B,h,w]: centre Gaussians, 1 in the cell of a centre."""
    heat_valid: Tensor
    """bool [B,h,w]."""
    offset_px: Tensor
    """float [B,2,h,w] to the instance's centre."""
    instance: Tensor
    """int32 [B,h,w]: id, equal in both frames of a sample; 0 none, -1 unknown."""
    depth_m: Tensor
    """float [B,h,w], 0 = no truth."""
    dense_depth: Tensor
    """bool [B]: depth has truth on all surfaces (not on single LiDAR points)."""
    motion_px: Tensor
    """float [B,2,h,w] to the previous frame, NaN unknown."""
    moving: Tensor
    """uint8 [B,h,w]: 1 moves, 0 static, 255 unknown."""
    sky: Tensor
    """bool [B,h,w]."""
    segments: Tensor
    """int64 [B,h,w]: equal where class and instance are equal; -1 where either is unknown."""
    image: Tensor
    """float [B,3,h,w], 0..255: the image at stride 4."""
    seen: Tensor
    """bool [B,h,w]: all pixels of the cell are of the camera's image, not beyond its border."""
    intrinsics: Tensor
    """float [B,4]: fx, fy, cx, cy of ``image``, in its pixels."""
    other: View
    """The other frame of the clip, at stride 4; in a clip of one frame its pose is unknown."""
    sources: tuple[str, ...]
    """Name of each sample, for error messages."""


class Prediction(Protocol):
    """The dense maps that the losses read; see ``networks.prediction.RawPrediction``."""

    class_logits: Tensor
    center_logits: Tensor
    center_offset_px: Tensor
    log_depth: Tensor
    motion_px: Tensor
    moving_logits: Tensor
    embedding: Tensor
    depth_features: Tensor | None


def class_weights(labels: LabelSpace) -> Tensor:
    """float [C] of :data:`RARE_CLASS_WEIGHT`."""
    return torch.tensor([RARE_CLASS_WEIGHT.get(name, 1.0) for name in labels.names])


def rare_classes(labels: LabelSpace) -> tuple[int, ...]:
    """Ids of the classes that weigh at least twice as much as a common one."""
    return tuple(i for i, name in enumerate(labels.names) if RARE_CLASS_WEIGHT.get(name, 1.0) >= 2)


def frame_terms(
    p: Prediction, t: Targets, weight_of_class: Tensor, config: LossConfig, *, has_previous: bool
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


def clip_terms(
    predictions: Sequence[Prediction], targets: Sequence[Targets], weight_of_class: Tensor, config: LossConfig
) -> dict[str, list[tuple[Term, Targets]]]:
    """The terms of all frames of a batch of clips, unweighted, by name, each with the frame it is of.

    Args:
        predictions, targets: one per frame; frame 1 holds the first rows of frame 0 (clips of two frames).
    """
    collected: dict[str, list[tuple[Term, Targets]]] = {}
    for i, (p, t) in enumerate(zip(predictions, targets, strict=True)):
        for name, term in frame_terms(p, t, weight_of_class, config, has_previous=i > 0).items():
            collected.setdefault(name, []).append((term, t))
        if i > 0:
            rows = len(t.sources)
            contrast = instance.identity_contrast(
                predictions[i - 1].embedding[:rows], targets[i - 1].instance[:rows], p.embedding, t.instance
            )
            collected.setdefault("identity", []).append((contrast, t))
    return collected


def total_loss(
    predictions: Sequence[Prediction], targets: Sequence[Targets], weight_of_class: Tensor, config: LossConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum over the terms of all frames of a batch of clips; for the arguments see ``clip_terms``.

    Returns:
        The total, and the mean of each term (unweighted, detached).

    Raises:
        DvpsError: a term is not finite; names the term and the samples.
    """
    total = torch.zeros((), device=weight_of_class.device)
    means: dict[str, Tensor] = {}
    for name, parts in clip_terms(predictions, targets, weight_of_class, config).items():
        for term, t in parts:
            if bad := term.bad_samples():
                raise DvpsError(
                    f"loss term {name!r} is not finite for {', '.join(t.sources[i] for i in bad)}: lower the "
                    "learning rate or look at the truth of what is named; the last checkpoint is kept"
                )
        mean = pooled_mean([term for term, _ in parts])
        total = total + getattr(config, name) * mean
        means[name] = mean.detach()
    return total, means
