# SPDX-License-Identifier: Apache-2.0
"""Driving logs with steering: a CSV of time, image and angle, one line a camera frame (docs/data.md).

============================  ===========================================================================
column                        content
============================  ===========================================================================
``t_ns`` or ``t_s``           time of the image, nanoseconds or seconds, increasing
``image``                     image file, relative to the CSV's folder (or to ``images/`` in it); a log of
                              angles alone has none
``steering_rad``              road-wheel angle, rad, left positive; empty or ``nan``: unknown
``speed_mps``                 optional; empty or ``nan``: unknown
============================  ===========================================================================

Logs of others are known by their columns: :data:`ANGLES` and :data:`TIMES`. What such a log does not tell
(the steering ratio, the frame rate) is nominal there and can be given instead.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dvps_ros.data.calibration import camera_for, load_camera
from dvps_ros.data.images import FIRST_STAMP_NS, first_readable, image_files, read_sized, visible
from dvps_ros.errors import InputError
from dvps_ros.types import CameraModel, Sample

NOMINAL_FOV_DEG = 60.0
"""Horizontal, of a log without ``camera*.json`` or ``.yaml``."""


@dataclass(frozen=True)
class AngleColumn:
    """What one unit of a log's angle is.

    Args:
        rad_per_unit: road-wheel angle in rad, left positive, of one unit of the column.
        rate_hz: frame rate of such logs if they hold no time; None where they always do.
    """

    rad_per_unit: float
    rate_hz: float | None = None


ANGLES = {
    "steering_rad": AngleColumn(1.0),
    "road_wheel_angle_rad": AngleColumn(1.0),
    # Sully Chen's Honda Civic: steering wheel, right positive, 30 Hz. The steering ratio is not published.
    "steering_wheel_deg": AngleColumn(-math.radians(1) / 16.0, 30.0),
    # Donkey car: share of full lock (about 25 degrees on the usual chassis), right positive, 20 Hz.
    "steering_norm": AngleColumn(-math.radians(25), 20.0),
}
"""Columns that hold an angle, in the order in which they are looked for."""

TIMES = {"t_ns": 1, "t_unix_ns": 1, "t_s": 10**9, "t_rel_s": 10**9}
"""Columns that hold the time, and nanoseconds of a unit."""

COMMA_RAD_PER_DEG = math.radians(1) / 16.88
"""comma2k19, Toyota RAV4: steering wheel, left positive; steering ratio 16.88, wheelbase 2.65 m."""


class SteeringLog:
    """Camera frames with the angle that was driven; images are read when they are asked for.

    Args:
        images: one file a frame; none at all where only the angles are at hand.
        stamps_ns: int64 [N], increasing.
        steering_rad, speed_mps: float32 [N], NaN unknown.
        camera: of the images; None takes a nominal one.
    """

    def __init__(
        self,
        name: str,
        images: Sequence[Path],
        stamps_ns: np.ndarray,
        steering_rad: np.ndarray,
        speed_mps: np.ndarray,
        camera: CameraModel | None = None,
    ) -> None:
        self.name = name
        self.images = tuple(images)
        self.stamps_ns = np.asarray(stamps_ns, np.int64)
        self.steering_rad = np.asarray(steering_rad, np.float32)
        self.speed_mps = np.asarray(speed_mps, np.float32)
        self._given = camera

    @cached_property
    def camera(self) -> CameraModel:
        """Of the images: as calibrated, else nominal for the size of the first that can be read.

        Raises:
            InputError: there are no images, or none can be read.
        """
        if not self.images:
            raise InputError(f"{self.name}: the log holds {len(self)} angles but no images")
        if self._given is not None:
            return self._given
        height, width = first_readable(self.images).shape[:2]
        return camera_for(self.name, width, height, camera=None, fov_deg=NOMINAL_FOV_DEG)

    def __len__(self) -> int:
        return len(self.stamps_ns)

    def clip(self, first: int, frames: int) -> Sample:
        """Consecutive frames as one sample.

        Raises:
            InputError: beyond the log, it has no images, or one is missing, damaged or of another size.
        """
        if not 0 <= first < first + frames <= len(self):
            raise InputError(
                f"{self.name}: frames {first}..{first + frames - 1} are not within 0..{len(self) - 1}"
            )
        camera, span = self.camera, slice(first, first + frames)
        return Sample(
            images=np.stack([read_sized(path, camera) for path in self.images[span]]),
            intrinsics=np.tile(camera.vector, (frames, 1)),
            source=f"{self.name}/{self.images[first].stem}",
            stamps_ns=self.stamps_ns[span],
            steering_rad=self.steering_rad[span],
            speed_mps=self.speed_mps[span],
        )


def open_steering_log(
    path: Path,
    *,
    camera: CameraModel | None = None,
    rad_per_unit: float | None = None,
    rate_hz: float | None = None,
) -> SteeringLog:
    """Open a log: a CSV, a folder with ``steering.csv``, or a comma2k19 segment (:func:`comma2k19_log`).

    Args:
        camera: goes before the only ``camera*.json`` or ``.yaml`` beside the CSV.
        rad_per_unit: road-wheel rad, left positive, of one unit of the angle, if not as in :data:`ANGLES`.
        rate_hz: of a log without time, if not as in :data:`ANGLES`.

    Raises:
        InputError: naming the file, and the line: unreadable, columns missing, a value that is no number, or
            time that does not increase. A missing image is found out when it is read.
    """
    log, problems = _open(path, camera, rad_per_unit, rate_hz)
    if problems:
        raise InputError(problems[0])
    return log


def log_problems(path: Path) -> Iterator[str | None]:
    """Look at every line and every image of a log.

    Yields:
        After each frame None, or a sentence naming what is wrong.
    """
    try:
        log, problems = _open(path, None, None, None)
    except InputError as error:
        yield str(error)
        return
    yield from problems
    try:
        camera = log.camera
    except InputError as error:
        yield str(error)
        return
    for path in log.images:
        try:
            read_sized(path, camera)
        except InputError as error:
            yield str(error)
        yield None


def comma2k19_log(folder: Path, camera: CameraModel | None = None) -> SteeringLog:
    """A segment of comma2k19: angle and speed of the CAN bus at the times of the camera frames.

    Known are the published tree (``global_pose/frame_times``, ``processed_log/CAN/steering_angle/t`` ...) and
    the same arrays side by side (``frame_times.npy``, ``steering_angle_t.npy`` ...). The frames of
    ``video.hevc`` are read from ``images/`` (``ffmpeg -i video.hevc images/%06d.jpg``); without that folder
    the log holds angles only. Frames before the first or after the last CAN value have NaN.

    Raises:
        InputError: an array is missing, damaged, or does not fit the others, or time does not increase.
    """
    times = _increasing(folder, "frame times", _array(folder, "global_pose/frame_times", "frame_times.npy"))
    stamps_ns = np.rint(times * 1e9).astype(np.int64)
    values = []
    for name in ("steering_angle", "speed"):
        t = _array(folder, f"processed_log/CAN/{name}/t", f"{name}_t.npy")
        value = _array(folder, f"processed_log/CAN/{name}/value", f"{name}_value.npy")
        if len(t) != len(value) or not len(t):
            raise InputError(
                f"{folder}: {name}: expected a value for each time, got {len(value)} and {len(t)}"
            )
        t = _increasing(folder, f"times of {name}", t, least_s=0.0)
        values.append(np.interp(times, t, value, left=np.nan, right=np.nan))
    images = image_files(folder / "images") if (folder / "images").is_dir() else []
    if images and len(images) != len(times):
        raise InputError(
            f"{folder / 'images'}: expected {len(times)} images as frame times, got {len(images)}"
        )
    return SteeringLog(
        folder.resolve().name, images, stamps_ns, COMMA_RAD_PER_DEG * values[0], values[1], camera
    )


def _increasing(folder: Path, what: str, times_s: np.ndarray, least_s: float = 1e-9) -> np.ndarray:
    """``times_s`` [N], if it is finite and each time comes at least ``least_s`` after the one before."""
    late = np.diff(times_s, prepend=-np.inf) >= least_s
    if not (late & np.isfinite(times_s)).all():
        first = int(np.argmin(late & np.isfinite(times_s)))
        raise InputError(
            f"{folder}: {what}: expected seconds that increase, got {times_s[first]} s as number {first}"
        )
    return times_s


def _array(folder: Path, *names: str) -> np.ndarray:
    """float64 [N] of the first of these files that is there."""
    path = next((folder / name for name in names if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"{folder}: expected a file {' or '.join(names)}")
    try:
        with path.open("rb") as file:
            return np.load(file, allow_pickle=False).astype(np.float64).reshape(-1)
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"cannot read {path}: {error}") from error


def _open(
    path: Path, camera: CameraModel | None, rad_per_unit: float | None, rate_hz: float | None
) -> tuple[SteeringLog, list[str]]:
    """The log, and what is wrong with lines that it had to leave out."""
    table = path / "steering.csv" if path.is_dir() else path
    if path.is_dir() and not table.is_file() and _is_comma2k19(path):
        return comma2k19_log(path, camera), []
    folder = table.parent
    try:
        # Spreadsheets begin the file with a mark that is no part of the first column's name.
        with table.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows, heading = list(reader), reader.fieldnames or ()
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read steering log {table}: {error}") from error
    if not rows:
        raise InputError(f"{table}: expected a heading and lines below it, got none")
    twice = sorted({name for name in heading if heading.count(name) > 1})
    if twice:
        raise InputError(f"{table}: expected each column once, got {', '.join(twice)} twice; remove one")
    angle = next((name for name in ANGLES if name in heading), None)
    if angle is None:
        raise InputError(
            f"{table}: expected columns t_ns or t_s, image and steering_rad (or the angle as "
            f"{', '.join(list(ANGLES)[1:])}), got {', '.join(heading)}"
        )
    scale = ANGLES[angle].rad_per_unit if rad_per_unit is None else rad_per_unit
    clock = _Clock(table, heading, rate_hz or ANGLES[angle].rate_hz)
    image_of = _image_names(folder, rows)
    images: list[Path] = []
    stamps: list[int] = []
    angles: list[float] = []
    speeds: list[float] = []
    problems: list[str] = []
    for line, row in enumerate(rows, start=2):
        try:
            if None in row:  # csv's key for what has no column
                raise ValueError(f"expected {len(heading)} cells, got more; numbers need a decimal point")
            stamp, number, speed = clock.stamp(line, row), _number(row, angle), _number(row, "speed_mps")
            image = image_of(row)
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"{table}, line {line}: {error}")
            continue
        stamps.append(stamp)
        angles.append(number)
        speeds.append(speed)
        if image is not None:
            images.append(image)
    own = [p for p in visible(folder, "camera*") if p.suffix in (".json", ".yaml", ".yml")]
    if camera is None and len(own) == 1:
        camera = load_camera(own[0])
    name = folder.resolve().name
    steering_rad = scale * np.array(angles)
    return SteeringLog(
        name, images, np.array(stamps, np.int64), steering_rad, np.array(speeds), camera
    ), problems


def _is_comma2k19(folder: Path) -> bool:
    return (folder / "global_pose").is_dir() or (folder / "frame_times.npy").is_file()


class _Clock:
    """Time of one line after the other, from the column that has it or by counting."""

    def __init__(self, table: Path, heading: Sequence[str], rate_hz: float | None) -> None:
        self._column = next((name for name in TIMES if name in heading), None)
        if self._column is None and rate_hz is None:
            raise InputError(f"{table}: expected a column with time ({', '.join(TIMES)}), or a frame rate")
        self._rate_hz = rate_hz
        self._last_ns = -(2**63)

    def stamp(self, line: int, row: dict[str, str]) -> int:
        """Nanoseconds.

        Raises:
            ValueError: no number, too large for nanoseconds, or not after the line before.
        """
        if self._column is None:
            return FIRST_STAMP_NS + round((line - 2) * 1e9 / float(self._rate_hz or 1))
        text, unit = row[self._column], TIMES[self._column]
        # A time since 1970 in nanoseconds has more digits than a float keeps.
        exact = int(text) if unit == 1 else float(text) * unit
        if not abs(exact) < 2**63:
            raise ValueError(f"{self._column}: expected a time within 292 years of 1970, got {text}")
        now_ns = round(exact)
        if now_ns <= self._last_ns:
            raise ValueError(f"{self._column}: expected more than in the line before, got {text}")
        self._last_ns = now_ns
        return now_ns


def _number(row: dict[str, str], column: str) -> float:
    """A finite value, or NaN where the cell or the column is empty.

    Raises:
        ValueError: the text is no number, or infinite.
    """
    text = (row.get(column) or "").strip()
    value = float(text or "nan")
    if math.isinf(value):
        raise ValueError(f"{column}: expected a finite number, got {text}")
    return value


def _image_names(folder: Path, rows: Sequence[dict[str, str]]) -> Callable[[dict[str, str]], Path | None]:
    """How a line names its image: by ``image``, by ``frame`` number in the only folder ``image*``, or not."""
    if "image" in rows[0]:
        here = any((folder / (row["image"] or "")).is_file() for row in rows[:10])
        base = folder if here or not (folder / "images").is_dir() else folder / "images"
        return lambda row: base / row["image"]
    if "frame" not in rows[0]:
        return lambda row: None
    folders = [p for p in sorted(visible(folder, "image*")) if p.is_dir()]
    if len(folders) != 1:
        raise InputError(
            f"{folder}: expected one folder image* for a log of frame numbers, got {len(folders)}"
        )
    by_number = {int(p.stem): p for p in image_files(folders[0]) if p.stem.isdecimal()}

    def numbered(row: dict[str, str]) -> Path:
        number = int(row["frame"])
        return by_number.get(number, folders[0] / f"{number:010d}.png")

    return numbered
