# SPDX-License-Identifier: Apache-2.0
"""What the data sets of depth-aware video panoptic segmentation have in common on disk.

A layout knows the file names and encodings of one data set. Read maps follow the project's convention:
class uint8 with 255 void; instance int32, unique over classes in a sequence, 0 for stuff, void and crowd;
depth float32 metres, 0 where there is no truth.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np

from dvps_ros.data.images import FILE_LIMIT, visible
from dvps_ros.data.pixels import png_is_whole
from dvps_ros.errors import InputError
from dvps_ros.files import read_bytes, write_bytes
from dvps_ros.labels import CITYSCAPES, VOID, LabelSpace
from dvps_ros.metrics.counts import Classes
from dvps_ros.metrics.evaluation import FramePair
from dvps_ros.types import Sample

DEPTH_SCALE = 256.0
"""A depth PNG holds uint16 metres times this; 0 is "no truth"."""
NUMBERS_A_CLASS = 1000
"""Of objects that are told apart in one sequence, where a data set does not say."""
PROJECT_THINGS = Classes.of(CITYSCAPES).is_thing
_PNG_COLORS = {3: "a palette", 4: "grey with transparency"}
"""Kinds of PNG (byte 25) that the decoder turns into colours."""


@dataclass(frozen=True)
class FrameFiles:
    """The files of one frame in a tree; ``sequence`` and ``frame`` as their names say.

    ``labels`` is empty for a frame that is not labelled.
    """

    sequence: str
    frame: int
    labels: tuple[Path, ...]
    depth: Path | None = None
    image: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.sequence}/{self.frame:06d}"


class Layout(ABC):
    """One data set's folders, names and encodings.

    Args:
        example: name of a label file, for messages.
        space: names and colours of its classes.
        things: ids of its countable classes.
        rate_hz: of its annotated frames.
        has_depth: whether it holds depth.
    """

    name: str
    rate_hz: float = 10.0
    has_depth: bool = True
    example: str
    space: LabelSpace
    things: tuple[int, ...]

    @property
    def classes(self) -> Classes:
        return Classes.of(self.space, self.things)

    @abstractmethod
    def frames(self, root: Path, split: str) -> list[FrameFiles]:
        """All frames of a tree, labelled or not, ordered by sequence and frame.

        ``root`` may be the data set, its split, or a folder with the same names inside.

        Raises:
            InputError: root is no folder, or a frame is there twice. A label file that is missing beside
                another is found out when it is read.
        """

    def index(self, root: Path, split: str) -> list[FrameFiles]:
        """The annotated or predicted frames of :meth:`frames`.

        Raises:
            InputError: as :meth:`frames`, or there are none.
        """
        found = [files for files in self.frames(root, split) if files.labels]
        if not found:
            raise InputError(f"{root}: found no frames named like {self.example} (split {split})")
        return found

    @abstractmethod
    def read_labels(self, files: FrameFiles) -> tuple[np.ndarray, np.ndarray]:
        """Class uint8 [H,W] and instance int32 [H,W].

        Raises:
            InputError: naming the file: unreadable, of another type, or with unknown classes.
        """

    @abstractmethod
    def write(
        self,
        root: Path,
        split: str,
        sequence: str,
        frame: int,
        *,
        class_map: np.ndarray,
        instance_map: np.ndarray,
        depth_m: np.ndarray | None = None,
        image: np.ndarray | None = None,
        predicted: bool = False,
    ) -> FrameFiles:
        """Write one frame as the data set would hold it; depth beyond 255.99 m is written as "no truth".

        Args:
            predicted: with the names that predictions have.

        Raises:
            InputError: an instance id does not fit the encoding, or the layout holds no depth.
            OutputError: a file cannot be written.
        """

    @abstractmethod
    def intrinsics(self, files: FrameFiles, height: int, width: int) -> np.ndarray:
        """float32 [4]: fx, fy, cx, cy in pixels, nominal where the files do not say."""

    def to_project(self, class_map: np.ndarray) -> np.ndarray:
        """Class ids of this data set as ids of the project's label space."""
        return class_map

    def packed_ids(self, class_map: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Ids that :meth:`write` takes, int32 [H,W], of numbers from 1 that each class counts for itself."""
        return np.where(numbers > 0, class_map.astype(np.int32) * NUMBERS_A_CLASS + numbers, 0)

    def samples(self, root: Path, split: str, length: int, stride: int = 1) -> Iterator[Sample]:
        """Clips of ``length`` consecutive frames inside each sequence, starting every ``stride`` frames.

        Raises:
            InputError: naming the file that is missing, broken or of another size.
        """
        for frames in self._windows(root, split, length, stride):
            yield self.sample(frames)

    def clips(
        self, root: Path, split: str, length: int, *, native: bool = False
    ) -> list[Callable[[], Sample]]:
        """All clips of ``length`` consecutive frames inside a sequence, each read when it is called.

        Args:
            native: see :meth:`sample`.

        Raises:
            InputError: as :meth:`index`; or no sequence is so long.
        """
        windows = self._windows(root, split, length)
        found: list[Callable[[], Sample]] = [partial(self.sample, w, native=native) for w in windows]
        if not found:
            raise InputError(
                f"{root}: no sequence of {self.name} (split {split}) has {length} labelled frames"
            )
        return found

    def _windows(self, root: Path, split: str, length: int, stride: int = 1) -> Iterator[list[FrameFiles]]:
        for _, group in groupby(self.index(root, split), key=lambda f: f.sequence):
            frames = list(group)
            for start in range(0, len(frames) - length + 1, stride):
                yield frames[start : start + length]

    def sample(self, frames: list[FrameFiles], *, native: bool = False) -> Sample:
        """The clip of these frames, ids of unlabelled things -1.

        Args:
            native: classes are the data set's own (``space``), not the project's.

        Raises:
            InputError: naming the file that is missing, broken or of another size.
        """
        images: list[np.ndarray] = []
        classes, instances, depths, intrinsics = [], [], [], []
        is_thing = self.classes.is_thing
        for files in frames:
            if files.image is None:
                raise InputError(f"{files.labels[0]}: its camera image is missing beside it")
            image = read_rgb(files.image)
            class_map, instance_map = self.read_labels(files)
            maps = [(files.image, image), (files.labels[0], class_map)]
            if files.depth is not None:
                depths.append(read_depth(files.depth))
                maps.append((files.depth, depths[-1]))
            for path, array in maps:
                check_size(path, array.shape[:2], images[0].shape[:2] if images else image.shape[:2])
            images.append(image)
            classes.append(class_map if native else self.to_project(class_map))
            # Also of things that this data set does not count, such as KITTI-STEP's trucks.
            thing = is_thing[class_map] | (False if native else PROJECT_THINGS[classes[-1]])
            instances.append(np.where(thing & (instance_map == 0), -1, instance_map))
            intrinsics.append(self.intrinsics(files, *image.shape[:2]))
        return Sample(
            images=np.stack(images),
            intrinsics=np.stack(intrinsics),
            source=f"{self.name} {frames[0].name}",
            class_map=np.stack(classes),
            instance_map=np.stack(instances).astype(np.int32),
            depth_m=np.stack(depths) if len(depths) == len(frames) else None,
        )


class FolderPairs:
    """Truth and prediction of the frames of two trees of one layout.

    Args:
        depth: whether depth is needed; None takes it where the truth and the prediction have it.

    Raises:
        InputError: the prediction lacks frames, or holds others than the truth; depth is needed and missing,
            or some frames have it and others do not.
    """

    def __init__(
        self, layout: Layout, gt: Path, pred: Path, split: str, *, depth: bool | None = None
    ) -> None:
        self.layout = layout
        truth = layout.index(gt, split)
        guess = {(f.sequence, f.frame): f for f in layout.index(pred, split)}
        missing = [f for f in truth if (f.sequence, f.frame) not in guess]
        if missing:
            raise InputError(
                f"{pred}: {len(missing)} of {len(truth)} frames of the truth have no prediction, "
                f"the first is {missing[0].name} (truth: {missing[0].labels[0]})"
            )
        self.frames = [(f, guess.pop((f.sequence, f.frame))) for f in truth]
        if guess:
            first = next(iter(guess.values()))
            raise InputError(
                f"{pred}: {len(guess)} frames are predicted but not in the truth {gt}, "
                f"the first is {first.labels[0]}"
            )
        self.has_depth = True
        for side, name in ((0, "truth"), (1, "prediction")):
            lacking = [pair[side].labels[0] for pair in self.frames if pair[side].depth is None]
            # A few missing files are a mistake; none at all is a layout or a network without depth.
            if lacking and depth is not False and (depth or len(lacking) < len(self.frames)):
                raise InputError(
                    f"no depth file beside {lacking[0]} ({name}), nor beside {len(lacking) - 1} others of "
                    f"{len(self.frames)}; metrics without depth: --metrics PQ,VPQ,STQ,PAT,ids"
                )
            self.has_depth &= not lacking and depth is not False

    def __len__(self) -> int:
        return len(self.frames)

    def sequence(self, index: int) -> str:
        return self.frames[index][0].sequence

    def load(self, index: int) -> FramePair:
        """The maps of one frame.

        Raises:
            InputError: naming the file.
        """
        gt, pr = self.frames[index]
        gt_sem, gt_ins = self.layout.read_labels(gt)
        pr_sem, pr_ins = self.layout.read_labels(pr)
        check_size(pr.labels[0], pr_sem.shape, gt_sem.shape)
        gt_depth, pr_depth = (self._depth(files, gt_sem.shape) for files in (gt, pr))
        return FramePair(
            gt.sequence, gt.name, gt_sem, gt_ins, pr_sem, pr_ins, gt_depth, pr_depth, str(gt.labels[0])
        )

    def _depth(self, files: FrameFiles, shape: tuple[int, ...]) -> np.ndarray | None:
        if not self.has_depth or files.depth is None:
            return None
        depth_m = read_depth(files.depth)
        check_size(files.depth, depth_m.shape, shape)
        return depth_m

    def image(self, index: int) -> np.ndarray | None:
        """uint8 [H,W,3] RGB of one frame, where the truth has it."""
        path = self.frames[index][0].image
        return None if path is None else read_rgb(path)


def find_problems(layout: Layout, gt: Path, pred: Path | None, split: str) -> Iterator[str | None]:
    """Look at every file of a tree, or of truth and prediction, instead of stopping at the first bad one.

    Yields:
        After each frame None, or a sentence naming the file that is broken, missing or inconsistent.
    """
    try:
        truth = layout.index(gt, split)
        guess = [] if pred is None else layout.index(pred, split)
        yield from _incomplete(layout.frames(gt, split))
    except InputError as error:
        yield str(error)
        return
    predicted = {(f.sequence, f.frame): f for f in guess}
    sizes: dict[str, tuple[int, ...]] = {}
    for files in truth:
        both = [files]
        if pred is not None:
            partner = predicted.pop((files.sequence, files.frame), None)
            if partner is None:
                yield f"{pred}: frame {files.name} has no prediction (truth: {files.labels[0]})"
            else:
                both.append(partner)
                if files.depth and not partner.depth and any(f.depth for f in guess):
                    yield f"{partner.labels[0]}: no depth file beside it, as other frames have"
        for item in both:
            for path, read in (
                (item.labels[0], lambda item=item: layout.read_labels(item)[0]),
                (item.depth, lambda item=item: read_depth(item.depth)),
                (item.image, lambda item=item: read_rgb(item.image)),
            ):
                if path is not None:
                    try:
                        size = read().shape[:2]
                        check_size(path, size, sizes.setdefault(files.sequence, size))
                    except InputError as error:
                        yield str(error)
        yield None
    for extra in predicted.values():
        yield f"{extra.labels[0]}: the truth has no such frame"


def _incomplete(frames: list[FrameFiles]) -> Iterator[str]:
    """What a tree lacks by its names alone: a kind of file that other frames have, and frames in between."""
    labelled = [f for f in frames if f.labels]
    for kind in ("image", "depth"):
        if any(getattr(f, kind) for f in labelled):
            for files in labelled:
                if getattr(files, kind) is None:
                    yield f"{files.labels[0]}: no {kind} file beside it, as other frames have"
    for files in frames:
        if not files.labels:
            yield f"{files.image or files.depth}: no label file beside it, as other frames have"
    sequences = {name: [f.frame for f in group] for name, group in groupby(frames, lambda f: f.sequence)}
    steps = [b - a for numbers in sequences.values() for a, b in pairwise(numbers)]
    for name, numbers in sequences.items():
        for before, after in pairwise(numbers):
            if after - before > min(steps):
                yield f"sequence {name}: frames are missing between {before:06d} and {after:06d}"


def split_folder(root: Path, *candidates: str) -> Path:
    """The first of ``root/candidate`` that exists, else ``root``.

    Raises:
        InputError: root is no folder.
    """
    if not root.is_dir():
        raise InputError(f"{root}: expected a folder")
    return next((root / c for c in candidates if (root / c).is_dir()), root)


def read_png(path: Path) -> np.ndarray:
    """A PNG as stored, colour channels in RGB order.

    Raises:
        InputError: missing, truncated, no PNG, or of a kind whose stored values the decoder does not give.
    """
    import cv2

    try:
        data = read_bytes(path, limit=FILE_LIMIT)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    # A truncated file would decode to an image with an empty lower part.
    flat = np.frombuffer(data, np.uint8)
    whole = data[:4] == b"\x89PNG" and png_is_whole(flat)
    array = cv2.imdecode(flat, cv2.IMREAD_UNCHANGED) if whole else None
    if array is None:
        raise InputError(f"{path}: expected a whole PNG, got {len(data)} bytes that cannot be decoded")
    if data[25] in _PNG_COLORS:
        raise InputError(
            f"{path}: expected a PNG of grey values or of RGB, got one with {_PNG_COLORS[data[25]]}; "
            "save its values as they are"
        )
    bits, gray = data[24], data[25] == 0
    if gray and bits < 8:
        array = array // np.uint8(255 // (2**bits - 1))  # the decoder spreads 1, 2 and 4 bits over 0 to 255
    return array if array.ndim == 2 else np.ascontiguousarray(array[..., 2::-1])


def read_rgb(path: Path) -> np.ndarray:
    """uint8 [H,W,3] camera image.

    Raises:
        InputError: unreadable, or not 8 bits a channel.
    """
    image = read_png(path)
    if image.dtype != np.uint8:
        raise InputError(f"{path}: expected an image of 8 bits a channel, got {image.dtype}")
    return np.repeat(image[..., None], 3, 2) if image.ndim == 2 else image


def read_depth(path: Path) -> np.ndarray:
    """float32 [H,W] metres, 0 = no truth.

    Raises:
        InputError: unreadable, or not one channel of 16 bits.
    """
    depth = read_png(path)
    if depth.dtype != np.uint16 or depth.ndim != 2:
        channels = 1 if depth.ndim == 2 else depth.shape[2]
        raise InputError(
            f"{path}: expected depth as one channel of 16 bits (metres x 256), "
            f"got {channels} channels of {depth.dtype}"
        )
    return depth.astype(np.float32) / np.float32(DEPTH_SCALE)


def write_depth(path: Path, depth_m: np.ndarray) -> None:
    """Write metres as uint16 x 256; values that do not fit, or are no numbers, become 0."""
    scaled = np.rint(np.nan_to_num(depth_m.astype(np.float64), nan=0, posinf=0, neginf=0) * DEPTH_SCALE)
    write_png(path, np.where((scaled > 0) & (scaled < 2**16), scaled, 0).astype(np.uint16))


def write_png(path: Path, array: np.ndarray) -> None:
    """Write uint8 or uint16 [H,W], or uint8 [H,W,3] in RGB order; the file is whole or not there.

    Raises:
        InputError: an array that no PNG holds.
        OutputError: the file cannot be written.
    """
    import cv2

    ok, data = cv2.imencode(".png", array if array.ndim == 2 else array[..., ::-1])
    if not ok:
        raise InputError(f"cannot encode {path} from {array.dtype} {array.shape}")
    write_bytes(path, data.tobytes())


def check_size(path: Path | None, got: tuple[int, ...], expected: tuple[int, ...]) -> None:
    """Refuse a map of another size.

    Raises:
        InputError: naming the file, sizes as height x width.
    """
    if got != expected:
        raise InputError(f"{path}: expected {expected[0]}x{expected[1]} pixels, got {got[0]}x{got[1]}")


def check_classes(path: Path, class_map: np.ndarray, count: int) -> None:
    """Refuse class ids that are neither 0..count-1 nor void.

    Raises:
        InputError: naming the file and the ids.
    """
    found = np.flatnonzero(np.bincount(class_map.ravel(), minlength=256))
    stray = [int(c) for c in found if c >= count and c != VOID]
    if stray:
        few = f"{stray[:5]}" + (f" and {len(stray) - 5} more" if len(stray) > 5 else "")
        raise InputError(f"{path}: unknown classes {few}; expected 0 to {count - 1}, or {VOID} for void")


def files_by_frame(
    folder: Path, pattern: re.Pattern[str], kind_of: Callable[[str], str]
) -> list[tuple[str, int, dict[str, Path]]]:
    """(sequence, frame, kind -> file) of all files in a folder whose names match, in order.

    Args:
        pattern: its first three groups are sequence, frame and the kind as the name has it.
        kind_of: kinds that mean the same become one.

    Raises:
        InputError: a frame has two files of one kind.
    """
    frames: dict[tuple[str, int], dict[str, Path]] = {}
    for path in sorted(visible(folder)):
        match = pattern.fullmatch(path.name)
        if match:
            sequence, frame, written = match.groups()[:3]
            kind = kind_of(written)
            files = frames.setdefault((sequence, int(frame)), {})
            if kind in files:
                raise InputError(f"{path}: the same frame is there as {files[kind].name} too")
            files[kind] = path
    return [(sequence, frame, files) for (sequence, frame), files in sorted(frames.items())]
