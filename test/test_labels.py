# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from dvps_ros.errors import ConfigError
from dvps_ros.labels import (
    CITYSCAPES,
    LabelClass,
    LabelSpace,
    PanopticOrder,
    decode_panoptic,
    encode_panoptic,
)

CONFIG = Path(__file__).resolve().parents[1] / "config"


def test_cityscapes_order_and_things() -> None:
    assert len(CITYSCAPES) == 19
    assert (
        CITYSCAPES.id_of("road") == 0 and CITYSCAPES.id_of("sky") == 10 and CITYSCAPES.id_of("bicycle") == 18
    )
    assert CITYSCAPES.thing_ids == tuple(range(11, 19))
    assert CITYSCAPES.stuff_ids == tuple(range(11))
    assert CITYSCAPES.is_thing.sum() == 8 and not CITYSCAPES.is_thing[255]
    assert tuple(CITYSCAPES.palette[13]) == (0, 0, 142) and tuple(CITYSCAPES.palette[255]) == (0, 0, 0)


def test_the_shipped_yaml_is_the_literal() -> None:
    assert LabelSpace.from_yaml(CONFIG / "labels" / "cityscapes.yaml") == CITYSCAPES


def test_dict_round_trip() -> None:
    assert LabelSpace.from_dict(CITYSCAPES.to_dict()) == CITYSCAPES


def test_panoptic_packing_by_hand() -> None:
    classes = np.array([[13, 0], [255, 11]], np.uint8)
    tracks = np.array([[2, 0], [0, 65535]], np.uint16)
    assert encode_panoptic(classes, tracks).tolist() == [
        [2 * 65536 + 13, 0],
        [255, 65535 * 65536 + 11 - 2**32],
    ]
    assert encode_panoptic(classes, tracks, PanopticOrder.CLASS_HIGH)[0, 0] == 13 * 65536 + 2


@pytest.mark.parametrize("order", PanopticOrder)
def test_panoptic_packing_round_trip(order: PanopticOrder) -> None:
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 256, (37, 41), np.uint8)
    tracks = rng.integers(0, 65536, (37, 41)).astype(np.uint16)
    back = decode_panoptic(encode_panoptic(classes, tracks, order), order)
    np.testing.assert_array_equal(back[0], classes)
    np.testing.assert_array_equal(back[1], tracks)


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ((LabelClass(1, "a", (0, 0, 0), False),), "ids must be 0..n-1"),
        ((LabelClass(0, "a", (0, 0, 0), False), LabelClass(1, "a", (0, 0, 0), False)), "names must differ"),
        ((LabelClass(0, "a", (0, 0, 256), False),), "needs RGB"),
        ((), "ids must be"),
    ],
)
def test_bad_spaces_are_refused(classes: tuple[LabelClass, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LabelSpace("x", classes)


@pytest.mark.parametrize(
    "text", ["", "[1]", "name: x", "name: x\nclasses: [{id: 0}]", "a: [", "name: x\nclasses: 3"]
)
def test_bad_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "labels.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        LabelSpace.from_yaml(path)


def test_a_thing_in_quotes_is_refused(tmp_path: Path) -> None:
    """Python takes any text for true."""
    path = tmp_path / "labels.yaml"
    path.write_text("{name: a, classes: [{id: 0, name: x, color: [1, 2, 3], thing: 'false'}]}")
    with pytest.raises(ConfigError, match="thing 'false' instead of true or false"):
        LabelSpace.from_yaml(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "labels.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read label space .*labels.yaml"):
        LabelSpace.from_yaml(path)


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="no class 'boat'.*bicycle"):
        CITYSCAPES.id_of("boat")


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 256])
def test_numbers_that_are_no_bytes_are_refused(value: float) -> None:
    data = CITYSCAPES.to_dict()
    data["classes"][0]["color"] = [value, 0, 0]
    with pytest.raises(ConfigError, match="a label space needs|needs RGB"):
        LabelSpace.from_dict(data)
