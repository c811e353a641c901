# SPDX-License-Identifier: Apache-2.0
"""Augmentation of a :class:`Sample`: image, truth and intrinsics change together.

A crop box is given in whole source pixels and resized to the wanted size, so pixel centres map
exactly (u' = (u - x + 0.5) s - 0.5) and z-depth stays metres while the focal length scales.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import cv2
import numpy as np
from scipy import fft

from dvps_ros.config import option
from dvps_ros.errors import InputError
from dvps_ros.labels import VOID
from dvps_ros.types import Sample


@dataclass(frozen=True)
class Box:
    """A region of the source image in pixels; it may reach beyond the image (filled with "no truth")."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class AugmentConfig:
    """What a training crop looks like."""

    height: int = option(192, "Height of the crop, pixels.", low=32, high=4096)
    width: int = option(384, "Width of the crop, pixels.", low=32, high=4096)
    min_zoom: float = option(
        1.0, "Least zoom; 1 shows the largest region of this shape that fits.", low=0.1, high=10.0
    )
    max_zoom: float = option(2.2, "Largest zoom.", low=0.1, high=10.0)
    large: float = option(
        0.5, "Share of batches that show nearly the whole view at the sizes of deployment.", low=0.0, high=1.0
    )
    aspect: float = option(
        0.08, "Independent stretch of width and height, 0.1 is up to 10 percent.", low=0.0, high=0.5
    )
    focus: float = option(
        0.5, "Share of crops that are placed on a pixel of a rare class, where the sample has one.",
        low=0.0, high=1.0,
    )  # fmt: skip
    flip: float = option(0.5, "Share of mirrored samples.", low=0.0, high=1.0)
    color: float = option(
        1.0, "Strength of the photometric changes; 0 leaves the pixels alone.", low=0.0, high=2.0
    )
    texture: float = option(
        0.0,
        "Share of samples with random amplitudes of their spectrum: texture where renderings are smooth.",
        low=0.0,
        high=1.0,
    )
    camera: float = option(
        0.0,
        "Share of samples that are taken again by another camera: exposure, vignetting, blur of focus or "
        "motion, sharpening, noise that grows with light, JPEG.",
        low=0.0,
        high=1.0,
    )


def crop_resize(sample: Sample, box: Box, width: int, height: int) -> Sample:
    """The region ``box`` of every frame, resized to width x height.

    Images are filtered (area when shrinking, linear when growing), truth takes the nearest pixel.
    Outside the source: image 0, class void, instance -1, depth 0, flows NaN, moving 255, seen False.

    Raises:
        InputError: the box is empty.
    """
    if box.width <= 0 or box.height <= 0:
        raise InputError(f"{sample.source}: crop box must have a positive size, got {box.width}x{box.height}")
    source_h, source_w = sample.images.shape[1:3]
    sx, sy = width / box.width, height / box.height
    u = box.x + np.floor((np.arange(width) + 0.5) / sx).astype(np.int64)
    v = box.y + np.floor((np.arange(height) + 0.5) / sy).astype(np.int64)
    inside_u, inside_v = (u >= 0) & (u < source_w), (v >= 0) & (v < source_h)
    outside = ~(inside_v[:, None] & inside_u[None, :])
    padded = bool(outside.any())
    rows, columns = np.clip(v, 0, source_h - 1), np.clip(u, 0, source_w - 1)

    def nearest(array: np.ndarray | None, fill: float) -> np.ndarray | None:
        if array is None:
            return None
        out = array[:, rows][:, :, columns]
        if padded:
            out[:, outside] = fill
        return out

    flow = nearest(sample.flow_px, np.nan)
    if flow is not None:
        flow = flow * np.array([sx, sy], np.float32)
    seen = sample.seen
    if padded and seen is None:
        seen = np.ones(sample.images.shape[:3], bool)
    k = sample.intrinsics
    intrinsics = np.stack(
        [
            k[:, 0] * sx,
            k[:, 1] * sy,
            (k[:, 2] - box.x + 0.5) * sx - 0.5,
            (k[:, 3] - box.y + 0.5) * sy - 0.5,
        ],
        axis=1,
    ).astype(np.float32)
    return replace(
        sample,
        images=np.stack([_crop_image(image, box, width, height) for image in sample.images]),
        intrinsics=intrinsics,
        class_map=nearest(sample.class_map, VOID),
        coarse_map=nearest(sample.coarse_map, VOID),
        instance_map=nearest(sample.instance_map, -1),
        depth_m=nearest(sample.depth_m, 0),
        flow_px=flow,
        scene_flow_m=nearest(sample.scene_flow_m, np.nan),
        moving=nearest(sample.moving, 255),
        seen=nearest(seen, False),
    )


def _crop_image(image: np.ndarray, box: Box, width: int, height: int) -> np.ndarray:
    h, w = image.shape[:2]
    x0, y0 = max(box.x, 0), max(box.y, 0)
    x1, y1 = min(box.x + box.width, w), min(box.y + box.height, h)
    region = image[y0:y1, x0:x1]
    if region.shape[:2] != (box.height, box.width):
        full = np.zeros((box.height, box.width, 3), np.uint8)
        full[y0 - box.y : y1 - box.y, x0 - box.x : x1 - box.x] = region
        region = full
    if (width, height) == (box.width, box.height):
        return region.copy()
    shrinks = width < box.width and height < box.height
    return cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def mirror(sample: Sample) -> Sample:
    """The clip seen in a mirror: u' = W - 1 - u, x of the flows and steering change sign, poses are mirrored.

    With S = diag(-1, 1, 1, 1) the pose becomes S T S, again a rigid motion.
    """

    def flip(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else np.ascontiguousarray(array[:, :, ::-1])

    flow, scene_flow = flip(sample.flow_px), flip(sample.scene_flow_m)
    for field in (flow, scene_flow):
        if field is not None:
            field[..., 0] *= -1
    intrinsics = sample.intrinsics.copy()
    intrinsics[:, 2] = sample.images.shape[2] - 1 - intrinsics[:, 2]
    poses = sample.world_from_camera
    if poses is not None:
        s = np.diag([-1.0, 1.0, 1.0, 1.0])
        poses = s @ poses @ s
    return replace(
        sample,
        images=np.ascontiguousarray(sample.images[:, :, ::-1]),
        intrinsics=intrinsics,
        class_map=flip(sample.class_map),
        coarse_map=flip(sample.coarse_map),
        instance_map=flip(sample.instance_map),
        depth_m=flip(sample.depth_m),
        flow_px=flow,
        scene_flow_m=scene_flow,
        moving=flip(sample.moving),
        seen=flip(sample.seen),
        world_from_camera=poses,
        steering_rad=None if sample.steering_rad is None else -sample.steering_rad,
    )


def recolor(images: np.ndarray, rng: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Brightness, contrast, gamma, white balance, saturation, blur and noise, equal for all frames.

    Args:
        images: uint8 [T,H,W,3]; not changed.
        strength: scales every range; 0 returns the images as they are.
    """
    if strength == 0:
        return images
    x = np.linspace(0, 1, 256, dtype=np.float32)[:, None]
    gamma = math.exp(rng.normal(0, 0.25) * strength)
    contrast = math.exp(rng.normal(0, 0.2) * strength)
    balance = np.exp(rng.normal(0, 0.08, 3) * strength)
    offset = rng.normal(0, 0.06) * strength
    curve = ((x**gamma - 0.5) * contrast + 0.5 + offset) * balance
    table = np.clip(curve * 255 + 0.5, 0, 255).astype(np.uint8)[None]
    saturation = float(np.clip(1 + rng.normal(0, 0.3) * strength, 0, 2))
    sigma = rng.uniform(0.3, 1.5) * strength if rng.random() < 0.25 else 0.0
    noise = rng.uniform(2, 10) * strength if rng.random() < 0.35 else 0.0
    # OpenCV's own noise is fast, and repeatable once its generator is set.
    cv2.setRNGSeed(int(rng.integers(2**31)))
    out = np.empty_like(images)
    for t, image in enumerate(images):
        changed = cv2.LUT(image, table)
        gray = cv2.cvtColor(cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        changed = cv2.addWeighted(changed, saturation, gray, 1 - saturation, 0)
        if sigma:
            changed = cv2.GaussianBlur(changed, (0, 0), sigma)
        if noise:
            # One number would stand for the first channel alone.
            grain = cv2.randn(np.empty(changed.shape, np.int16), np.zeros(3), np.full(3, noise))
            changed = cv2.add(changed, grain, dtype=cv2.CV_8U)
        out[t] = changed
    return out


SPECTRUM_SPREAD, SPECTRUM_SPREAD_FINEST = 0.5, 1.0
"""Standard deviation of the factor on an amplitude: the first for a constant, both together for the finest
detail along the longest diagonal of the spectrum."""


def roughen(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each amplitude of the spectrum times a random factor, the finer the wilder; equal for all frames.

    A network that has seen this looks less at the too clean surfaces of rendered images (PASTA, Chattopadhyay
    et al. 2023, eq. 4 with alpha 1, k 2, beta 0.5). The mean colour stays.

    Args:
        images: uint8 [T,H,W,3]; not changed.
    """
    h, w = images.shape[1:3]
    y, x = fft.fftfreq(h)[:, None] * h, fft.rfftfreq(w)[None] * w
    share = np.hypot(y, x) / (np.hypot(h, w) / 2)
    spread = SPECTRUM_SPREAD_FINEST * share**2 + SPECTRUM_SPREAD
    factor = 1 + spread * rng.standard_normal(spread.shape)
    factor[0, 0] = 1
    spectrum = fft.rfft2(images.astype(np.float32), axes=(1, 2)) * factor[None, ..., None].astype(np.float32)
    rough = fft.irfft2(spectrum, s=(h, w), axes=(1, 2))
    return np.clip(rough + 0.5, 0, 255).astype(np.uint8)


GAMMA = 2.2


class Lens(NamedTuple):
    """A camera that takes pictures again, see :func:`retake`."""

    exposure: float
    """Factor on linear light."""
    vignette: float
    """Light that the corners lack, 0..1; it falls with the square of the distance from the middle."""
    focus_px: float
    """Sigma of a Gaussian blur; 0 is sharp."""
    motion_px: tuple[float, float]
    """Way of the picture while the shutter is open, x and y; (0, 0) stands still."""
    sharpening: float
    """Share of the detail finer than a pixel or two that is added once more."""
    read_noise: float
    """Standard deviation where it is dark, in grey levels."""
    shot_noise: float
    """That of white, in grey levels; it grows with the root of light."""
    jpeg: int
    """Quality; 100 does not compress."""


def draw_lens(rng: np.random.Generator) -> Lens:
    """A camera that is rarely good in every respect."""

    def sometimes(share: float, low: float, high: float) -> float:
        return float(rng.uniform(low, high)) if rng.random() < share else 0.0

    focus, way, angle = sometimes(0.3, 0.3, 1.4), sometimes(0.25, 2.0, 8.0), rng.uniform(0, math.pi)
    return Lens(
        exposure=float(2 ** np.clip(rng.normal(0, 0.5), -1.5, 1.5)),
        vignette=sometimes(0.5, 0.1, 0.6),
        focus_px=focus,
        motion_px=(way * math.cos(angle), way * math.sin(angle)),
        sharpening=sometimes(0.4, 0.2, 1.0),
        read_noise=sometimes(0.6, 0.5, 4.0),
        shot_noise=sometimes(0.6, 1.0, 8.0),
        jpeg=int(rng.integers(35, 96)) if rng.random() < 0.7 else 100,
    )


def retake(images: np.ndarray, lens: Lens, seed: int) -> np.ndarray:
    """Pictures as another camera would have taken them; all frames by the same one, each with its own noise.

    Args:
        images: uint8 [T,H,W,3]; not changed.
        seed: of the noise.
    """
    height, width = images.shape[1:3]
    y, x = np.mgrid[:height, :width].astype(np.float32)
    # 1 at the corners' outer edges.
    radius2 = ((x + 0.5) / width * 2 - 1) ** 2 / 2 + ((y + 0.5) / height * 2 - 1) ** 2 / 2
    gain = (lens.exposure * (1 - lens.vignette * radius2))[..., None].astype(np.float32)
    light = (np.arange(256, dtype=np.float32) / 255) ** GAMMA
    kernel = _streak(*lens.motion_px)
    out = np.empty_like(images)
    cv2.setRNGSeed(seed % 2**31)
    for t, image in enumerate(images):
        linear = light[image] * gain
        if kernel is not None:
            linear = cv2.filter2D(linear, -1, kernel, borderType=cv2.BORDER_REPLICATE)
        if lens.focus_px > 0:
            linear = cv2.GaussianBlur(linear, (0, 0), lens.focus_px, borderType=cv2.BORDER_REPLICATE)
        grey = 255 * np.minimum(linear, 1) ** np.float32(1 / GAMMA)
        if lens.sharpening > 0:
            grey = grey + lens.sharpening * (grey - cv2.GaussianBlur(grey, (0, 0), 1.0))
        if lens.read_noise > 0 or lens.shot_noise > 0:
            grain = cv2.randn(np.empty_like(grey), np.zeros(3), np.ones(3))
            grey = grey + grain * (lens.read_noise + lens.shot_noise * np.sqrt(np.clip(grey, 0, 255) / 255))
        out[t] = _compressed(np.clip(grey + 0.5, 0, 255).astype(np.uint8), lens.jpeg)
    return out


def _streak(x_px: float, y_px: float) -> np.ndarray | None:
    """A kernel that averages along a line of this length around its middle; None for less than a pixel."""
    length = math.hypot(x_px, y_px)
    if length < 1:
        return None
    reach = math.ceil(length / 2)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    for k in np.linspace(-0.5, 0.5, 4 * math.ceil(length) + 1):
        kernel[round(reach + k * y_px), round(reach + k * x_px)] += 1
    return kernel / kernel.sum()


def _compressed(image: np.ndarray, quality: int) -> np.ndarray:
    """An RGB image through JPEG; as it is at quality 100."""
    if quality == 100:
        return image
    _, code = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(code, cv2.IMREAD_COLOR)
    assert decoded is not None
    return decoded[..., ::-1]


def random_box(rng: np.random.Generator, source_w: int, source_h: int, config: AugmentConfig) -> Box:
    """A crop box of the wanted shape: zoom log-uniform, aspect jittered, place uniform."""
    fit = min(source_w / config.width, source_h / config.height)
    zoom = math.exp(rng.uniform(math.log(config.min_zoom), math.log(config.max_zoom)))
    stretch_x, stretch_y = np.exp(rng.uniform(-config.aspect, config.aspect, 2))
    w = max(1, round(config.width * fit / zoom * stretch_x))
    h = max(1, round(config.height * fit / zoom * stretch_y))
    x_range, y_range = source_w - w, source_h - h
    # A box larger than the image hangs over it on either side (negative range).
    x = int(rng.integers(min(x_range, 0), max(x_range, 0) + 1))
    y = int(rng.integers(min(y_range, 0), max(y_range, 0) + 1))
    return Box(x, y, w, h)


def focus_box(
    box: Box, sample: Sample, rng: np.random.Generator, rare: Sequence[int], *, tries: int = 4000
) -> Box:
    """The box moved, inside the image, so that it shows a pixel of a rare class of the last frame.

    The class is drawn first, so a bus counts as much as all the pedestrians. Coarse labels count when all
    their classes are rare. Without a rare pixel among ``tries`` random ones the box stays.

    Args:
        rare: class ids.
    """
    h, w = sample.images.shape[1:3]
    labels = sample.class_map if sample.class_map is not None else sample.coarse_map
    if labels is None or box.width >= w or box.height >= h:
        return box
    if sample.class_map is None:
        rare = [g for g, members in enumerate(sample.coarse_groups) if set(members) <= set(rare)]
    vs, us = rng.integers(h, size=tries), rng.integers(w, size=tries)
    seen = labels[-1, vs, us]
    present = np.intersect1d(seen, rare)
    if not len(present):
        return box
    k = rng.choice(np.flatnonzero(seen == rng.choice(present)))
    x = int(us[k]) - int(rng.integers(box.width))
    y = int(vs[k]) - int(rng.integers(box.height))
    return replace(box, x=min(max(x, 0), w - box.width), y=min(max(y, 0), h - box.height))


def augment(
    sample: Sample, rng: np.random.Generator, config: AugmentConfig, rare: Sequence[int] = ()
) -> Sample:
    """A random crop, mirror, texture, recolouring and camera of the clip; its size is that of ``config``.

    Args:
        rare: class ids on which crops are placed (``config.focus``).
    """
    h, w = sample.images.shape[1:3]
    box = random_box(rng, w, h, config)
    if rng.random() < config.focus:
        box = focus_box(box, sample, rng, rare)
    sample = crop_resize(sample, box, config.width, config.height)
    if rng.random() < config.flip:
        sample = mirror(sample)
    images = roughen(sample.images, rng) if rng.random() < config.texture else sample.images
    images = recolor(images, rng, config.color)
    if config.camera and rng.random() < config.camera:
        images = retake(images, draw_lens(rng), int(rng.integers(2**31)))
    return replace(sample, images=images)


def pan_still(sample: Sample, rng: np.random.Generator, *, shift: float = 0.04, zoom: float = 0.04) -> Sample:
    """A two-frame clip from one image: the previous frame is a shifted and zoomed view of it.

    The offset to the previous frame is known exactly; it teaches motion on real texture.

    Args:
        sample: one frame (T = 1).
        shift: largest shift as a share of the width.
        zoom: largest relative change of size.

    Raises:
        InputError: the sample has more than one frame.
    """
    if len(sample.images) != 1:
        raise InputError(f"{sample.source}: expected one frame, got {len(sample.images)}")
    h, w = sample.images.shape[1:3]
    s = 1 + rng.uniform(-zoom, zoom)
    box_w, box_h = max(1, round(w / s)), max(1, round(h / s))
    x = round((w - box_w) / 2 + rng.uniform(-shift, shift) * w)
    y = round((h - box_h) / 2 + rng.uniform(-shift, shift) * w / 4)
    previous = crop_resize(sample, Box(x, y, box_w, box_h), w, h)
    u, v = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    flow = np.full((2, h, w, 2), np.nan, np.float32)
    flow[1, ..., 0] = (u - x + 0.5) * (w / box_w) - 0.5 - u
    flow[1, ..., 1] = (v - y + 0.5) * (h / box_h) - 0.5 - v

    seen = previous.seen
    if seen is not None:
        seen = np.concatenate([seen, np.ones_like(seen) if sample.seen is None else sample.seen])

    def pair(name: str) -> np.ndarray | None:
        now = getattr(sample, name)
        return None if now is None else np.concatenate([getattr(previous, name), now])

    return replace(
        sample,
        images=np.concatenate([previous.images, sample.images]),
        intrinsics=np.concatenate([previous.intrinsics, sample.intrinsics]),
        class_map=pair("class_map"),
        coarse_map=pair("coarse_map"),
        instance_map=pair("instance_map"),
        depth_m=pair("depth_m"),
        flow_px=flow,
        scene_flow_m=None,
        moving=None,
        seen=seen,
        world_from_camera=None,
        steering_rad=None,
        speed_mps=None,
        stamps_ns=None,
    )
