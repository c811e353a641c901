# SPDX-License-Identifier: Apache-2.0
"""Pixels grouped around centres (Panoptic-DeepLab, Cheng et al. 2020), in operators that every runtime has.

A pixel votes for the place pixel + offset; it belongs to the candidate centre nearest to its vote if its
arg-max class is a thing. Candidates with too few pixels are dropped, and their pixels with them.

Where the network keeps the rows of the previous frame, its motion moves them to this one: a cell was where
its motion leads, and in the segment that was there. Their IoU with this frame's rows is ``overlap``
(MonoDVPS, Petrovai and Nedevschi 2023, section 3.4).

Fixed shapes, no data-dependent operator, no plugin. Heads are float32 on entry; class ids, rows and
counts stay exact when a runtime lowers matrix products to bf16 or fp16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dvps_ros.config import option
from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, OUTPUTS
from dvps_ros.networks.fusion.tables import DEPTH_RANGE_M, sums
from dvps_ros.networks.protocol import PointsPrediction

HEAT_SCALE, TIE_STEP = 0.49, 2.0**-24
"""Cells are ranked by HEAT_SCALE * centre probability + TIE_STEP for every later cell: no two are equal, so
every runtime finds the same peaks in the same order. Below one half, where these sums stay, float32 keeps
two of them apart. Scores are so raised by less than 0.01 for maps below 64 thousand cells."""
ROW_MAP = "row_map"
"""Memory of networks whose rows are propagated: shape ("H/4", "W/4")."""
FAR = 1e12
"""Squared distance of rows that are no candidates."""


@dataclass(frozen=True)
class PointsConfig:
    """What makes a segment."""

    slots: int = option(64, "Rows of the segment table, K.", low=1, high=254)
    window: int = option(7, "Cells (odd) within which only the highest centre counts.", low=1, high=31)
    min_score: float = option(0.1, "Least centre probability of a segment.", low=0.0, high=1.0)
    min_area: int = option(4, "Least area of a segment, stride-4 cells.", low=1, high=1000000)


class PointsFusion(nn.Module):
    """Groups a prediction's pixels into segments.

    Args:
        thing_ids: classes that are countable.
        propagates: whether predictions have previous rows.

    Attributes:
        outputs: names of what :meth:`forward` gives, in the contract's order (the memory aside).
    """

    def __init__(
        self, thing_ids: tuple[int, ...], config: PointsConfig | None = None, *, propagates: bool = False
    ) -> None:
        super().__init__()
        self.thing_ids = thing_ids
        self.config = config or PointsConfig()
        self.propagates = propagates
        self.outputs = tuple(name for name in OUTPUTS if propagates or name != "overlap")

    def forward(self, p: PointsPrediction) -> dict[str, Tensor]:
        """The outputs of docs/graph_contract.md by name, each with leading batch B; and, where rows are
        propagated, ``next_state_row_map``."""
        logits, depth = p.class_logits.float(), p.log_depth.float().exp().clamp(*DEPTH_RANGE_M)
        b, _, h, w = logits.shape
        classes = logits.argmax(1)
        probability = 1 / (logits - logits.amax(1, keepdim=True)).exp().sum(1)

        score, center_x, center_y = self._peaks(torch.sigmoid(p.center_logits.float()))
        candidate = (score >= self.config.min_score).float()
        row = self._nearest(p.center_offset_px.float(), center_x, center_y, candidate)
        things = torch.tensor(self.thing_ids, device=logits.device)
        of_class = (classes.flatten(1)[:, None] == things[:, None]).float()
        slots = self.config.slots
        # Pixels of stuff count for one row more, which is thrown away.
        member = torch.where(of_class.sum(1) > 0, row, slots)

        values = torch.cat(
            (
                of_class,
                p.motion_px.float().flatten(2),
                depth.flatten(2),
                torch.sigmoid(p.moving_logits.float()).flatten(2),
                p.embedding.float().flatten(2),
            ),
            1,
        )
        votes, motion, depth_sum, moving, identity = sums(member, values, slots).split(
            (len(self.thing_ids), 2, 1, 1, p.embedding.shape[1]), 2
        )
        area = votes.sum(2)
        kept = candidate * (area >= self.config.min_area).float()
        pixels = area.clamp(min=1)[:, :, None]
        class_id = things.float()[votes.argmax(2)]
        table = (class_id, score, area, center_x, center_y)
        means = torch.cat((motion, depth_sum, moving), 2) / pixels
        segments = torch.cat((torch.stack(table, 2), means), 2) * kept[:, :, None]
        identity = identity / pixels
        identity = identity * torch.rsqrt((identity * identity).sum(2, keepdim=True) + 1e-6)

        index = torch.arange(slots, device=logits.device).float()
        name_of_row = F.pad(torch.where(kept > 0, index, float(NO_SEGMENT)), (0, 1), value=float(NO_SEGMENT))

        def names(rows: Tensor) -> Tensor:
            return name_of_row.gather(1, rows).reshape(b, h, w).to(torch.uint8)

        outputs = {
            "class_map": classes.to(torch.uint8),
            "segment_map": names(member),
            "depth_m": depth[:, 0],
            "segments": segments,
            "embedding": identity * kept[:, :, None],
            "confidence": (probability * 255 + 0.5).to(torch.uint8),
            "class_logits": logits,
            "nearest": names(row),
            "latent": p.latent.float(),
        }
        if self.propagates:
            found = name_of_row.gather(1, member)
            outputs["overlap"] = self._overlap(p, member, area) * kept[:, None]
            outputs[f"next_state_{ROW_MAP}"] = torch.where(found < slots, found + 1, 0.0).reshape(b, h, w)
        return outputs

    def _overlap(self, p: PointsPrediction, member: Tensor, area: Tensor) -> Tensor:
        """[B,K,K]: IoU of the previous frame's rows, moved to this frame, with this frame's."""
        previous = p.previous_rows
        assert previous is not None, "rows are propagated from previous ones"
        _, h, w = previous.shape
        dx, dy = (p.motion_px.float() / OUTPUT_STRIDE).unbind(1)
        x = torch.floor(torch.arange(w, device=dx.device).float() + dx + 0.5)
        y = torch.floor(torch.arange(h, device=dy.device).float()[:, None] + dy + 0.5)
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        # Whole numbers before they are combined: a runtime's bf16 could not tell cells apart.
        index = y.clamp(0, h - 1).long() * w + x.clamp(0, w - 1).long()
        came_from = previous.float().flatten(1).gather(1, index.flatten(1))
        rows = torch.arange(1, self.config.slots + 1, device=dx.device).float()
        moved = ((came_from[:, None] == rows[:, None]) & inside.flatten(1)[:, None]).float()
        common = sums(member, moved, self.config.slots).transpose(1, 2)
        union = moved.sum(2)[:, :, None] + area[:, None] - common
        return common / union.clamp(min=1)

    def _peaks(self, heat: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score and position (input pixels) of the K highest peaks, each [B,K]; score 0 for missing ones."""
        b, _, h, w = heat.shape
        later_cells = torch.arange(h * w - 1, -1, -1, device=heat.device).float().reshape(1, 1, h, w)
        key = HEAT_SCALE * heat + later_cells * TIE_STEP
        window = self.config.window
        peak = key == F.max_pool2d(key, window, 1, window // 2)
        best, index = torch.where(peak, key, 0.0).flatten(1).topk(self.config.slots)
        index = index.float()
        y = torch.floor((index + 0.5) / w)
        middle = (OUTPUT_STRIDE - 1) / 2
        return (
            (best / HEAT_SCALE).clamp(max=1),
            OUTPUT_STRIDE * (index - y * w) + middle,
            OUTPUT_STRIDE * y + middle,
        )

    def _nearest(self, offset_px: Tensor, center_x: Tensor, center_y: Tensor, candidate: Tensor) -> Tensor:
        """Index [B,h*w] of the candidate centre nearest to each cell's vote; any row if there is none."""
        _, _, h, w = offset_px.shape
        middle = (OUTPUT_STRIDE - 1) / 2
        x = torch.arange(w, device=offset_px.device).float() * OUTPUT_STRIDE + middle
        y = torch.arange(h, device=offset_px.device).float()[:, None] * OUTPUT_STRIDE + middle
        dx = (x + offset_px[:, 0]).flatten(1)[:, None] - center_x[:, :, None]
        dy = (y + offset_px[:, 1]).flatten(1)[:, None] - center_y[:, :, None]
        # Chosen, not added: compilers of quantised graphs move constants through sums, and beside FAR a
        # distance would be rounded away.
        return torch.where(candidate[:, :, None] > 0, dx * dx + dy * dy, FAR).argmin(1)
