# SPDX-License-Identifier: Apache-2.0
"""Quick validation during training: mean IoU, PQ at stride 4, depth and motion error of each set."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from dvps_ros.labels import VOID, LabelSpace
from dvps_ros.metrics.counts import Classes, count_pairs
from dvps_ros.metrics.pq import PanopticQuality
from dvps_ros.networks import RawPrediction
from dvps_ros.panoptic.fuse import fuse
from dvps_ros.types import NO_SEGMENT, OUTPUT_STRIDE, Sample

MAX_DEPTH_M = 80.0


class Scores:
    """Counts of one validation set, added up over frames."""

    def __init__(self, labels: LabelSpace) -> None:
        self.labels = labels
        self.names: tuple[str, ...] = labels.names
        self.pictures: list[str] = []
        self.confusion = np.zeros((0, 0), np.int64)
        self.quality = PanopticQuality(Classes.of(labels))
        self.relative_error, self.depth_pixels = 0.0, 0
        self.motion_error, self.motion_pixels = 0.0, 0

    def update(self, sample: Sample, t: int, prediction: RawPrediction) -> None:
        """Count frame t of the sample; the prediction has one row."""
        size = sample.images.shape[1:3]
        if sample.class_map is not None:
            self._count(
                full_size(prediction.class_logits, size)[0].argmax(0).numpy(),
                sample.class_map[t],
                len(self.labels),
            )
        elif sample.coarse_map is not None:
            to_coarse = np.full(256, len(sample.coarse_groups), np.uint8)
            for g, members in reversed(list(enumerate(sample.coarse_groups))):
                to_coarse[list(members)] = g
            fine = full_size(prediction.class_logits, size)[0].argmax(0).numpy()
            self.names = tuple("/".join(self.labels.names[i] for i in g) for g in sample.coarse_groups)
            self._count(to_coarse[fine], sample.coarse_map[t], len(sample.coarse_groups) + 1)
        if (
            sample.class_map is not None
            and sample.instance_map is not None
            and sample.instance_map[t].min() >= 0
        ):
            self._count_segments(sample.class_map[t], sample.instance_map[t], prediction)
        if sample.depth_m is not None:
            truth = sample.depth_m[t]
            valid = (truth > 0) & (truth <= MAX_DEPTH_M)
            depth = full_size(prediction.log_depth, size)[0, 0].exp().numpy()
            self.relative_error += float((np.abs(depth - truth)[valid] / truth[valid]).sum())
            self.depth_pixels += int(valid.sum())
        if t > 0 and sample.flow_px is not None:
            motion = full_size(prediction.motion_px, size)[0].permute(1, 2, 0).numpy()
            error = np.linalg.norm(motion - sample.flow_px[t], axis=2)
            known = np.isfinite(error)
            self.motion_error += float(error[known].sum())
            self.motion_pixels += int(known.sum())

    def _count_segments(self, classes: np.ndarray, instances: np.ndarray, prediction: RawPrediction) -> None:
        names = (
            "class_logits",
            "center_logits",
            "center_offset_px",
            "log_depth",
            "motion_px",
            "moving_logits",
            "embedding",
        )
        maps = {name: getattr(prediction, name)[0].float().cpu().numpy() for name in names}
        fused = fuse(**maps, thing_ids=self.labels.thing_ids)
        instance = np.where(fused.segment_map == NO_SEGMENT, 0, fused.segment_map.astype(np.int32) + 1)
        # A segment has the class of its majority, as in deployment.
        segment_class = fused.segments[:, 0].astype(np.uint8)
        class_map = np.where(instance > 0, segment_class[np.maximum(instance - 1, 0)], fused.class_map)
        middle = slice(OUTPUT_STRIDE // 2, None, OUTPUT_STRIDE)
        self.quality.update(
            count_pairs(classes[middle, middle], instances[middle, middle], class_map, instance)
        )

    def _count(self, predicted: np.ndarray, truth: np.ndarray, classes: int) -> None:
        if not len(self.confusion):
            self.confusion = np.zeros((classes, classes), np.int64)
        known = truth != VOID
        index = truth[known].astype(np.int64) * classes + predicted[known]
        self.confusion += np.bincount(index, minlength=classes * classes).reshape(classes, classes)

    def iou(self) -> np.ndarray:
        """float [classes]: intersection over union; NaN for classes that are not in the truth."""
        hit = np.diag(self.confusion).astype(np.float64)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hit
        return np.where(self.confusion.sum(1) > 0, hit / np.maximum(union, 1), np.nan)

    def compute(self) -> dict[str, float]:
        """``miou`` and ``pq`` (classes present), ``abs_rel`` (not scaled by the truth), ``motion_px``."""
        result = {}
        if len(self.confusion):
            result["miou"] = float(np.nanmean(self.iou()))
        quality = self.quality.compute()
        if quality["all"] is not None:
            result |= {"pq": quality["all"]}
        if quality["things"] is not None:
            result |= {"pq_things": quality["things"]}
        if self.depth_pixels:
            result["abs_rel"] = self.relative_error / self.depth_pixels
        if self.motion_pixels:
            result["motion_px"] = self.motion_error / self.motion_pixels
        return result


def full_size(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Stride-4 maps at image size, bilinear with pixel centres kept."""
    return F.interpolate(maps.float(), size=size, mode="bilinear", align_corners=False)


def write_picture(path: Path, sample: Sample, t: int, prediction: RawPrediction, labels: LabelSpace) -> None:
    """Image, classes, depth, centres and motion of one frame, side by side, as JPEG."""
    size = sample.images.shape[1:3]
    image = sample.images[t]
    classes = labels.palette[full_size(prediction.class_logits, size)[0].argmax(0).numpy()]
    nearness = 1 / full_size(prediction.log_depth, size)[0, 0].exp().numpy()
    depth = cv2.applyColorMap(
        (255 * np.clip(nearness * 4, 0, 1) ** 0.5).astype(np.uint8), cv2.COLORMAP_INFERNO
    )[..., ::-1]
    heat = full_size(prediction.center_logits.sigmoid(), size)[0, 0].numpy()
    centers = np.maximum(image // 2, (heat[..., None] * np.array([255, 255, 0])).astype(np.uint8))
    motion = full_size(prediction.motion_px, size)[0].numpy()
    hsv = np.zeros((*size, 3), np.uint8)
    hsv[..., 0] = (np.arctan2(motion[1], motion[0]) / np.pi * 90 + 90).astype(np.uint8)
    hsv[..., 1] = 255
    hsv[..., 2] = np.clip(np.hypot(*motion) * 12, 0, 255).astype(np.uint8)
    tiles = [
        image,
        cv2.addWeighted(image, 0.4, classes, 0.6, 0),
        depth,
        centers,
        cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB),
    ]
    truth = sample.class_map if sample.class_map is not None else None
    tiles.append(np.zeros_like(image) if truth is None else labels.palette[truth[t]])
    rows = [np.hstack(tiles[i : i + 3]) for i in (0, 3)]
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.vstack(rows)[..., ::-1])
