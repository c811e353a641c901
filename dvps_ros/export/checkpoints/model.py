# SPDX-License-Identifier: Apache-2.0
"""From two folders of the transformers library to one model folder of ours."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dvps_ros.errors import CheckpointError, ConfigError
from dvps_ros.export.checkpoints.classes import ClassMap
from dvps_ros.export.checkpoints.depth import Depth, DepthOptions, check_depth, load_depth
from dvps_ros.export.checkpoints.network import ImportedNetwork
from dvps_ros.export.checkpoints.panoptic import (
    SEGMENTERS,
    Segmenter,
    check_architecture,
    trained_task,
)
from dvps_ros.export.checkpoints.source import (
    WEIGHTS,
    Checkpoint,
    Normalise,
    open_checkpoint,
    read_preprocessing,
)
from dvps_ros.export.model import MODEL_CARD, GoldenFrames, export_model, world_frames
from dvps_ros.files import write_text
from dvps_ros.labels import CITYSCAPES, LabelSpace
from dvps_ros.runtime.manifest import Manifest, hash_file

log = logging.getLogger(__name__)

SWITCH = "TRANSFORMERS_DISABLE_TORCH_CHECK"
"""Environment variable that switches checks of tensors in transformers off."""


@dataclass(frozen=True)
class ImportOptions:
    """What the user says of the two checkpoints."""

    licence: str | None = None
    """Of the panoptic network's weights; None: as its card says."""
    depth_licence: str | None = None
    mean: Sequence[float] | None = None
    """Of the panoptic network's input, red, green, blue in 0..1; None: as its folder says."""
    std: Sequence[float] | None = None
    depth_mean: Sequence[float] | None = None
    depth_std: Sequence[float] | None = None
    depth: DepthOptions = DepthOptions()
    classes: Mapping[str, str] = field(default_factory=dict)
    """Name of the checkpoint's class -> name of ours, or ``void``."""
    names: Sequence[str] | None = None
    """Of the checkpoint's classes by id, where its config.json names none."""
    allow_missing: bool = False
    panoptic: bool = False
    """Take a checkpoint whose name or card says that it is semantic."""


@dataclass(frozen=True)
class Imported:
    """Two checkpoints as one network, and what must be said of them."""

    network: ImportedNetwork
    classes: ClassMap
    panoptic: Checkpoint
    depth: Checkpoint
    licences: tuple[str, str]

    @property
    def licence(self) -> str:
        """For the manifest."""
        first, second = self.licences
        return first if first == second else f"panoptic network: {first}; depth network: {second}"


def open_network(
    panoptic: str,
    depth: str,
    labels: LabelSpace = CITYSCAPES,
    options: ImportOptions | None = None,
    sizes: Sequence[tuple[int, int]] = (),
) -> Imported:
    """Load both checkpoints; what can be refused without their weights is refused before.

    Args:
        panoptic, depth: folders, or names on the hub.
        sizes: (height, width) of the input that will be asked for.

    Raises:
        CheckpointError: a checkpoint that is not there, damaged, or of another kind.
        ConfigError: options, sizes or classes that do not fit.
    """
    options = options or ImportOptions()
    source = open_checkpoint(panoptic)
    check_architecture(source)
    _check_task(source, options)
    depth_source = open_checkpoint(depth)
    check_depth(depth_source, options.depth)
    licences = (
        source.licence(options.licence, "--licence"),
        depth_source.licence(options.depth_licence, "--depth-licence"),
    )
    classes = ClassMap.by_name(_class_names(source, options.names), labels, options.classes)
    preprocessing = read_preprocessing(source, options.mean, options.std)
    depth_preprocessing = read_preprocessing(
        depth_source, options.depth_mean, options.depth_std, prefix="--depth-"
    )
    segmenter: Segmenter = SEGMENTERS[source.kind](source, options.allow_missing)
    for height, width in sizes:
        segmenter.check_size(height, width)
    module: Depth = load_depth(
        depth_source, depth_preprocessing, options.depth, allow_missing=options.allow_missing
    )
    for height, width in sizes:
        log.info("%dx%d: depth at %dx%d", height, width, *module.input_size(height, width))
    name = f"{source.kind}+{depth_source.kind}"
    network = ImportedNetwork(name, segmenter, Normalise(preprocessing), module, classes)
    return Imported(network.eval(), classes, source, depth_source, licences)


def import_model(
    imported: Imported,
    out_dir: Path,
    sizes: Sequence[tuple[int, int]],
    *,
    version: str,
    fusion: Mapping[str, Any] | None = None,
    golden_frames: Callable[[int, int], GoldenFrames] = world_frames,
) -> Manifest:
    """Write the model folder, and its card if there is none; see :func:`~dvps_ros.export.model.export_model`.

    Raises:
        EngineError: ONNX Runtime computes something else than torch.
    """
    card = out_dir / MODEL_CARD
    kept = card.exists()
    with _without_checks():
        manifest = export_model(
            imported.network,
            imported.classes.labels,
            out_dir,
            sizes,
            name=out_dir.resolve().name,
            version=version,
            licence=imported.licence,
            training=_provenance(imported),
            fusion=fusion,
            golden_frames=golden_frames,
        )
    if not kept:
        write_text(card, _card(imported, manifest))
    return manifest


@contextlib.contextmanager
def _without_checks() -> Iterator[None]:
    """Leaves checks of transformers out of the graph: OneFormer's are tensors, which ONNX has no operator
    for."""
    before = os.environ.get(SWITCH)
    os.environ[SWITCH] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before


def _check_task(checkpoint: Checkpoint, options: ImportOptions) -> None:
    task = trained_task(checkpoint)
    if task == "semantic" and not options.panoptic:
        raise CheckpointError(
            f"{checkpoint.name} was trained for semantic segmentation (so its name, card or preprocessing "
            "say): it tells no two cars apart; take a panoptic checkpoint, or state --panoptic if it is one"
        )
    if task is None and not options.panoptic:
        log.warning(
            "%s does not say for which task it was trained; a semantic one would merge all cars into one",
            checkpoint.name,
        )


def _class_names(checkpoint: Checkpoint, stated: Sequence[str] | None) -> list[str]:
    """By class id.

    Raises:
        ConfigError: config.json does not name them and nobody else does.
    """
    found = checkpoint.config.get("id2label")
    try:
        by_id = {int(key): str(name) for key, name in dict(found).items()}  # type: ignore[arg-type]
    except (TypeError, ValueError):
        by_id = {}
    numbered = sorted(by_id) == list(range(len(by_id)))
    count = len(by_id) or checkpoint.config.get("num_labels")
    if stated is not None:
        if count is not None and len(stated) != count:
            raise ConfigError(
                f"{checkpoint.name}: expected the names of its {count} classes, got {len(stated)}; give one "
                "a line, in the order of their ids"
            )
        return list(stated)
    if not by_id or not numbered:
        raise ConfigError(
            f"{checkpoint.name}: expected id2label in config.json to name the classes 0..n-1, got "
            f"{str(found):.80}; state them with --names FILE, one a line, in the order of their ids"
        )
    return [by_id[i] for i in range(len(by_id))]


def _provenance(imported: Imported) -> dict[str, Any]:
    """Plain data for the manifest: where the weights came from, and what was stated of them."""
    options = imported.network.depth.options
    facts: dict[str, Any] = {"weights": "imported"}
    for role, checkpoint, licence in zip(
        ("panoptic", "depth"), (imported.panoptic, imported.depth), imported.licences, strict=True
    ):
        facts[role] = {
            # A local path tells of the machine and of nothing else.
            "source": checkpoint.name if checkpoint.revision else checkpoint.folder.resolve().name,
            "revision": checkpoint.revision,
            "architecture": checkpoint.kind,
            "licence": licence,
            "sha256": {f: hash_file(checkpoint.folder / f) for f in _weight_files(checkpoint)},
        }
    facts["depth"] |= {
        "max_depth_m": imported.network.depth.model.head.max_depth,
        "canonical_focal_px": options.canonical_focal_px,
        "relative_factor_m": options.relative_factor_m,
    }
    facts["classes"] = dict(
        zip(
            imported.classes.sources,
            ("void" if t is None else imported.classes.labels.names[t] for t in imported.classes.targets),
            strict=True,
        )
    )
    return facts


def _weight_files(checkpoint: Checkpoint) -> list[str]:
    files = [*checkpoint.folder.glob("*.safetensors")] or [*checkpoint.folder.glob(WEIGHTS[2])]
    return sorted(p.name for p in files)


def _card(imported: Imported, manifest: Manifest) -> str:
    """The model card: both licences first, for whoever passes the folder on has to keep both."""
    facts = manifest.training
    rows = "\n".join(
        f"| {role} network | {facts[role]['source']} {facts[role]['revision'][:12]} | "
        f"{facts[role]['architecture']} | {facts[role]['licence']} |"
        for role in ("panoptic", "depth")
    )
    sizes = [g.size for g in manifest.graphs]
    depth = imported.network.depth
    depth_sizes = ["x".join(map(str, depth.input_size(g.height, g.width))) for g in manifest.graphs]
    options = depth.options
    if options.relative_factor_m is not None:
        scale = f"Depth is relative: {options.relative_factor_m} m divided by the network's answer."
    else:
        scale = f"Depth is metric, up to {depth.model.head.max_depth} m."
    if options.canonical_focal_px is None:
        scale += " It holds for the training camera's focal length, whatever camera is used."
    else:
        scale += f" It is scaled by focal length / {options.canonical_focal_px} px (of the depth input)."
    return f"""# {manifest.name}

Imported by `dvps import`, not trained by this project. Both licences hold for this folder:

| | source | architecture | licence of the weights |
|---|---|---|---|
{rows}

Label space `{manifest.label_space.name}` ({len(manifest.label_space)} classes), input {", ".join(sizes)}
(depth at {", ".join(depth_sizes)}); graph contract version {manifest.contract} (docs/graph_contract.md).
{scale}

## Classes

```
{imported.classes.table()}
```

## Figures

Not measured. Score it on your own data with `dvps eval`.

## Limits

Those of the two networks, see their cards. Objects are found again by their mask vectors, for which neither
was trained.
"""
