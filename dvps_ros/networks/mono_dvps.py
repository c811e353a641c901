# SPDX-License-Identifier: Apache-2.0
"""MonoDVPS: depth-aware video panoptic segmentation without depth labels (Petrovai and Nedevschi, WACV 2023).

Panoptic-DeepLab (Cheng et al. 2020) with a head for depth on its semantic decoder, which learns from how
neighbouring frames look (Godard et al. 2019, Monodepth2) and from panoptic labels: smooth within a segment,
broken between two. Instances that move are left out. Optical flow, learned from the images as well, leads the
tracker from frame to frame.

Not in the paper, which says nothing of it: the flow decoder is that of ``lite``, on the features of the
semantic decoder at stride 8; the same decoder takes the place of the external flow network for the moving
mask; identity vectors are the instance decoder's features; and whether a pixel moves is learned from that
mask, so that the robot is told.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.config import from_flat, option
from dvps_ros.contract import OUTPUT_STRIDE
from dvps_ros.geometry.disparity import depth_of_disparity
from dvps_ros.labels import LabelSpace
from dvps_ros.losses import depth, flow, instance, motion, panoptic_depth, semantic
from dvps_ros.losses.moving_mask import MovingMask, carry, iou_threshold, moving_mask, target_rows
from dvps_ros.losses.photometric import of_rows, photometric, strided_view
from dvps_ros.losses.targets import DenseTargets, FrameBatch, View, dense_targets
from dvps_ros.losses.term import Terms
from dvps_ros.networks.backbones import BACKBONES, IMAGENET_MEAN, IMAGENET_STD, Backbone
from dvps_ros.networks.fusion.points import ROW_MAP, PointsConfig, PointsFusion
from dvps_ros.networks.motion import MOTION_UNIT_PX, MotionBranch
from dvps_ros.networks.parts import conv_bn, grid_tokens, init_convolutions, unit_length, upsample
from dvps_ros.networks.pose import PoseNetwork, inverse_pose
from dvps_ros.networks.protocol import Network, Objective, PointsPrediction, channels_last

log = logging.getLogger(__name__)
LATENT_GRID = (6, 16)
"""Rows and columns of the latent tokens."""
WARP_STRIDE = 2
"""Views are compared at half the resolution of the input (section 4)."""
SMOOTHNESS_EDGE = 1.0
"""Of Monodepth2."""


@dataclass(frozen=True)
class MonoDvpsConfig:
    """Size of the network; the defaults are the paper's, or Panoptic-DeepLab's where it is silent."""

    classes: int = option(19, "Classes of the label space.", low=1, high=254)
    backbone: str = option("resnet50", "Backbone of the transformers library.", choices=tuple(BACKBONES))
    context_width: int = option(256, "Channels of the spatial pyramid.", low=8, high=1024)
    semantic_width: int = option(256, "Channels of the semantic decoder.", low=8, high=1024)
    instance_width: int = option(128, "Channels of the instance decoder.", low=8, high=1024)
    head_width: int = option(64, "Channels of the depth head before it is upsampled.", low=8, high=1024)
    state_width: int = option(
        64, "Channels that are remembered from the previous frame, at stride 8.", low=8, high=256
    )
    canonical_focal_px: float = option(
        0.0,
        "Focal length at which depth is predicted, px; other cameras' depth is scaled by theirs. 0 as in the "
        "paper: one camera for all.",
        low=0.0,
        high=10000.0,
    )
    slots: int = option(64, "Rows of the segment table.", low=1, high=254)


def separable(inputs: int, outputs: int) -> nn.Sequential:
    """5x5 depthwise convolution, then 1x1, each with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 5, padding=2, groups=inputs, bias=False),
        nn.BatchNorm2d(inputs),
        nn.ReLU(inplace=True),
        *conv_bn(inputs, outputs, 1),
    )


class SpatialPyramid(nn.Module):
    """Atrous spatial pyramid pooling (Chen et al. 2017) at stride 32."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.near = conv_bn(inputs, width, 1)
        self.far = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(inputs, width, 3, padding=rate, dilation=rate, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(inplace=True),
            )
            for rate in (3, 6, 9)
        )
        # Without normalisation: a batch of one image has a single value a channel here.
        self.scene = nn.Conv2d(inputs, width, 1)
        self.join = conv_bn(5 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        scene = F.relu(self.scene(x.mean((2, 3), keepdim=True))).expand(-1, -1, *x.shape[2:])
        result: Tensor = self.join(torch.cat((self.near(x), *(far(x) for far in self.far), scene), 1))
        return result


class Decoder(nn.Module):
    """Panoptic-DeepLab's decoder, with a step at stride 16 before those at 8 and 4.

    Args:
        channels: of the backbone's features at strides 4, 8, 16, 32.
        context: channels of the spatial pyramid.
        width: channels of the maps.
        laterals: channels that the backbone's features are reduced to, at strides 16, 8, 4.
    """

    def __init__(
        self, channels: Sequence[int], context: int, width: int, laterals: tuple[int, int, int]
    ) -> None:
        super().__init__()
        self.pyramid = SpatialPyramid(channels[3], context)
        self.laterals = nn.ModuleList(
            conv_bn(c, n, 1) for c, n in zip(channels[2::-1], laterals, strict=True)
        )
        before = (context, width, width)
        self.fuse = nn.ModuleList(separable(b + n, width) for b, n in zip(before, laterals, strict=True))

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Maps at strides 32 (of the pyramid), 16, 8 and 4."""
        maps = [self.pyramid(features[3])]
        for lateral, fuse, skip in zip(self.laterals, self.fuse, features[2::-1], strict=True):
            maps.append(fuse(torch.cat((upsample(maps[-1]), lateral(skip)), 1)))
        return maps


class ScalePrediction(NamedTuple):
    """Of the depth head at one scale."""

    disparity: Tensor
    """[B,1,.,.], 0..1, see ``geometry.disparity``."""
    features: Tensor
    """[B,F,.,.]: what it is made of."""


class Inside(NamedTuple):
    """What the objective asks of a prediction beside its maps."""

    scales: tuple[ScalePrediction, ...]
    """At strides 16, 8, 4 and 2."""
    instance8: Tensor
    """[B,instance,H/8,W/8]: what the flow decoder sees of the instance decoder."""


class DepthHead(nn.Module):
    """Disparity at twice the resolution of the semantic decoder's map, with low-level features (section 3.2).

    Args:
        inputs: channels of the map.
        low: channels of the features at the output's resolution.
    """

    def __init__(self, inputs: int, low: int, width: int) -> None:
        super().__init__()
        self.reduce, self.join = separable(inputs, width), separable(width + low, width // 2)
        self.disparity = nn.Conv2d(width // 2, 1, 1)

    def forward(self, x: Tensor, low: Tensor) -> ScalePrediction:
        features = self.join(torch.cat((upsample(self.reduce(x)), low), 1))
        return ScalePrediction(self.disparity(features).sigmoid(), features)


class MonoDvps(Network[PointsPrediction]):
    """The network, with random weights."""

    name = "mono_dvps"
    mean: Tensor
    std: Tensor

    def __init__(self, config: MonoDvpsConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or MonoDvpsConfig()
        self.backbone = Backbone(config.backbone)
        channels, width = self.backbone.channels, config.semantic_width
        self.semantic = Decoder(channels, config.context_width, width, (128, 64, 32))
        self.instance = Decoder(channels, config.context_width, config.instance_width, (64, 32, 16))
        self.classify = nn.Sequential(separable(width, width), nn.Conv2d(width, config.classes, 1))
        self.center, self.offset = (
            nn.Sequential(separable(config.instance_width, 32), nn.Conv2d(32, n, 1)) for n in (1, 2)
        )
        # From the coarsest to the finest: strides 16, 8, 4, 2. At stride 2 the image stands for features.
        below = (config.context_width, width, width, width)
        low = (channels[2], channels[1], channels[0], 3)
        self.depth = nn.ModuleList(
            DepthHead(b, n, config.head_width) for b, n in zip(below, low, strict=True)
        )
        self.remember = nn.Conv2d(width, config.state_width, 1)
        self.flow = MotionBranch(config.state_width, config.instance_width)
        for part in (self.semantic, self.instance, self.classify, self.center, self.offset, self.depth):
            init_convolutions(part)
        heads = (self.classify[1], self.center[1], self.offset[1], self.flow.head)
        for head in heads:
            assert isinstance(head, nn.Conv2d)
            nn.init.normal_(head.weight, std=0.01)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1), persistent=False)

    @property
    def state_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {"features": (self.config.state_width, "H/8", "W/8"), ROW_MAP: ("H/4", "W/4")}

    def fusion(self, thing_ids: tuple[int, ...], **options: Any) -> PointsFusion:
        config = from_flat(PointsConfig, {"slots": self.config.slots} | options)
        return PointsFusion(thing_ids, config, propagates=True)

    def forward(
        self, image: Tensor, intrinsics: Tensor, state: Mapping[str, Tensor] | None = None
    ) -> PointsPrediction:
        memory = self.initial_state(image) | dict(state or {})
        pixels = (image - self.mean) / self.std
        features = self.backbone(pixels)
        semantic, instance = self.semantic(features), self.instance(features)
        low = (features[2], features[1], features[0], F.avg_pool2d(pixels, 2))
        scales = tuple(head(x, y) for head, x, y in zip(self.depth, semantic, low, strict=True))
        remembered = self.remember(semantic[2])
        motion_px, moving = self.motion_px(remembered, memory["features"], instance[2])
        return PointsPrediction(
            class_logits=self.classify(semantic[3]),
            center_logits=self.center(instance[3]),
            center_offset_px=self.offset(instance[3]),
            log_depth=self.log_depth(F.avg_pool2d(scales[3].disparity, 2), intrinsics),
            motion_px=motion_px,
            moving_logits=moving,
            embedding=unit_length(instance[3]),
            latent=grid_tokens(semantic[0], *LATENT_GRID),
            state={"features": remembered},
            previous_rows=memory[ROW_MAP],
            layers=(Inside(scales, instance[2]),),
        )

    def motion_px(self, current: Tensor, previous: Tensor, instance: Tensor) -> tuple[Tensor, Tensor]:
        """Flow [B,2,H/4,W/4] of a frame to another, input pixels, 0 where that is no frame; and the logit of
        moving over ground [B,1,H/4,W/4].

        Args:
            current, previous: [B,state,H/8,W/8]: what is remembered of the frame and of the other.
            instance: [B,instance,H/8,W/8] of the frame.
        """
        flow_, moving = upsample(self.flow(current, previous, instance)).split((2, 1), 1)
        is_frame = (previous.abs().amax((1, 2, 3), keepdim=True) > 0).to(flow_.dtype)
        return MOTION_UNIT_PX * flow_ * is_frame, moving

    def log_depth(self, disparity: Tensor, intrinsics: Tensor) -> Tensor:
        """ln metres (of the scale of the training) of a disparity [B,1,.,.]; focal lengths [B,4] in input
        pixels."""
        result: Tensor = depth_of_disparity(disparity.float()).log()
        if self.config.canonical_focal_px > 0:
            result = result + torch.log(intrinsics[:, 1] / self.config.canonical_focal_px).view(-1, 1, 1, 1)
        return result


class MonoDvpsObjective(Objective):
    """Classes and instances from labels; depth, pose and flow from neighbouring frames (section 3).

    A frame is looked up in the frames before and after it, as far as its clip has them. Clips need two frames
    at least, three as in the paper; single images teach classes and instances only.
    """

    targets = staticmethod(dense_targets)
    network: MonoDvps
    weights: MonoDvpsWeights
    class_weight: Tensor

    def __init__(self, network: Network, labels: LabelSpace, weights: Any) -> None:
        super().__init__(network, labels, weights)
        self.pose = PoseNetwork(Backbone(weights.pose_backbone, inputs=6))
        self.register_buffer("class_weight", semantic.class_weights(labels), persistent=False)
        self._told: set[str] = set()

    def forward(self, clip: Sequence[FrameBatch], done: float) -> Terms:
        terms, predictions = Terms(), self.frames(clip)
        for p, frame in zip(predictions, clip, strict=True):
            self._labelled_terms(terms, p, frame)
        if len(clip) < 2:
            self._tell(
                "no clip of a batch has two frames: depth and flow learn nothing from it; set data.frames to "
                "3, or data.synthetic"
            )
            return terms
        images = [channels_last(frame.image) for frame in clip]
        # Of each frame but the last: the next one's camera from its own, for the clips that go on.
        next_from = [self.pose(a[: len(b)], b) for a, b in zip(images[:-1], images[1:], strict=True)]
        counted = torch.zeros((), device=images[0].device)
        for t in range(len(clip)):
            counted = counted + self._unlabelled_terms(terms, predictions, clip, next_from, t, done)
        if not counted > 0:
            self._tell(
                "nothing in a batch changes with the motion of the camera: depth learns nothing from it; a "
                "camera that stands still?"
            )
        return terms

    def _tell(self, what: str) -> None:
        if what not in self._told:
            self._told.add(what)
            log.warning("%s (said once)", what)

    def _labelled_terms(self, terms: Terms, p: PointsPrediction, frame: FrameBatch) -> None:
        t: DenseTargets = frame.targets
        classes = semantic.cross_entropy(p.class_logits, t.class_map, self.class_weight)
        terms.add("semantic", classes, frame.sources)
        terms.add("center", instance.center_mse(p.center_logits, t.heat, t.heat_valid), frame.sources)
        terms.add(
            "offset", instance.offset_l1(p.center_offset_px, t.offset_px, t.instance > 0), frame.sources
        )

    def _unlabelled_terms(
        self,
        terms: Terms,
        predictions: Sequence[PointsPrediction],
        clip: Sequence[FrameBatch],
        next_from: Sequence[Tensor],
        t: int,
        done: float,
    ) -> Tensor:
        """Terms of frame ``t`` from its neighbours; returns how many pixels depth learned from."""
        p, frame, w = predictions[t], clip[t], self.weights
        target, rows, sources = frame.targets, len(frame.image), frame.sources
        quarter, half, from_source = self._views(predictions, clip, next_from, t)
        static, mask = torch.ones_like(half[0].seen), None
        if w.masks_motion:
            mask = self._moving(p, target, quarter, from_source, done)
            static = ~_doubled(mask.target)
            half = [v._replace(seen=v.seen & ~_doubled(m)) for v, m in zip(half, mask.sources, strict=True)]
        here = strided_view(frame.image, target.seen, frame.intrinsics, WARP_STRIDE)
        counted = torch.zeros((), device=here.image.device)
        for scale in p.layers[0].scales:
            at_half = _resized(scale.disparity, here.image)
            log_depth = self.network.log_depth(at_half, frame.intrinsics)
            term = photometric(log_depth, here.image, here.seen, static, here.intrinsics, half)
            terms.add("photometric", term, sources)
            counted = counted + term.weight.sum()
            surface = depth.mean_normalised(_resized(scale.disparity, target.image))
            smooth = depth.edge_aware_smoothness(surface, target.image, edge=SMOOTHNESS_EDGE)
            terms.add("smoothness", smooth, sources)
            terms.add(
                "guided_smoothness", panoptic_depth.guided_smoothness(surface, target.segments), sources
            )
            terms.add("guided_edges", panoptic_depth.guided_edges(surface, target.segments), sources)
            segments = _labels_like(target.segments, scale.features)
            terms.add("guided_triplet", panoptic_depth.guided_triplet(scale.features, segments), sources)
        if t > 0:
            before = of_rows(_quarter_view(clip[t - 1]), rows)
            flow_px = p.motion_px / OUTPUT_STRIDE
            error = flow.flow_photometric(flow_px, target.image, target.seen, before.image, before.seen)
            terms.add("flow", error, sources)
        if mask is not None:
            moves = torch.where(target.instance < 0, 255, mask.target.to(torch.uint8))
            terms.add("moving", motion.moving_cross_entropy(p.moving_logits, moves), sources)
        return counted

    def _views(
        self,
        predictions: Sequence[PointsPrediction],
        clip: Sequence[FrameBatch],
        next_from: Sequence[Tensor],
        t: int,
    ) -> tuple[list[View], list[View], list[Tensor]]:
        """The neighbours of frame ``t``, the one before first: at stride 4 and at ``WARP_STRIDE``, both with
        predicted poses; and the flow of each to frame ``t``, pixels of stride 4."""
        rows = len(clip[t].image)
        quarter, half, flows = [], [], []
        for s in (t - 1, t + 1):
            if not 0 <= s < len(clip):
                continue
            pose = inverse_pose(next_from[s][:rows]) if s < t else next_from[t]
            frame = clip[s]
            seen, shared = frame.targets.seen, min(rows, len(frame.image))
            coarse = of_rows(_quarter_view(frame), rows)
            fine = of_rows(strided_view(frame.image, seen, frame.intrinsics, WARP_STRIDE), rows)
            pose = _padded(pose, rows, torch.nan)
            quarter.append(coarse._replace(view_from_camera=pose.detach()))
            half.append(fine._replace(view_from_camera=pose))
            flows.append(_padded(self._flow(predictions[s], predictions[t], shared, s > t), rows, 0))
        return quarter, half, flows

    @torch.no_grad()
    def _flow(self, source: PointsPrediction, target: PointsPrediction, rows: int, later: bool) -> Tensor:
        """[rows,2,h,w], pixels of stride 4: what a later source predicts; of an earlier one, flow run against
        time."""
        if later:
            return source.motion_px[:rows] / OUTPUT_STRIDE
        current, previous = (p.state["features"][:rows] for p in (source, target))
        was_training = self.network.flow.training
        self.network.flow.eval()  # statistics of its normalisation are those of the order of time
        flow_px, _ = self.network.motion_px(current, previous, source.layers[0].instance8[:rows])
        self.network.flow.train(was_training)
        return flow_px / OUTPUT_STRIDE

    @torch.no_grad()
    def _moving(
        self,
        p: PointsPrediction,
        target: DenseTargets,
        views: Sequence[View],
        from_source: Sequence[Tensor],
        done: float,
    ) -> MovingMask:
        """At stride 4 (section 3.3)."""
        rows = target_rows(target.instance)
        carried = [
            carry(rows, target.image, p.log_depth.float(), target.intrinsics, view, flow_px.float())
            for view, flow_px in zip(views, from_source, strict=True)
        ]
        return moving_mask(rows, carried, iou_threshold(done))


def _quarter_view(frame: FrameBatch) -> View:
    """At stride 4, of unknown pose."""
    t: DenseTargets = frame.targets
    return View(t.image, t.seen, t.intrinsics, torch.full_like(t.other.view_from_camera, torch.nan))


def _padded(x: Tensor, rows: int, value: float) -> Tensor:
    """Rows that are missing have this value."""
    missing = rows - len(x)
    return x if missing <= 0 else torch.cat((x, x.new_full((missing, *x.shape[1:]), value)))


def _doubled(mask: Tensor) -> Tensor:
    """[B,h,w] at twice the resolution."""
    return mask.repeat_interleave(2, 1).repeat_interleave(2, 2)


def _resized(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear (the mean, where it becomes smaller by a whole factor) to the size of another map."""
    if x.shape[-1] > like.shape[-1]:
        return F.avg_pool2d(x, x.shape[-1] // like.shape[-1])
    return F.interpolate(x, like.shape[-2:], mode="bilinear", align_corners=False)


def _labels_like(labels: Tensor, like: Tensor) -> Tensor:
    """Labels [B,h,w] at the size of another map, the nearest of each."""
    h, w = like.shape[-2:]
    if h > labels.shape[1]:
        return _doubled(labels)
    step = labels.shape[1] // h
    return labels[:, step // 2 :: step, step // 2 :: step]


@dataclass(frozen=True)
class MonoDvpsWeights:
    """Weights of the terms, those of equations 10 and 11 multiplied out, and their options; 0 switches a term
    off."""

    semantic: float = option(1.0, "Cross-entropy of the classes.", low=0.0)
    center: float = option(200.0, "Squared error of the centre heat-map.", low=0.0)
    offset: float = option(0.01, "Offset to the instance's centre, per pixel of error.", low=0.0)
    photometric: float = option(50.0, "Likeness to the better of the neighbouring frames (Eq. 3).", low=0.0)
    smoothness: float = option(0.05, "Edge-aware smoothness of disparity (Eq. 4).", low=0.0)
    guided_smoothness: float = option(0.5, "Smoothness of disparity within a segment (Eq. 5, 6).", low=0.0)
    guided_edges: float = option(0.005, "Breaks of disparity between segments (Eq. 7).", low=0.0)
    guided_triplet: float = option(5.0, "Depth features apart between segments (Eq. 8).", low=0.0)
    flow: float = option(10.0, "Likeness to the previous frame, seen through flow.", low=0.0)
    moving: float = option(0.3, "Moving over ground, as the mask of moving instances says.", low=0.0)
    masks_motion: bool = option(True, "Leave moving instances out of the likeness (section 3.3).")
    pose_backbone: str = option("resnet18", "Backbone of the pose network.", choices=tuple(BACKBONES))
