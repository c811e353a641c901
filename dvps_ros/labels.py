# SPDX-License-Identifier: Apache-2.0
"""Label spaces, and the only place where class and instance are packed into one number.

Class ids are indices into ``LabelSpace.classes``; ``VOID`` (255) marks pixels without a class.
Instance (track) ids are 1..65535; 0 means "no instance" (stuff, void, crowd).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.errors import ConfigError
from dvps_ros.files import read_data

VOID = 255
NO_INSTANCE = 0
MAX_INSTANCE = 65535


@dataclass(frozen=True)
class LabelClass:
    """One class: its id (index), name, RGB colour (0..255) and whether it is countable (a thing)."""

    id: int
    name: str
    color: tuple[int, int, int]
    is_thing: bool


@dataclass(frozen=True)
class LabelSpace:
    """An ordered set of classes with ids 0..n-1.

    Raises:
        ConfigError: ids are not 0..n-1 in order, names repeat, or a colour is out of range.
    """

    name: str
    classes: tuple[LabelClass, ...]

    def __post_init__(self) -> None:
        ids = [c.id for c in self.classes]
        if ids != list(range(len(ids))) or not 0 < len(ids) < VOID:
            raise ConfigError(
                f"label space {self.name!r}: class ids must be 0..n-1 in order, n in 1..254, got {ids}"
            )
        names = [c.name for c in self.classes]
        if len(set(names)) != len(names):
            raise ConfigError(f"label space {self.name!r}: class names must differ, got {names}")
        for c in self.classes:
            if len(c.color) != 3 or any(not 0 <= v <= 255 for v in c.color):
                raise ConfigError(
                    f"label space {self.name!r}: class {c.name!r} needs RGB in 0..255, got {c.color}"
                )

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    @property
    def thing_ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes if c.is_thing)

    @property
    def stuff_ids(self) -> tuple[int, ...]:
        return tuple(c.id for c in self.classes if not c.is_thing)

    @property
    def sky_id(self) -> int | None:
        """The class whose depth is +inf; None without one."""
        return self.id_of("sky") if "sky" in self.names else None

    @property
    def is_thing(self) -> np.ndarray:
        """bool [256]: look-up by class id; False for void and unused ids."""
        table = np.zeros(256, bool)
        table[list(self.thing_ids)] = True
        return table

    @property
    def palette(self) -> np.ndarray:
        """uint8 [256,3] RGB: look-up by class id; black for void and unused ids."""
        table = np.zeros((256, 3), np.uint8)
        for c in self.classes:
            table[c.id] = c.color
        return table

    def id_of(self, name: str) -> int:
        """Class id of a name.

        Raises:
            ConfigError: the space has no such class.
        """
        for c in self.classes:
            if c.name == name:
                return c.id
        raise ConfigError(f"label space {self.name!r} has no class {name!r}; it has {', '.join(self.names)}")

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML and JSON, read back by :meth:`from_dict`."""
        return {
            "name": self.name,
            "classes": [
                {"id": c.id, "name": c.name, "color": list(c.color), "thing": c.is_thing}
                for c in self.classes
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LabelSpace:
        """Inverse of :meth:`to_dict`.

        Raises:
            ConfigError: a key is missing or unknown.
        """
        try:
            if set(data) != {"name", "classes"}:
                raise KeyError(f"keys {sorted(data)}")
            classes = []
            for c in data["classes"]:
                if set(c) != {"id", "name", "color", "thing"}:
                    raise KeyError(f"class keys {sorted(c)}")
                red, green, blue = (int(v) for v in c["color"])
                if not isinstance(c["thing"], bool):  # "false" in quotes would be true
                    raise TypeError(f"thing {c['thing']!r} instead of true or false")
                classes.append(LabelClass(int(c["id"]), str(c["name"]), (red, green, blue), c["thing"]))
            return cls(str(data["name"]), tuple(classes))
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise ConfigError(
                "a label space needs the keys name and classes, each class id, name, color and thing; "
                f"got {error}"
            ) from error

    @classmethod
    def from_yaml(cls, path: str | Path) -> LabelSpace:
        """Read a label-space file such as ``config/labels/cityscapes.yaml``.

        Raises:
            ConfigError: the file is missing, not YAML, or not a label space.
        """
        try:
            data = read_data(path)
        except ValueError as error:
            raise ConfigError(f"cannot read label space {path}: {error}") from error
        if not isinstance(data, dict):
            raise ConfigError(f"label space {path}: expected a mapping, got {type(data).__name__}")
        return cls.from_dict(data)


def with_things(space: LabelSpace, thing_ids: Collection[int]) -> LabelSpace:
    """The same classes, of which just these are countable."""
    classes = tuple(replace(c, is_thing=c.id in thing_ids) for c in space.classes)
    return replace(space, classes=classes)


def _space(name: str, rows: list[tuple[str, tuple[int, int, int], bool]]) -> LabelSpace:
    return LabelSpace(name, tuple(LabelClass(i, n, color, thing) for i, (n, color, thing) in enumerate(rows)))


CITYSCAPES = _space(
    "cityscapes",
    [
        ("road", (128, 64, 128), False),
        ("sidewalk", (244, 35, 232), False),
        ("building", (70, 70, 70), False),
        ("wall", (102, 102, 156), False),
        ("fence", (190, 153, 153), False),
        ("pole", (153, 153, 153), False),
        ("traffic light", (250, 170, 30), False),
        ("traffic sign", (220, 220, 0), False),
        ("vegetation", (107, 142, 35), False),
        ("terrain", (152, 251, 152), False),
        ("sky", (70, 130, 180), False),
        ("person", (220, 20, 60), True),
        ("rider", (255, 0, 0), True),
        ("car", (0, 0, 142), True),
        ("truck", (0, 0, 70), True),
        ("bus", (0, 60, 100), True),
        ("train", (0, 80, 100), True),
        ("motorcycle", (0, 0, 230), True),
        ("bicycle", (119, 11, 32), True),
    ],
)
"""The nineteen Cityscapes training classes: 11 stuff, 8 things."""

LABEL_SPACES: dict[str, LabelSpace] = {CITYSCAPES.name: CITYSCAPES}


class PanopticOrder(str, Enum):
    """Which half of a packed 32-bit panoptic value holds what."""

    INSTANCE_HIGH = "instance_high"
    """``instance << 16 | class``: SemanticKITTI and Hydra's semantic_inference."""
    CLASS_HIGH = "class_high"
    """``class << 16 | instance``."""


def encode_panoptic(
    class_map: np.ndarray, track_map: np.ndarray, order: PanopticOrder = PanopticOrder.INSTANCE_HIGH
) -> np.ndarray:
    """Pack class ids uint8 [H,W] and track ids uint16 [H,W] into int32 [H,W]."""
    low, high = (class_map, track_map) if order is PanopticOrder.INSTANCE_HIGH else (track_map, class_map)
    packed = high.astype(np.uint32)
    packed <<= 16
    packed |= low
    return packed.view(np.int32)


def decode_panoptic(
    packed: np.ndarray, order: PanopticOrder = PanopticOrder.INSTANCE_HIGH
) -> tuple[np.ndarray, np.ndarray]:
    """Inverse of :func:`encode_panoptic`: class ids uint8 [H,W] and track ids uint16 [H,W]."""
    bits = np.ascontiguousarray(packed).view(np.uint32)
    low, high = (bits & 0xFFFF), (bits >> 16)
    class_map, track_map = (low, high) if order is PanopticOrder.INSTANCE_HIGH else (high, low)
    return class_map.astype(np.uint8), track_map.astype(np.uint16)
