# SPDX-License-Identifier: Apache-2.0
"""The deployed graph, written once: its outputs, the columns of its segment table, its version.

Export, engines, verification, pipeline, tracker and docs/graph_contract.md read it. Letters in shapes: H, W
are the size of the network's input, h, w = H/4, W/4; K segment slots, S columns, D length of the identity
vectors, C classes, T tokens of F channels.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

VERSION = 1
OUTPUT_STRIDE = 4
"""Input pixels per cell of the maps."""
NO_SEGMENT = 255
"""In maps of segment rows: stuff and void. So there are at most 255 rows."""


class Column(IntEnum):
    """Columns of the segment table, one row a segment; of a row that is not in use all are 0."""

    CLASS_ID = 0
    """Thing class of the segment."""
    SCORE = 1
    """0..1; 0 says that the row is not in use."""
    AREA = 2
    """Cells."""
    CENTER_X = 3
    CENTER_Y = 4
    """Input pixels: the segment's centre as the network sees it."""
    MOTION_DX = 5
    MOTION_DY = 6
    """Input pixels: mean offset of the segment's pixels to the previous frame; 0 where the network sees
    none."""
    DEPTH_MEAN_M = 7
    """Mean z-depth, metres."""
    MOVING = 8
    """0..1: mean probability that the segment moves over ground; 0.5 where the network does not say."""


SEGMENT_COLUMNS = tuple(column.name.lower() for column in Column)


@dataclass(frozen=True)
class Output:
    """One output of the graph, as the contract promises it."""

    name: str
    dtype: str
    shape: tuple[str, ...]
    """Letters, see above; a leading axis of size one comes before them."""
    kind: str
    """How engines are compared in it (``runtime.verify``)."""
    meaning: str
    required: bool = True

    def sizes(self, letters: Mapping[str, int]) -> tuple[int, ...]:
        """The shape, leading axis included."""
        return (1, *(letters[letter] for letter in self.shape))


OUTPUTS = {
    output.name: output
    for output in (
        Output("class_map", "uint8", ("h", "w"), "class", "arg-max class, 255 void"),
        Output("segment_map", "uint8", ("h", "w"), "segment", "row of `segments`, 255 for stuff and void"),
        Output("depth_m", "float32", ("h", "w"), "depth", "z-depth, metres"),
        Output("segments", "float32", ("K", "S"), "table", "one row a segment, columns below"),
        Output(
            "embedding",
            "float32",
            ("K", "D"),
            "embedding",
            "identity vector of the segment, unit length; zeros for rows not in use",
        ),
        Output(
            "confidence", "uint8", ("h", "w"), "confidence", "probability of the arg-max class x 255", False
        ),
        Output(
            "class_logits",
            "float32",
            ("C", "h", "w"),
            "features",
            "for clean edges at camera resolution",
            False,
        ),
        Output(
            "nearest",
            "uint8",
            ("h", "w"),
            "segment",
            "row of the segment that the pixel would belong to if it were a thing; 255 if there is none",
            False,
        ),
        Output("latent", "float32", ("T", "F"), "features", "tokens for the steering head", False),
        Output(
            "overlap",
            "float32",
            ("K", "K"),
            "overlap",
            "IoU of the previous frame's rows (first axis), moved to this frame by the network, with this "
            "frame's rows (second axis); the tracker takes it instead of an estimate of its own",
            False,
        ),
    )
}
"""Name -> output, in the order in which graphs have them; the memory, ``next_state_*``, comes after."""
REQUIRED_OUTPUTS = tuple(o.name for o in OUTPUTS.values() if o.required)
OPTIONAL_OUTPUTS = tuple(o.name for o in OUTPUTS.values() if not o.required)


def state_size(entry: int | str, height: int, width: int) -> int:
    """An entry of a memory tensor's shape, at a network input of height x width.

    Args:
        entry: such as 64; or ``"H/8"`` or ``"W/8"`` (any whole divisor), a fraction of the input size.

    Raises:
        ValueError: neither.
    """
    if isinstance(entry, int) and not isinstance(entry, bool) and entry > 0:
        return entry
    match = re.fullmatch(r"([HW])(?:/([1-9]\d*))?", entry) if isinstance(entry, str) else None
    if match:
        return (height if match[1] == "H" else width) // int(match[2] or 1)
    raise ValueError(f'state shape: expected positive sizes or strings such as "H/8", got {entry!r}')


def outputs_table() -> str:
    """The table of outputs in docs/graph_contract.md."""
    kinds = {True: "out", False: "out, optional"}
    return "\n".join(
        f"| {kinds[o.required]} | `{o.name}` | {o.dtype} [1,{','.join(o.shape)}] | {o.meaning} |"
        for o in OUTPUTS.values()
    )
