# SPDX-License-Identifier: Apache-2.0
"""The model folder's ``manifest.json`` (docs/graph_contract.md): read, checked, written, found."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from dvps_ros.contract import NO_SEGMENT, OUTPUT_STRIDE, SEGMENT_COLUMNS, VERSION, state_size
from dvps_ros.errors import ConfigError, EngineError, ModelFileError
from dvps_ros.files import open_regular, read_data, write_text
from dvps_ros.installation import share_folders
from dvps_ros.labels import LabelSpace

MANIFEST = "manifest.json"
PERCEPTION = "perception"
"""Kind of the models whose manifest names none."""


@dataclass(frozen=True)
class StateTensor:
    """One memory tensor: the graph's input ``name`` and its output ``next_<name>``.

    Args:
        name: begins with ``state_``.
        shape: sizes; ``"H/8"`` and ``"W/8"`` (any whole divisor) stand for a fraction of the input size.
    """

    name: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        if not self.name.startswith("state_"):
            raise ValueError(f"state name: expected state_..., got {self.name!r}")
        self.sizes(1 << 16, 1 << 16)

    def sizes(self, height: int, width: int) -> tuple[int, ...]:
        """The shape at a network input of height x width."""
        return tuple(state_size(s, height, width) for s in self.shape)


@dataclass(frozen=True)
class WeightsFile:
    """The weights that all graphs share, as ONNX external data."""

    file: str
    sha256: str


@dataclass(frozen=True)
class GraphFile:
    """One exported graph: its input size in pixels, and the golden frames that prove an engine made of it."""

    file: str
    height: int
    width: int
    sha256: str
    golden: str
    golden_sha256: str

    @property
    def size(self) -> str:
        """``HxW``, as the option ``engine.size`` writes it."""
        return f"{self.height}x{self.width}"


@dataclass(frozen=True)
class Manifest:
    """What a model folder says about itself.

    Raises:
        ValueError: a value that contract version 1 does not allow.
    """

    name: str
    version: str
    network: str
    label_space: LabelSpace
    embedding_size: int
    latent_shape: tuple[int, int]
    state: tuple[StateTensor, ...]
    sky_class: int | None
    """Class whose depth is +inf."""
    weights: WeightsFile
    graphs: tuple[GraphFile, ...]
    licence: str
    training: dict[str, Any]
    """Provenance, free-form."""
    contract: int = VERSION
    stride: int = OUTPUT_STRIDE
    segment_slots: int = 64
    segment_columns: tuple[str, ...] = SEGMENT_COLUMNS
    ranges: dict[str, Any] = field(default_factory=dict)
    """Of activations, for int8 on processors (``dvps_ros.runtime.ranges``); empty where none are known."""

    def __post_init__(self) -> None:
        _check_contract(self.contract)
        expect_value("stride", self.stride, self.stride == OUTPUT_STRIDE, str(OUTPUT_STRIDE))
        expect_value(
            "segment_slots", self.segment_slots, 0 < self.segment_slots < NO_SEGMENT, f"1 to {NO_SEGMENT - 1}"
        )
        columns = self.segment_columns
        expect_value("segment_columns", columns, columns == SEGMENT_COLUMNS, str(SEGMENT_COLUMNS))
        expect_value("embedding_size", self.embedding_size, self.embedding_size > 0, "a positive number")
        expect_value(
            "latent_shape",
            self.latent_shape,
            len(self.latent_shape) == 2 and min(self.latent_shape) > 0,
            "two positive sizes",
        )
        expect_value(
            "sky_class",
            self.sky_class,
            self.sky_class is None or 0 <= self.sky_class < len(self.label_space),
            f"null or a class id below {len(self.label_space)}",
        )
        for key, pair in self.ranges.items():
            expect_value(f"ranges of {key}", pair, _is_range(pair), "[least, greatest]")
        expect_value("graphs", self.graphs, len(self.graphs) > 0, "at least one graph")
        sizes = [g.size for g in self.graphs]
        expect_value("graph sizes", sizes, len(set(sizes)) == len(sizes), "sizes that differ")
        for g in self.graphs:
            fits = g.height > 0 and g.width > 0 and g.height % self.stride == 0 and g.width % self.stride == 0
            expect_value(f"size of {g.file}", g.size, fits, f"positive multiples of {self.stride}")
        for file in (self.weights.file, *(f for g in self.graphs for f in (g.file, g.golden))):
            expect_value("file name", file, is_plain_name(file), "a plain name inside the model folder")
        expect_value("name", self.name, is_plain_name(self.name), "a name that a folder can have")

    def letters(self, graph: GraphFile) -> dict[str, int]:
        """Of ``contract.OUTPUTS``: how long each axis is in one of the graphs."""
        tokens, channels = self.latent_shape
        return {
            "h": graph.height // self.stride,
            "w": graph.width // self.stride,
            "K": self.segment_slots,
            "S": len(self.segment_columns),
            "D": self.embedding_size,
            "C": len(self.label_space),
            "T": tokens,
            "F": channels,
        }

    def graph_of(self, size: str) -> GraphFile:
        """The graph of an input size ``HxW``.

        Raises:
            EngineError: the model ships no such size.
        """
        for graph in self.graphs:
            if graph.size == size:
                return graph
        shipped = ", ".join(g.size for g in self.graphs)
        raise EngineError(f"model {self.name}: no graph of size {size}; it ships {shipped}, or use auto")


def is_plain_name(name: str) -> bool:
    """Whether a file or folder can have this name, and it leads to no other folder."""
    return Path(name).name == name and name != ".." and name.isprintable() and 0 < len(name.encode()) < 200


def _is_range(pair: Any) -> bool:
    numbers = isinstance(pair, list) and len(pair) == 2 and all(type(v) in (int, float) for v in pair)
    return numbers and all(map(math.isfinite, pair)) and pair[0] <= pair[1]


def _check_contract(version: Any) -> None:
    if version != VERSION:
        raise ValueError(f"contract version: expected {VERSION}, got {version!r}; export the model again")


def expect_value(what: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        raise ValueError(f"{what}: expected {expected}, got {value!r}")


def load_manifest(model_dir: str | Path) -> Manifest:
    """Read and check ``manifest.json``; the files it names are checked when an engine opens them.

    Raises:
        EngineError: it is missing, not JSON, of another contract version, has missing or unknown keys,
            or values of a wrong type or range.
    """
    path = Path(model_dir) / MANIFEST
    data = read_json(path)
    if isinstance(data, dict) and "kind" in data:
        raise EngineError(f"{path}: expected a perception model, got one of kind {data['kind']!r}")
    try:
        return _manifest_from(data)
    except (OverflowError, ValueError, TypeError, ConfigError) as error:
        raise EngineError(f"{path}: {error}") from error


def read_json(path: Path) -> Any:
    """What a manifest file holds.

    Raises:
        EngineError: it is missing or not JSON.
    """
    try:
        return read_data(path)
    except ValueError as error:
        advice = "export or download the model again" if path.is_file() else "is this a model folder?"
        raise EngineError(f"cannot read {path}: {error}; {advice}") from error


def _manifest_from(data: Any) -> Manifest:
    if isinstance(data, dict):  # said before all else: other versions have other keys
        _check_contract(data.get("contract"))
        data = {"ranges": {}} | data  # models of before have none
        # Models of before said where segments are made, which has always been in the graph.
        fusion = data.pop("fusion", "graph")
        expect_value("fusion", fusion, fusion == "graph", "graph")
    values = checked_record(Manifest, data, "manifest")
    values["label_space"] = LabelSpace.from_dict(values["label_space"])
    values["weights"] = WeightsFile(**checked_record(WeightsFile, values["weights"], "weights"))
    values["graphs"] = tuple(GraphFile(**checked_record(GraphFile, g, "graphs")) for g in values["graphs"])
    state = (checked_record(StateTensor, s, "state") for s in values["state"])
    values["state"] = tuple(StateTensor(s["name"], tuple(s["shape"])) for s in state)
    values["latent_shape"] = tuple(values["latent_shape"])
    values["segment_columns"] = tuple(values["segment_columns"])
    return Manifest(**values)


_JSON_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "float": (int, float),
    "int | None": (int, type(None)),
    "dict[str, Any]": (dict,),
    "LabelSpace": (dict,),
    "WeightsFile": (dict,),
    "TokenSource": (dict,),
}


def checked_record(cls: type, data: Any, where: str) -> dict[str, Any]:
    """The JSON object's values, once its keys are exactly the fields of ``cls`` and their JSON types fit."""
    if not isinstance(data, dict):
        raise ValueError(f"{where}: expected an object, got {type(data).__name__}")
    fields = {f.name: str(f.type) for f in dataclasses.fields(cls)}
    missing, unknown = sorted(set(fields) - set(data)), sorted(set(data) - set(fields))
    if missing or unknown:
        raise ValueError(f"{where}: missing keys {missing}, unknown keys {unknown}")
    for key, annotation in fields.items():
        allowed = _JSON_TYPES.get(annotation, (list,))
        if not isinstance(data[key], allowed) or isinstance(data[key], bool):
            names = " or ".join(t.__name__ for t in allowed)
            raise ValueError(f"{where}.{key}: expected {names}, got {data[key]!r}")
    return dict(data)


def write_manifest(manifest: Manifest, model_dir: str | Path) -> Path:
    """Write ``manifest.json`` whole or not at all; :func:`load_manifest` gives the same record back."""
    data = {f.name: getattr(manifest, f.name) for f in dataclasses.fields(manifest)}
    data["label_space"] = manifest.label_space.to_dict()
    data["weights"] = dataclasses.asdict(manifest.weights)
    data["graphs"] = [dataclasses.asdict(g) for g in manifest.graphs]
    data["state"] = [dataclasses.asdict(s) for s in manifest.state]
    return write_json(data, Path(model_dir) / MANIFEST)


def write_json(data: dict[str, Any], path: Path) -> Path:
    """Write a manifest file whole or not at all."""
    write_text(path, json.dumps(data, indent=1) + "\n")
    return path


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes, as the manifest writes it."""
    with open_regular(path) as file:
        return _digest(file)


def _digest(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def check_files(model_dir: str | Path, manifest: Manifest, graph: GraphFile) -> None:
    """Prove that one graph's files are those the manifest was written for.

    Raises:
        EngineError: a file is missing, or its SHA-256 differs (truncated, or of another export).
    """
    check_hashes(Path(model_dir), graph_files(manifest, graph) | {graph.golden: graph.golden_sha256})


def graph_files(manifest: Manifest, graph: GraphFile) -> dict[str, str]:
    """Files that an engine is made of -> their SHA-256."""
    return {graph.file: graph.sha256, manifest.weights.file: manifest.weights.sha256}


@contextlib.contextmanager
def private_copy(model_dir: Path, hashes: Mapping[str, str]) -> Iterator[Path]:
    """A folder with copies of these files, proved to be those of the manifest; removed afterwards.

    What is loaded is then what was proved, and stays it: libraries map files, and one that is overwritten or
    cut off under a running engine changes its values or ends the process. And no library refuses a copy for
    being a link out of its folder, as the files of a hub's cache are.

    Raises:
        EngineError: see :func:`check_hashes`; or there is no room for the copies.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dvps-")))
        except OSError as error:
            raise EngineError(
                f"no temporary folder can be made ({error}); set TMPDIR to one that can be written"
            ) from error
        for file in hashes:
            with _reading(model_dir / file) as source:
                try:
                    with (folder / file).open("wb") as copy:
                        shutil.copyfileobj(source, copy, 1 << 20)
                except OSError as error:
                    raise EngineError(
                        f"cannot copy {model_dir / file} to {folder}: {error.strerror}"
                    ) from error
        check_hashes(folder, hashes, of=model_dir)
        yield folder


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[IO[bytes]]:
    try:
        file = open_regular(path)
    except OSError as error:
        raise EngineError(
            f"cannot read model file {path}: {error.strerror}; copy the whole model folder"
        ) from error
    with file:
        yield file


def check_hashes(model_dir: Path, hashes: Mapping[str, str], *, of: Path | None = None) -> None:
    """Prove that files are those of the manifest, by name and SHA-256.

    Args:
        of: the folder that they are copies of, for messages.

    Raises:
        EngineError: a file is missing.
        ModelFileError: its SHA-256 differs (truncated, or of another export).
    """
    for file, sha256 in hashes.items():
        with _reading(model_dir / file) as opened:
            found = _digest(opened)
        if found != sha256:
            raise ModelFileError(
                f"model file {(of or model_dir) / file} is truncated or of another export: "
                f"expected SHA-256 {sha256[:12]}..., got {found[:12]}...; copy or export the model again"
            )


def model_places() -> list[Path]:
    """Folders that are searched for models: of a source tree, then of an installed package."""
    return [folder / "models" for folder in share_folders()]


def list_models(kind: str | None = PERCEPTION) -> dict[str, Path]:
    """Name and folder of every model of a kind in :func:`model_places`; the first place wins.

    Args:
        kind: as :func:`model_kind` says; None takes all.

    Raises:
        EngineError: a manifest is not JSON, and a kind was asked for.
    """
    found: dict[str, Path] = {}
    for place in model_places():
        for manifest in sorted(place.glob(f"*/{MANIFEST}")):
            found.setdefault(manifest.parent.name, manifest.parent)
    return {name: folder for name, folder in found.items() if kind is None or model_kind(folder) == kind}


def model_kind(model_dir: str | Path) -> str:
    """``perception``, or what the manifest of a model folder says.

    Raises:
        EngineError: there is no manifest, or it is not JSON.
    """
    data = read_json(Path(model_dir) / MANIFEST)
    return str(data.get("kind", PERCEPTION)) if isinstance(data, dict) else PERCEPTION


def find_model(name_or_path: str | Path) -> Path:
    """The folder of a model: a path that holds a manifest, else a name under :func:`model_places`.

    Raises:
        EngineError: there is none; names the places searched and the models found there.
    """
    explicit = Path(name_or_path).expanduser()
    if (explicit / MANIFEST).is_file():
        return explicit
    models = list_models(None)
    if str(name_or_path) in models:
        return models[str(name_or_path)]
    places = ", ".join(str(p) for p in (explicit, *model_places()))
    raise EngineError(
        f"no model {str(name_or_path)!r}: no {MANIFEST} in any of {places}; "
        f"models found: {', '.join(models) or 'none'}; give a model's name or its folder"
    )
