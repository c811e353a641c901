# SPDX-License-Identifier: Apache-2.0
"""Classes of other label spaces, found again in ours by their names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dvps_ros.errors import ConfigError
from dvps_ros.labels import LabelSpace

ALIASES: dict[str, tuple[str, ...]] = {
    "road": ("route",),
    "sidewalk": ("pavement",),
    "building": ("edifice", "house", "skyscraper", "roof"),
    "wall": ("wall brick", "wall stone", "wall tile", "wall wood"),
    "fence": ("fencing",),
    "pole": ("streetlight", "street lamp"),
    "traffic sign": ("stop sign",),
    "vegetation": ("tree", "palm", "plant", "flower"),
    "terrain": ("grass", "earth", "dirt", "dirt track", "sand", "gravel", "field", "land"),
    "person": ("pedestrian",),
    "rider": ("bicyclist", "motorcyclist"),
    "car": ("van",),
    "train": ("tram",),
    "motorcycle": ("motorbike", "minibike"),
    "bicycle": ("bike",),
}
"""Class of ours -> other names of it, mostly those of COCO and ADE20K."""


def names_of(source: str) -> list[str]:
    """The names that a class goes by: ``"road, route"`` has two, ``"sky-other-merged"`` is ``"sky"``."""
    names = []
    for part in re.split(r"[,;]", source):
        name = re.sub(r"[-_\s]+", " ", part).strip().lower()
        names.append(re.sub(r"( other| stuff)?( merged)?$", "", name))
    return [name for name in names if name]


@dataclass(frozen=True)
class ClassMap:
    """Where each class of a checkpoint goes."""

    sources: tuple[str, ...]
    """The checkpoint's names, by its class id."""
    targets: tuple[int | None, ...]
    """Ids of ours; None is void."""
    labels: LabelSpace

    @classmethod
    def by_name(
        cls, sources: Sequence[str], labels: LabelSpace, given: Mapping[str, str] | None = None
    ) -> ClassMap:
        """Match each class by its name, or by what the user says of it.

        Args:
            given: name of the checkpoint's -> name of ours or ``void``; wins over :data:`ALIASES`.

        Raises:
            ConfigError: nothing matches, or ``given`` names a class that is not there.
        """
        known = {alias: own for own, aliases in ALIASES.items() if own in labels.names for alias in aliases}
        known |= {names_of(own)[0]: own for own in labels.names}
        stated = dict(given or {})
        for source, own in stated.items():
            if source not in sources:
                raise ConfigError(
                    f"--map {source}={own}: the checkpoint has no class {source!r}; it has {_few(sources)}"
                )
            if own not in (*labels.names, "void"):
                raise ConfigError(
                    f"--map {source}={own}: label space {labels.name} has no class {own!r}; it has "
                    f"{', '.join(labels.names)}, void"
                )
        targets: list[int | None] = []
        for source in sources:
            own = stated.get(source) or next((known[n] for n in names_of(source) if n in known), "void")
            targets.append(None if own == "void" else labels.id_of(own))
        if all(target is None for target in targets):
            raise ConfigError(
                f"no class of the checkpoint has a name of label space {labels.name}: it has "
                f"{_few(sources)}; state where they go with --map NAME=CLASS, or choose another checkpoint"
            )
        return cls(tuple(sources), tuple(targets), labels)

    @property
    def unfilled(self) -> tuple[str, ...]:
        """Classes of ours that nothing becomes."""
        return tuple(c.name for c in self.labels.classes if c.id not in self.targets)

    def matrix(self) -> Tensor:
        """float32 [sources + 1, ours + 1]: adds up probabilities; void joins the last, "no object"."""
        nothing = len(self.labels)
        matrix = torch.zeros(len(self.sources) + 1, nothing + 1)
        for source, target in enumerate((*self.targets, None)):
            matrix[source, nothing if target is None else target] = 1
        return matrix

    def table(self) -> str:
        """One line a class of the checkpoint, then our classes that nothing becomes."""
        width = max(len(source) for source in self.sources)
        names = ["void" if t is None else self.labels.names[t] for t in self.targets]
        lines = [f"{s:<{width}}  ->  {n}" for s, n in zip(self.sources, names, strict=True)]
        if self.unfilled:
            lines.append(f"never predicted: {', '.join(self.unfilled)}")
        return "\n".join(lines)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
