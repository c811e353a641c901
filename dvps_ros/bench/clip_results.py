# SPDX-License-Identifier: Apache-2.0
"""What ``dvps run`` and ``dvps demo`` leave behind: video, cloud, tracks, and a summary of their report."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from dvps_ros.data.sources import FrameSource
from dvps_ros.labels import LabelSpace
from dvps_ros.types import FrameResult
from dvps_ros.viz.files import VideoFile, track_rows, tracks_file, video_file, write_ply
from dvps_ros.viz.mosaic import mosaic

PICTURES = 6
"""Still pictures of a clip in its report."""


class ClipResults:
    """Video, tracks table and cloud of a clip, written while its frames pass; a context manager.

    The files get their names when the block ends without an error. The cloud is that of the frame that shows
    the largest area of tracked objects.

    Args:
        frames: how many will come, as far as known: decides which become still pictures.
    """

    def __init__(
        self, out: Path, label_space: LabelSpace, *, rate_hz: float, frames: int | None, video_name: str
    ) -> None:
        self.pictures: list[tuple[int, np.ndarray]] = []
        """(stamp_ns, mosaic uint8 [H,W,3]) of some frames."""
        self.frames = 0
        self.tracks_seen: set[int] = set()
        self._out = out
        self._label_space = label_space
        self._rate_hz = rate_hz
        self._every = max(1, (frames or 100) // PICTURES)
        self._video_path = out / video_name
        self._files = contextlib.ExitStack()
        self._video: VideoFile | None = None
        self._best: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __enter__(self) -> ClipResults:
        self._out.mkdir(parents=True, exist_ok=True)
        self._tracks = self._files.enter_context(tracks_file(self._out / "tracks.csv"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and self._best[0] >= 0:
            write_ply(self._out / "cloud.ply", self._best[1])
        self._files.__exit__(kind, error, trace)

    def add(self, result: FrameResult) -> None:
        """Take one frame; ``panoptic`` must be there, ``cloud`` may be."""
        image = mosaic(result, self._label_space)
        if self._video is None:
            height, width = self._video_shape = image.shape[:2]
            self._video = self._files.enter_context(
                video_file(self._video_path, width, height, self._rate_hz)
            )
        elif image.shape[:2] != self._video_shape:  # another camera: the video keeps its size
            image = cv2.resize(image, self._video_shape[::-1], interpolation=cv2.INTER_AREA)
        self._video.write(image)
        self._tracks.writerows(track_rows(result, self._label_space))
        if self.frames % self._every == self._every // 2:
            self.pictures.append((result.stamp_ns, image))
        self.frames += 1
        self.tracks_seen.update(t.track_id for t in result.instances)
        if result.cloud is not None:
            area = int(np.count_nonzero(result.cloud["instance"]))
            if area > self._best[0]:
                self._best = area, result.cloud.copy()


def input_facts(source: FrameSource, spec: str) -> dict[str, Any]:
    """What was put in, for report.json."""
    camera = source.camera
    return {
        "spec": spec,
        "name": source.name,
        "rate_hz": round(source.rate_hz, 3),
        "width": camera.width,
        "height": camera.height,
        "intrinsics": [round(float(v), 3) for v in camera.vector],
        "distorted": camera.is_distorted,
        "unreadable": source.unreadable,
    }


FILES = {
    "report.html": "this report, for people",
    "report.json": "the same figures, for programs",
    "demo.mp4": "camera, panoptic, depth and bird's-eye view side by side",
    "video.mp4": "camera, panoptic, depth and bird's-eye view side by side",
    "cloud.ply": "labelled point cloud of the frame with the largest objects",
    "tracks.csv": "every tracked object in every frame",
    "bag": "all topics as recorded (MCAP)",
    "maps": "class, track, depth and confidence maps of each frame (npz)",
    "scene": "the rendered scene with its truth (PNG)",
}


def left_behind(out: Path) -> list[tuple[str, str]]:
    """(name, meaning) of the results in ``out``."""
    return [(name, meaning) for name, meaning in FILES.items() if (out / name).exists()]


def console_summary(report: Mapping[str, Any], out: Path) -> str:
    """The last lines of a run: the figures, and where to look."""
    latency, quality = report["latency_ms"], report["quality"] or {}
    lines = [
        f"{report['frames_processed']} of {report['frames_in']} frames processed "
        f"at {_number(report['rate_hz'])} Hz, latency p50 {_number(latency['p50'])} ms, "
        f"p99 {_number(latency['p99'])} ms, peak memory {_number(report['peak_rss_mib'])} MiB",
        f"{report['model']} on {report['backend']}",
    ]
    if "pq" in quality:
        pq, stq = quality["pq"], quality["stq"]
        lines.append(
            f"panoptic quality {pq['all']:.1%} (things {_share(pq['things'])}, stuff {_share(pq['stuff'])}), "
            f"STQ {_share(stq['STQ'])}"
        )
    if "depth" in quality:
        depth = quality["depth"]
        error = "of nothing" if depth["abs_rel"] is None else f"{depth['abs_rel']:.1%} relative"
        rmse = "" if depth["rmse"] is None else f", {depth['rmse']:.2f} m RMSE"
        lines.append(
            f"depth error {error}{rmse}, on {depth['coverage']:.1%} of the pixels with truth"
            + (f", flicker {depth['flicker']:.2%}" if depth.get("flicker") is not None else "")
        )
    for key in ("objects", "objects_near"):
        objects = quality.get(key, {})
        if objects.get("sightings"):
            which = f"within {objects['within_m']:.0f} m" if key == "objects_near" else "objects"
            in_class = objects["found_in_class"]
            lines.append(
                f"{which}: {objects['objects_found']} of {objects['objects']} found, "
                f"{_share(objects['found'])} of all {objects['sightings']} sightings under any class"
                + (f", {_share(in_class)} under the right one; " if in_class is not None else "; ")
                + f"ids kept {_share(objects['ids_kept'])}, {objects['id_switches']} switches"
            )
    lines.append("look at:")
    width = max(len(name) for name in FILES)
    lines += [f"  {out / name!s:<{len(str(out)) + width + 1}}  {text}" for name, text in left_behind(out)]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1f}"


def _share(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.1%}"
