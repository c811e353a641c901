# SPDX-License-Identifier: Apache-2.0
"""A camera made of memory, and a listener that notes when the outputs of a frame are there.

Images are serialised once; what is sent is those bytes with a new stamp. Outputs are received serialised and
only their stamp is read, when the last output of a frame has come: to wake rclpy's executor for each message
costs more than to take it. So neither costs the graph under test much more than the transport itself.
"""

from __future__ import annotations

import itertools
import struct
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.serialization import serialize_message
from rclpy.subscription import Subscription
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from visualization_msgs.msg import MarkerArray

from dvps_ros import msg as dvps_msg
from dvps_ros.errors import ConfigError
from dvps_ros.ros import convert, qos
from dvps_ros.ros.outputs import OUTPUTS, Output, vision_outputs
from dvps_ros.ros.probes.observer import Observer
from dvps_ros.types import Frame

_HEADER = 4
"""Bytes before a serialised message (XCDR1): byte order and options."""
QUIET_S = 1.5
"""Without any output after the last image: what is missing now is lost."""


def stamped(serialised: bytes, stamp_ns: int) -> bytes:
    """A serialised message that begins with its header, under another stamp."""
    stamp = struct.pack(_order(serialised) + "iI", *divmod(stamp_ns, 10**9))
    return serialised[:_HEADER] + stamp + serialised[_HEADER + 8 :]


def stamp_of(kind: type, serialised: bytes) -> int:
    """The stamp of a serialised message, nanoseconds; of a MarkerArray that of its first marker."""
    # There the header comes after the number of markers.
    offset = _HEADER + (4 if kind is MarkerArray else 0)
    seconds, nanoseconds = struct.unpack_from(_order(serialised) + "iI", serialised, offset)
    return int(seconds) * 10**9 + int(nanoseconds)


def _order(serialised: bytes) -> str:
    return "<" if serialised[1] & 1 else ">"


def frame_outputs() -> dict[str, Output]:
    """Every topic that is published for each frame, by its short name (``depth``, ``debug/overlay``)."""
    table = vision_outputs() | OUTPUTS
    return {t.removeprefix("~/").removeprefix("output/"): output for t, output in table.items()}


def _full_name(node: str, short: str) -> str:
    return f"{node}/{short}" if short.startswith("debug/") else f"{node}/output/{short}"


class _Asleep(CallbackGroup):
    """Nothing in it wakes an executor."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False


class Playback(Observer):
    """Plays frames at given rates and notes when all chosen outputs of each came back.

    Args:
        frames: to play, over and over, forwards and backwards, so that nothing ever jumps.
        topics: short names of the outputs that are subscribed to; a frame is received with the last of them.
        node: name of the perception node.
        image, camera_info: topics that it takes.
        domain: ROS domain id.

    Raises:
        ConfigError: an unknown output.
    """

    def __init__(
        self,
        frames: Sequence[Frame],
        topics: Sequence[str],
        *,
        node: str,
        image: str,
        camera_info: str,
        domain: int,
    ) -> None:
        super().__init__("dvps_playback", domain=domain)
        known = frame_outputs()
        unknown = [t for t in topics if t not in known]
        if unknown or not topics:
            raise ConfigError(
                f"topics: expected some of {', '.join(known)}, got {', '.join(unknown) or 'none'}"
            )
        self.ready = False
        """Whether the engine is open: the label space has come."""
        header = Header(frame_id=frames[0].frame_id)
        self._images = [serialize_message(convert.rgb_to_image(f.image, header)) for f in frames]
        self._order = itertools.cycle([*range(len(frames)), *range(len(frames) - 2, 0, -1)])
        self._info = serialize_message(convert.camera_to_info(frames[0].camera, header))
        self._types = {t: output.type for t, output in known.items() if t in topics}
        self._last = list(self._types)[-1]
        """The one of them that is published last."""
        self._outputs: dict[str, Subscription[Any]] = {}
        self._node_name, self._image, self._camera_info = node, image, camera_info
        self._arrived: dict[int, dict[str, int]] = {}
        """Stamp of a frame of this run -> topic -> when it came, nanoseconds of the wall clock."""
        self._outputs_in = 0

    def _connect(self, node: Node) -> None:
        self._images_out = node.create_publisher(Image, self._image, qos.output())
        self._infos_out = node.create_publisher(CameraInfo, self._camera_info, qos.output())
        labels = f"{self._node_name}/output/labels"
        node.create_subscription(dvps_msg.LabelSpace, labels, self._on_labels, qos.latched())
        asleep = _Asleep()
        for topic, kind in self._types.items():
            self._outputs[topic] = node.create_subscription(
                kind,
                _full_name(self._node_name, topic),
                partial(self._on_output, topic),
                qos.output(),
                raw=True,
                callback_group=None if topic == self._last else asleep,
            )

    def announce(self, seconds: float) -> None:
        """Tell the node of the camera, for which its engine opens, and take in what comes meanwhile."""
        if self._images_out.get_subscription_count() > 0:
            self._infos_out.publish(stamped(self._info, time.time_ns()))
        self.spin(seconds)

    def run(self, rate_hz: float, frames: int) -> tuple[list[int], dict[int, int]]:
        """Play so many frames at a rate, and wait until they are all back or nothing comes any more.

        A frame that is late moves all later ones: they are never sent in a burst to catch up.

        Returns:
            Stamp of each frame sent, which is when it was sent; and stamp -> when the last of its outputs
            came, of those frames whose outputs all came. Nanoseconds of the wall clock.
        """
        sent_ns: list[int] = []
        self._arrived, self._outputs_in = {}, 0
        player = threading.Thread(target=self._play, args=(rate_hz, frames, sent_ns), daemon=True)
        player.start()
        quiet_s = time.monotonic()
        while True:
            before = self._outputs_in
            self.spin(0.05)
            self._take_outputs()
            if player.is_alive() or self._outputs_in != before:
                quiet_s = time.monotonic()
            elif self._outputs_in == len(sent_ns) * len(self._types) or time.monotonic() - quiet_s > QUIET_S:
                break
        player.join()
        return sent_ns, {
            stamp: max(times.values())
            for stamp, times in self._arrived.items()
            if len(times) == len(self._types)
        }

    def never_came(self) -> list[str]:
        """Outputs of which nothing came in the last run."""
        return [t for t in self._types if not any(t in times for times in self._arrived.values())]

    def _play(self, rate_hz: float, frames: int, sent_ns: list[int]) -> None:
        due_s = time.monotonic()
        for _ in range(frames):
            time.sleep(max(0.0, due_s - time.monotonic()))
            stamp_ns, now_s = time.time_ns(), time.monotonic()
            due_s = max(due_s, now_s - 0.5 / rate_hz) + 1 / rate_hz
            image = self._images[next(self._order)]
            self._arrived[stamp_ns] = {}
            sent_ns.append(stamp_ns)
            self._infos_out.publish(stamped(self._info, stamp_ns))
            self._images_out.publish(stamped(image, stamp_ns))

    def _on_labels(self, message: dvps_msg.LabelSpace) -> None:
        self.ready = True

    def _take_outputs(self) -> None:
        """What the executor does, without it."""
        for topic, subscription in self._outputs.items():
            with subscription.handle:
                while taken := subscription.handle.take_message(subscription.msg_type, subscription.raw):
                    self._on_output(topic, taken[0])

    def _on_output(self, topic: str, serialised: bytes) -> None:
        now_ns = time.time_ns()
        times = self._arrived.get(stamp_of(self._types[topic], serialised))
        if times is not None:  # else a late one of the run before
            times[topic] = now_ns
            self._outputs_in += 1
