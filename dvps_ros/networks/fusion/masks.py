# SPDX-License-Identifier: Apache-2.0
"""Queries with masks to segments (Cheng et al. 2022, Mask2Former's panoptic inference), in operators that
every runtime has.

A query is sure when the probability of its class, "no object" aside, is above ``min_score``. A pixel is won
by the sure query whose score x mask probability is largest. A query is kept where enough of its mask (the
pixels where it is above one half) was won by itself; the won pixels of its mask are its segment. (Mask2Former
also counts pixels that it won outside of its mask, which can make up for hidden ones.) Kept queries of things
become rows, the surest first; those of stuff only name their pixels' class; pixels of no kept query are void.

Depth by query (DeepDPS, He et al. 2023, section 3.4): a segment's pixels take the depth of their query, all
others the backup.

Where the network gives mask and pixel vectors, the rows of a frame are found again in the next one: their
mask vectors, kept in the memory ``rows``, are multiplied with its pixel vectors. Their IoU with its rows is
``overlap``.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.config import option
from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, OUTPUTS, Column
from dvps_ros.labels import VOID
from dvps_ros.networks.fusion.tables import DEPTH_RANGE_M, sums
from dvps_ros.networks.protocol import MasksPrediction

ROWS = "rows"
"""Memory of networks whose rows are propagated: shape (slots, length of a mask vector)."""
LEAST_CLAIM = 1e-6
"""Below this a pixel is near no row; runtimes flush numbers that are smaller still to zero, or do not."""
SHARPNESS = 4
"""Exponent of the soft maximum over the queries of a class."""


@dataclass(frozen=True)
class MasksConfig:
    """What makes a segment of a query."""

    slots: int = option(64, "Rows of the segment table, K.", low=1, high=254)
    min_score: float = option(0.8, "Least probability of a query's class.", low=0.0, high=1.0)
    min_visible: float = option(
        0.8, "Least share of a query's mask that no surer query hides.", low=0.0, high=1.0
    )


class MasksFusion(nn.Module):
    """Makes segments of a prediction's queries.

    Args:
        thing_ids: classes that are countable.
        classes: how many there are.
        propagates: whether predictions have mask, pixel and previous vectors.

    Attributes:
        outputs: names of what :meth:`forward` gives, in the contract's order (the memory aside).
    """

    is_thing: Tensor

    def __init__(
        self,
        thing_ids: tuple[int, ...],
        classes: int,
        config: MasksConfig | None = None,
        *,
        propagates: bool = False,
    ) -> None:
        super().__init__()
        self.config = config or MasksConfig()
        self.propagates = propagates
        self.outputs = tuple(name for name in OUTPUTS if propagates or name != "overlap")
        is_thing = torch.zeros(classes)
        is_thing[list(thing_ids)] = 1
        self.register_buffer("is_thing", is_thing, persistent=False)

    def forward(self, p: MasksPrediction) -> dict[str, Tensor]:
        """The outputs of ``dvps_ros.contract`` by name, each with leading batch B; and
        ``next_state_rows``."""
        b, q, h, w = p.mask_logits.shape
        probability = p.class_logits.float().softmax(2)[..., :-1]
        score, class_id = probability.max(2)
        mask = p.mask_logits.float().sigmoid().flatten(2)
        sure = (score > self.config.min_score).float()
        evidence = mask * (score * sure)[..., None]
        best, winner = evidence.max(1)
        own = (mask >= 0.5).float()
        queries = torch.arange(q, device=mask.device)
        visible = (own * (winner[:, None] == queries[:, None]).float()).sum(2)
        kept = sure * (visible > 0).float() * (visible >= self.config.min_visible * own.sum(2)).float()
        inside = own.gather(1, winner[:, None])[:, 0] * kept.gather(1, winner) > 0

        order, used = self._rows(score * kept * self.is_thing[class_id])
        # Each query's row, by comparison: no runtime has to scatter.
        hit = (order[:, :, None] == queries) & (used[:, :, None] > 0)
        row_of_query = torch.where(hit.any(1), hit.float().argmax(1), NO_SEGMENT)
        row = torch.where(inside, row_of_query.gather(1, winner), NO_SEGMENT)
        claims = evidence.gather(1, order[:, :, None].expand(-1, -1, h * w)) * used[:, :, None]
        claim, nearest = claims.max(1)
        nearest = torch.where(row < NO_SEGMENT, row, torch.where(claim > LEAST_CLAIM, nearest, NO_SEGMENT))

        depth = self._depth(p, winner, inside)
        segments = self._table(
            p, row, depth, class_id.gather(1, order), score.gather(1, order) * used, (h, w)
        )
        used = (segments[..., Column.SCORE] > 0).float()
        identity = p.embedding.float().gather(1, order[:, :, None].expand(-1, -1, p.embedding.shape[2]))
        identity = identity * torch.rsqrt((identity * identity).sum(2, keepdim=True) + 1e-6)
        byte = torch.uint8
        outputs = {
            "class_map": torch.where(inside, class_id.gather(1, winner), VOID).reshape(b, h, w).to(byte),
            "segment_map": row.reshape(b, h, w).to(byte),
            "depth_m": depth.reshape(b, h, w),
            "segments": segments,
            "embedding": identity * used[..., None],
            "confidence": (best.clamp(0, 1) * 255 + 0.5).reshape(b, h, w).to(byte),
            "class_logits": self._class_logits(evidence, class_id).reshape(b, -1, h, w),
            "nearest": nearest.reshape(b, h, w).to(byte),
            "latent": p.latent.float(),
        }
        if self.propagates:
            outputs |= self._propagate(p, row, order, used)
        return outputs

    def _rows(self, rank: Tensor) -> tuple[Tensor, Tensor]:
        """Query [B,K] of each row, by falling rank [B,Q], and 1 for rows in use."""
        count = min(self.config.slots, rank.shape[1])
        best, order = rank.topk(count, 1)
        padding = (0, self.config.slots - count)
        return F.pad(order, padding), (F.pad(best, padding) > 0).float()

    def _depth(self, p: MasksPrediction, winner: Tensor, inside: Tensor) -> Tensor:
        """[B,N], metres."""
        depth = p.depth_m.float().flatten(2)
        if depth.shape[1] == 1:
            return depth[:, 0].clamp(*DEPTH_RANGE_M)
        assert p.backup_depth_m is not None, "depth by query needs a backup"
        backup = p.backup_depth_m.float().flatten(1)
        return torch.where(inside, depth.gather(1, winner[:, None])[:, 0], backup).clamp(*DEPTH_RANGE_M)

    def _table(
        self,
        p: MasksPrediction,
        row: Tensor,
        depth: Tensor,
        class_id: Tensor,
        score: Tensor,
        size: tuple[int, int],
    ) -> Tensor:
        """``segments`` [B,K,9]."""
        (b, cells), (h, w) = row.shape, size
        middle = (OUTPUT_STRIDE - 1) / 2
        x = torch.arange(w, device=row.device).float() * OUTPUT_STRIDE + middle
        y = torch.arange(h, device=row.device).float() * OUTPUT_STRIDE + middle
        place = torch.stack((x.expand(h, w), y[:, None].expand(h, w))).reshape(1, 2, cells).expand(b, -1, -1)
        motion = torch.zeros_like(place) if p.motion_px is None else p.motion_px.float().flatten(2)
        moving = torch.full_like(depth, 0.5)[:, None]
        if p.moving_logits is not None:
            moving = p.moving_logits.float().sigmoid().flatten(2)
        values = torch.cat((torch.ones_like(moving), place, motion, depth[:, None], moving), 1)
        total = sums(row, values, self.config.slots)
        area = total[..., :1]
        table = torch.cat(
            (class_id[..., None].float(), score[..., None], area, total[..., 1:] / area.clamp(min=1)), 2
        )
        return table * ((score > 0) & (area[..., 0] > 0)).float()[..., None]

    def _class_logits(self, evidence: Tensor, class_id: Tensor) -> Tensor:
        """[B,C,N]: ln of a soft maximum of the evidence over the queries of each class."""
        classes = torch.arange(len(self.is_thing), device=evidence.device)
        of_class = (class_id[:, None] == classes[:, None]).float()
        # The exporter drops added constants up to 1e-8 as if they were zero.
        return (of_class @ evidence.square().square() + 1e-6).log() / SHARPNESS

    def _propagate(self, p: MasksPrediction, row: Tensor, order: Tensor, used: Tensor) -> dict[str, Tensor]:
        vectors, pixels, previous = p.mask_vectors, p.pixel_vectors, p.previous_vectors
        assert vectors is not None and pixels is not None and previous is not None
        # A row that was not in use has the vector 0, and so a mask of nothing.
        moved = (previous.float() @ pixels.float().flatten(2) > 0).float()
        common = sums(row, moved, self.config.slots).transpose(1, 2)
        ones = torch.ones_like(row)[:, None].float()
        area = sums(row, ones, self.config.slots)[..., 0]
        union = moved.sum(2)[:, :, None] + area[:, None] - common
        rows = vectors.float().gather(1, order[:, :, None].expand(-1, -1, vectors.shape[2]))
        return {"overlap": common / union.clamp(min=1), f"next_state_{ROWS}": rows * used[..., None]}
