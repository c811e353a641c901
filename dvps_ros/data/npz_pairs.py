# SPDX-License-Identifier: Apache-2.0
"""Truth and prediction of many frames in one npz file, read frame by frame.

Arrays ``gt_sem``, ``gt_ins``, ``pr_sem``, ``pr_ins`` integer [T,H,W] (class, 255 void; instance, 0 none or
crowd), optionally ``gt_depth``, ``pr_depth`` floating [T,H,W] metres (0 = invalid) and ``seq`` [T] (equal
values are one sequence; without it all frames are), and ``gt_steering``, ``pr_steering`` [T] rad.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy

from dvps_ros.errors import InputError
from dvps_ros.metrics.evaluation import FramePair

LABELS = ("gt_sem", "gt_ins", "pr_sem", "pr_ins")
DEPTHS = ("gt_depth", "pr_depth")


class NpzPairs:
    """The frames of an npz file, ordered by sequence (first seen first), then as stored.

    Members that are stored plain are mapped, compressed ones are read as a stream: memory holds a frame.

    Raises:
        InputError: no npz file, or an array is missing or of a wrong type or shape.
    """

    def __init__(self, path: Path, *, depth: bool | None = None) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = {n.removesuffix(".npy") for n in archive.namelist() if n.endswith(".npy")}
        except (OSError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {path}: expected a numpy .npz file ({error})") from error
        missing = [name for name in LABELS if name not in names]
        found = [name for name in DEPTHS if name in names]
        if depth or len(found) == 1:
            missing += [name for name in DEPTHS if name not in names]
        if missing:
            holds = ", ".join(sorted(names)) or "none"
            raise InputError(f"{path}: arrays {', '.join(missing)} are missing; it holds {holds}")
        self.has_depth = depth if depth is not None else bool(found)
        self._members = {name: _Member(path, name) for name in (*LABELS, *(DEPTHS if self.has_depth else ()))}
        shape = self._members["gt_sem"].shape
        for name, member in self._members.items():
            kinds, words = ("iu", "an integer") if name in LABELS else ("f", "a floating (metres)")
            if member.dtype.kind not in kinds:
                raise InputError(f"{path}: {name}: expected {words} array, got {member.dtype}")
            if len(member.shape) != 3 or member.shape != shape:
                raise InputError(f"{path}: {name}: expected [T,H,W] as gt_sem {shape}, got {member.shape}")
        if 0 in shape:
            raise InputError(f"{path}: gt_sem: expected frames with pixels, got [T,H,W] {list(shape)}")
        seq = self._vector("seq", names)
        sequences = ["0"] * shape[0] if seq is None else [str(v) for v in seq.tolist()]
        self.steering = self._steering(names)
        """True and predicted road-wheel angle float64 [T] in rad, where the file has them."""
        self._order = [t for name in dict.fromkeys(sequences) for t, s in enumerate(sequences) if s == name]
        self._sequences = sequences

    def _steering(self, names: set[str]) -> tuple[np.ndarray, np.ndarray] | None:
        truth, guess = (self._vector(name, names) for name in ("gt_steering", "pr_steering"))
        if truth is None and guess is None:
            return None
        if truth is None or guess is None:
            name = "gt_steering" if truth is None else "pr_steering"
            raise InputError(f"{self.path}: array {name} is missing beside the other one")
        for name, values in (("gt_steering", truth), ("pr_steering", guess)):
            if values.dtype.kind not in "fiu":
                raise InputError(f"{self.path}: {name}: expected numbers (rad), got {values.dtype}")
        known = ~np.isnan(truth)
        if not (np.isfinite(truth[known]).all() and np.isfinite(guess[known]).all()):
            raise InputError(
                f"{self.path}: expected a finite pr_steering wherever gt_steering is known, and gt_steering "
                "finite or NaN (unknown)"
            )
        return truth.astype(np.float64), guess.astype(np.float64)

    def _vector(self, name: str, names: set[str]) -> np.ndarray | None:
        if name not in names:
            return None
        values = _load(self.path, name)
        length = self._members["gt_sem"].shape[0]
        if values.shape != (length,):
            raise InputError(f"{self.path}: {name}: expected [{length}], got {list(values.shape)}")
        return values

    def __len__(self) -> int:
        return len(self._order)

    def sequence(self, index: int) -> str:
        return self._sequences[self._order[index]]

    def load(self, index: int) -> FramePair:
        """The maps of one frame.

        Raises:
            InputError: the file ends early.
        """
        t = self._order[index]
        maps: dict[str, Any] = {name: member.frame(t) for name, member in self._members.items()}
        return FramePair(self._sequences[t], f"{t} of {self.path.name}", **maps)

    def image(self, index: int) -> None:
        """No camera images in such a file."""
        return None


_DAMAGE = (OSError, EOFError, zipfile.BadZipFile, zlib.error)
"""What reading a member raises whose bytes are not those that were written."""


class _Member:
    """One array of an npz file, a frame at a time; reopened in each process that reads it."""

    def __init__(self, path: Path, name: str) -> None:
        self.path, self.name = path, name
        try:
            with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as stream:
                self.shape, self.fortran, self.dtype = _header(path, name, stream)
                self._stored = archive.getinfo(f"{name}.npy").compress_type == zipfile.ZIP_STORED
        except _DAMAGE as error:
            raise InputError(f"{path}: {name}: cannot be read: {error}") from error
        self._close()

    def _close(self) -> None:
        self._map: np.ndarray | None = None
        self._stream: Any = None
        self._next = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_map": None, "_stream": None, "_next": 0}

    def frame(self, t: int) -> np.ndarray:
        if self._map is None and (self._stored or self.fortran):
            self._map = self._mapped()
        if self._map is not None:
            return np.ascontiguousarray(self._map[t])
        if self._stream is None or self._next > t:
            self._stream = zipfile.ZipFile(self.path).open(f"{self.name}.npy")
            _header(self.path, self.name, self._stream)
            self._next = 0
        size = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        try:
            while self._next < t:
                self._stream.read(size)
                self._next += 1
            data = self._stream.read(size)
        except _DAMAGE as error:
            raise InputError(f"{self.path}: {self.name}: frame {t} cannot be read: {error}") from error
        self._next += 1
        if len(data) != size:
            raise InputError(f"{self.path}: {self.name}: ends before frame {t}")
        return np.frombuffer(data, self.dtype).reshape(self.shape[1:])

    def _mapped(self) -> np.ndarray:
        if not self._stored:
            return _load(self.path, self.name)
        with zipfile.ZipFile(self.path) as archive:
            info = archive.getinfo(f"{self.name}.npy")
        with open(self.path, "rb") as file:
            # The local header repeats the name, and its extra field may differ from the directory's.
            file.seek(info.header_offset + 26)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2").tolist()
            file.seek(info.header_offset + 30 + name_length + extra_length)
            _header(self.path, self.name, file)
            offset = file.tell()
        return np.memmap(self.path, self.dtype, "r", offset, self.shape, "F" if self.fortran else "C")


def _header(path: Path, name: str, stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except ValueError as error:
        raise InputError(f"{path}: {name}: expected a numpy array ({error})") from error
    if dtype.hasobject:
        raise InputError(f"{path}: {name}: expected numbers, got Python objects")
    return shape, fortran, dtype


def _load(path: Path, name: str) -> np.ndarray:
    """A whole array of the file.

    Raises:
        InputError: naming it: damaged, or Python objects.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return archive[name]
    except (*_DAMAGE, ValueError) as error:
        raise InputError(f"{path}: {name}: cannot be read: {error}") from error
