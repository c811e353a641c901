# SPDX-License-Identifier: Apache-2.0
"""What every network is, predicts and learns by: the two ends that training and export hold it by."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from dvps_ros.contract import state_size
from dvps_ros.labels import LabelSpace
from dvps_ros.losses.targets import FrameBatch
from dvps_ros.losses.term import Terms
from dvps_ros.types import Sample

SIZE_STEP = 32
"""Input sizes are multiples of this, the deepest stride of the networks."""


@dataclass(frozen=True)
class PointsPrediction:
    """Dense maps at stride 4, from which fusion groups pixels around centres; h, w = H/4, W/4; the cell (i,
    j) is centred on the input pixel (u, v) = (4 j + 1.5, 4 i + 1.5)."""

    class_logits: Tensor
    """[B,C,h,w]: softmax over C gives class probabilities."""
    center_logits: Tensor
    """[B,1,h,w]: sigmoid gives the probability that an instance is centred here."""
    center_offset_px: Tensor
    """[B,2,h,w]: (dx, dy) from the pixel to the centre of its instance, input pixels."""
    log_depth: Tensor
    """[B,1,h,w]: ln of z-depth in metres, the camera's focal length already applied."""
    motion_px: Tensor
    """[B,2,h,w]: (dx, dy) to the same point in the previous frame, input pixels; 0 without one."""
    moving_logits: Tensor
    """[B,1,h,w]: sigmoid gives the probability that the pixel moves over ground."""
    embedding: Tensor
    """[B,D,h,w]: identity vector, unit length."""
    latent: Tensor
    """[B,T,F]: tokens of the scene, the same T for every input size."""
    state: dict[str, Tensor]
    """What the next frame needs of this one, by the names of ``Network.state_shapes``."""
    depth_features: Tensor | None = None
    """[B,F,h,w]: what the depth head reads, for losses; None where a network has no such features."""
    previous_rows: Tensor | None = None
    """[B,h,w]: row + 1 of the segment of each cell in the previous frame, 0 none; for propagation by motion,
    see ``fusion.points``."""
    layers: tuple[Any, ...] = ()
    """What heads at other scales predict, for deep supervision; the network's own records."""


@dataclass(frozen=True)
class MasksPrediction:
    """Q queries, each a class, a mask and an identity, with depth for the whole image or for each of them; h,
    w as in :class:`PointsPrediction`. Region networks paste their boxes into masks and end here too."""

    class_logits: Tensor
    """[B,Q,C+1]: softmax over classes and, last, "no object"."""
    mask_logits: Tensor
    """[B,Q,h,w]: sigmoid gives the probability that the pixel is the query's."""
    depth_m: Tensor
    """[B,Q,h,w] z-depth in metres that holds on the query's mask, or [B,1,h,w] of every pixel."""
    embedding: Tensor
    """[B,Q,D]: identity vectors, of any length above 0."""
    latent: Tensor
    """[B,T,F]: tokens of the scene, the same T for every input size."""
    backup_depth_m: Tensor | None = None
    """[B,1,h,w]: depth where no query is sure of the pixel; needed where ``depth_m`` is by query."""
    motion_px: Tensor | None = None
    """[B,2,h,w]: (dx, dy) to the same point in the previous frame, input pixels; None if it is not
    predicted."""
    moving_logits: Tensor | None = None
    """[B,1,h,w]: sigmoid gives the probability that the pixel moves over ground; None if it is not
    predicted."""
    mask_vectors: Tensor | None = None
    """[B,Q,E]: with ``pixel_vectors``, whose scalar products are the mask logits; for propagation to the next
    frame, see ``fusion.masks``."""
    pixel_vectors: Tensor | None = None
    """[B,E,h,w]."""
    previous_vectors: Tensor | None = None
    """[B,K,E]: ``mask_vectors`` of the previous frame's rows; zeros for rows not in use, and without such a
    frame."""
    state: dict[str, Tensor] = field(default_factory=dict)
    """What the next frame needs of this one and fusion does not give, by the names of
    ``Network.state_shapes``."""
    depth_features: Tensor | None = None
    """[B,F,h,w]: what depth is made of, for losses."""
    layers: tuple[Any, ...] = ()
    """What earlier decoder layers predict, for deep supervision; the network's own records."""


P = TypeVar("P", PointsPrediction, MasksPrediction)


class Network(nn.Module, ABC, Generic[P]):
    """A network that trains, validates and exports like all others: what is deployed."""

    name: str
    """Its key in ``NETWORKS``."""
    config: Any
    """Its frozen configuration; ``classes`` is the size of the label space."""

    @property
    @abstractmethod
    def state_shapes(self) -> Mapping[str, tuple[int | str, ...]]:
        """Name -> shape of the memory between frames, without the batch axis; ``"H/8"`` stands for an eighth
        of the input's height. All zeros mean "no previous frame"; rows of segments are stored plus one."""

    @abstractmethod
    def forward(self, image: Tensor, intrinsics: Tensor, state: Mapping[str, Tensor] | None = None) -> P:
        """One frame.

        Args:
            image: [B,3,H,W] RGB 0..255, H and W multiples of SIZE_STEP.
            intrinsics: [B,4] fx, fy, cx, cy in pixels of this image.
            state: memory of the previous frame; None or zeros for a first frame (single items of a batch may
                be zeroed).
        """

    @abstractmethod
    def fusion(self, thing_ids: tuple[int, ...], **options: Any) -> nn.Module:
        """The module that makes the outputs of the deployed graph (``dvps_ros.contract``) of a prediction.

        Args:
            options: of the kind of fusion, such as ``min_score``; what is not given has its default.

        Raises:
            ConfigError: an option that this fusion does not have, or out of range.
        """

    def initial_state(self, image: Tensor) -> dict[str, Tensor]:
        """The memory before the first frame: zeros, which mean "no previous frame"."""
        b, _, h, w = image.shape
        return {
            name: image.new_zeros(b, *(state_size(entry, h, w) for entry in shape))
            for name, shape in self.state_shapes.items()
        }


class Objective(nn.Module, ABC):
    """How a network learns: the only owner of what training needs beside the network itself. Auxiliary
    networks are its children: checkpointed and averaged with the network, never exported.

    Args:
        network: to be trained; a child, too.
        labels: the classes.
        weights: the terms' weights and options, an object of the design's ``weights``.
    """

    def __init__(self, network: Network, labels: LabelSpace, weights: Any) -> None:
        super().__init__()
        self.network, self.labels, self.weights = network, labels, weights

    @staticmethod
    @abstractmethod
    def targets(samples: Sequence[Sample], t: int, labels: LabelSpace) -> Any:
        """Truth of time step ``t`` of a batch of clips, a record of tensors; runs in the processes that load
        data. Made of functions of ``losses.targets``."""

    @abstractmethod
    def forward(self, clip: Sequence[FrameBatch], done: float) -> Terms:
        """The loss terms of a batch of clips, unweighted.

        Args:
            clip: its time steps; a later one holds the first rows of the earlier ones (the longer clips).
            done: share of the training that is done, 0..1, for what is raised step by step.
        """

    def frames(self, clip: Sequence[FrameBatch]) -> list[Any]:
        """The network's predictions of each time step, each with the memory of the one before."""
        predictions: list[Any] = []
        state = None
        for frame in clip:
            rows = len(frame.image)
            state = None if state is None else {k: v[:rows] for k, v in state.items()}
            prediction = self.network(channels_last(frame.image), frame.intrinsics, state)
            predictions.append(prediction)
            state = prediction.state
        return predictions


def channels_last(image: Tensor) -> Tensor:
    """uint8 [B,3,H,W] as float32, channels last in memory."""
    return image.float().contiguous(memory_format=torch.channels_last)


class Design(NamedTuple):
    """A network with all that belongs to it."""

    network: type[Network]
    config: type
    """One ``option()`` a size."""
    objective: type[Objective]
    weights: type
    """One ``option()`` a loss term, its weight, by the term's name; and the terms' own options."""
