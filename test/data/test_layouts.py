# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dvps_ros.data.layout import FolderPairs, find_problems, read_depth, read_png, write_depth, write_png
from dvps_ros.data.layouts import LAYOUTS
from dvps_ros.data.semkitti_dvps import SEMANTIC_KITTI
from dvps_ros.errors import InputError
from dvps_ros.labels import CITYSCAPES, VOID

CITY, SEMKITTI, STEP = (LAYOUTS[name] for name in ("cityscapes-dvps", "semkitti-dvps", "kitti-step"))
ROAD, POLE, PERSON, CAR = (CITYSCAPES.id_of(n) for n in ("road", "pole", "person", "car"))

CLASSES = np.array([[ROAD, CAR, CAR, VOID], [POLE, CAR, PERSON, PERSON]], np.uint8)
INSTANCES = np.array([[0, 1, 2, 0], [0, 1, 3, 3]], np.int32)
DEPTH = np.array([[4.5, 8, 16.25, 0], [255.99609375, 2, 3, 1 / 256]], np.float32)
IMAGE = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def write_tree(
    layout, root: Path, frames: int = 3, sequences: tuple[str, ...] = ("000000", "000001"), **extra
):
    depth = None if layout is STEP else DEPTH
    return [
        layout.write(
            root, "val", s, t, class_map=CLASSES, instance_map=INSTANCES, depth_m=depth, image=IMAGE, **extra
        )
        for s in sequences
        for t in range(frames)
    ]


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("below", ["", "whole", "split"])
def test_what_is_written_is_found_and_read(layout, below, tmp_path):
    written = write_tree(layout, tmp_path)
    folder = written[0].labels[0].parents[1 if layout is STEP else 0]
    root = {"": tmp_path, "whole": folder, "split": folder.parent}[below]
    found = layout.index(root, "val")
    assert [(f.sequence, f.frame, f.labels, f.depth) for f in found] == [
        (f.sequence, f.frame, f.labels, f.depth) for f in written
    ]
    class_map, instance_map = layout.read_labels(found[0])
    assert class_map.dtype == np.uint8 and instance_map.dtype == np.int32
    assert (class_map == CLASSES).all()
    # Ids may be renamed, one to one; things keep their id, the rest has 0.
    things = layout.classes.is_thing[CLASSES]
    expected = np.where(things, INSTANCES, 0)
    pairs = {(int(a), int(b)) for a, b in zip(expected.ravel(), instance_map.ravel(), strict=True)}
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs) and (0, 0) in pairs
    if found[0].depth:
        assert (read_depth(found[0].depth) == DEPTH).all()


def city_labels(tmp_path: Path, values: np.ndarray):
    path = tmp_path / "000000_000000_frankfurt_000000_000294_gtFine_instanceTrainIds.png"
    write_png(path, values)
    return CITY.read_labels(CITY.index(tmp_path, "val")[0])


def test_both_cityscapes_encodings_are_read(tmp_path):
    """class * 1000 + number everywhere and void 32000; or bare classes for stuff and void."""
    packed = np.array([[0, 13000, 13001, 32000], [5000, 13000, 11000, 11000]], np.uint16)
    bare = np.array([[0, 13000, 13001, 255], [5, 13000, 11000, 11000]], np.uint16)
    first, second = city_labels(tmp_path, packed), city_labels(tmp_path, bare)
    assert (first[0] == CLASSES).all() and (second[0] == CLASSES).all()
    expected = np.array([[0, 13001, 13002, 0], [0, 13001, 11001, 11001]])
    assert (first[1] == expected).all() and (second[1] == expected).all()


def test_cityscapes_number_zero_is_an_object_and_a_bare_thing_has_none(tmp_path):
    class_map, instance_map = city_labels(tmp_path, np.array([[13000, 13]], np.uint16))
    assert class_map.tolist() == [[13, 13]] and instance_map.tolist() == [[13001, 0]]


def test_cityscapes_class_and_number_in_channels(tmp_path):
    values = np.zeros((1, 5, 3), np.uint8)
    values[0, :, 0] = [ROAD, CAR, CAR, 255, 32]
    values[0, :, 1] = [7, 0, 1, 3, 0]
    class_map, instance_map = city_labels(tmp_path, values)
    assert class_map.tolist() == [[ROAD, CAR, CAR, VOID, VOID]]
    assert instance_map.tolist() == [[0, 13001, 13002, 0, 0]]


def test_cityscapes_things_without_an_id_are_written_as_void(tmp_path):
    files = CITY.write(
        tmp_path,
        "val",
        "000000",
        0,
        class_map=np.full((1, 2), CAR, np.uint8),
        instance_map=np.array([[0, 5]]),
    )
    assert CITY.read_labels(files)[0].tolist() == [[VOID, CAR]]


@pytest.mark.parametrize("value", [19, 254, 19000, 31000, 33000, 65535])
def test_cityscapes_unknown_classes_name_file_and_value(value, tmp_path):
    with pytest.raises(InputError, match=rf"000294_gtFine_instanceTrainIds.png: values \[{value}\]"):
        city_labels(tmp_path, np.array([[value]], np.uint16))


def test_semkitti_classes_are_its_own_and_map_to_the_project(tmp_path):
    names = ["car", "bicyclist", "road", "parking", "trunk"]
    class_map = np.array([[*(SEMANTIC_KITTI.id_of(n) for n in names), VOID]], np.uint8)
    ids = np.array([[70, 0, 0, 0, 0, 0]])
    SEMKITTI.write(
        tmp_path, "val", "000008", 4, class_map=class_map, instance_map=ids,
        depth_m=np.ones((1, 6), np.float32), image=np.zeros((1, 6, 3), np.uint8), focal_px=707.091,
    )  # fmt: skip
    (sample,) = SEMKITTI.samples(tmp_path, "val", 1)
    ours = [CITYSCAPES.id_of(n) for n in ("car", "rider", "road")] + [
        VOID,
        CITYSCAPES.id_of("vegetation"),
        VOID,
    ]
    assert sample.class_map[0].tolist() == [ours]
    assert sample.instance_map[0].tolist() == [[70, -1, 0, 0, 0, 0]]
    assert sample.intrinsics[0].tolist() == [pytest.approx(707.091), pytest.approx(707.091), 2.5, 0]


def test_semkitti_predictions_have_other_names(tmp_path):
    for kind, values in (("cat", CLASSES % 19), ("ins", INSTANCES), ("depth", DEPTH * 256)):
        write_png(
            tmp_path / f"000008_000001_{kind}.png", values.astype(np.uint8 if kind == "cat" else np.uint16)
        )
    (found,) = SEMKITTI.index(tmp_path, "val")
    assert found.depth and (SEMKITTI.read_labels(found)[0] == CLASSES % 19).all()


def test_semkitti_missing_half_is_named(tmp_path):
    write_tree(SEMKITTI, tmp_path)[0].labels[1].unlink()
    with pytest.raises(InputError, match="000000_000000_gtFine_instance.png: No such file"):
        SEMKITTI.read_labels(SEMKITTI.index(tmp_path, "val")[0])


def test_kitti_step_ids_use_two_channels_and_only_two_classes(tmp_path):
    rider = CITYSCAPES.id_of("rider")
    files = STEP.write(
        tmp_path, "val", "0002", 7,
        class_map=np.array([[CAR, PERSON, CAR, rider]], np.uint8),
        instance_map=np.array([[300, 65535, 0, 9]]),
    )  # fmt: skip
    assert cv2.imread(str(files.labels[0]))[0].tolist() == [
        [44, 1, 13],
        [255, 255, 11],
        [0, 0, 13],
        [0, 0, 12],
    ]
    assert STEP.read_labels(files)[1].tolist() == [[300, 65535, 0, 0]]


def test_samples_are_clips_inside_sequences(tmp_path):
    write_tree(CITY, tmp_path)
    clips = list(CITY.samples(tmp_path, "val", 2))
    assert [c.source for c in clips] == [f"cityscapes-dvps 00000{s}/00000{t}" for s in (0, 1) for t in (0, 1)]
    first = clips[0]
    assert first.images.shape == (2, 2, 4, 3) and (first.images[0] == IMAGE).all()
    assert (first.class_map[1] == CLASSES).all() and (first.depth_m[1] == DEPTH).all()
    assert len(list(CITY.samples(tmp_path, "val", 1, stride=2))) == 4


def test_depth_that_does_not_fit_is_no_truth(tmp_path):
    path = tmp_path / "depth.png"
    write_depth(path, np.array([[256.0, np.inf, np.nan, -1.0, 255.99]], np.float32))
    assert read_depth(path).tolist() == [[0, 0, 0, 0, pytest.approx(255.99, abs=1 / 512)]]
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 2), np.uint8), "expected depth as one channel of 16 bits .* got 1 channels of uint8"),
        (np.zeros((2, 2, 3), np.uint8), "got 3 channels of uint8"),
    ],
)
def test_depth_of_another_type_is_refused(array, message, tmp_path):
    write_png(tmp_path / "d.png", array)
    with pytest.raises(InputError, match=message):
        read_depth(tmp_path / "d.png")


def test_truncated_and_foreign_files_are_refused_by_name(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, np.random.default_rng(0).integers(0, 255, (64, 64), np.uint8))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match="a.png: expected a whole PNG"):
        read_png(path)
    path.write_bytes(b"not an image")
    with pytest.raises(InputError, match="a.png: expected a whole PNG"):
        read_png(path)
    with pytest.raises(InputError, match="b.png: No such file"):
        read_png(tmp_path / "b.png")


def test_wrong_channels_and_classes_are_refused_by_name(tmp_path):
    step = tmp_path / "0002" / "000000.png"
    write_png(step, CLASSES)
    with pytest.raises(InputError, match="000000.png: expected three channels"):
        STEP.read_labels(STEP.index(tmp_path, "val")[0])
    write_png(step, np.full((2, 2, 3), 77, np.uint8))
    with pytest.raises(InputError, match=r"000000.png: unknown classes \[77\]"):
        STEP.read_labels(STEP.index(tmp_path, "val")[0])


@pytest.mark.parametrize("mode", ["P", "LA"])
def test_a_png_whose_values_the_decoder_turns_into_colours_is_refused(mode, tmp_path):
    """As three channels a car of class 13 would be class 13, number 13."""
    path = write_tree(CITY, tmp_path, 1)[0].labels[0]
    image = Image.fromarray(np.full((2, 4), CAR, np.uint8), "L").convert(mode)
    image.save(path)
    with pytest.raises(InputError, match="expected a PNG of grey values or of RGB, got one with"):
        CITY.read_labels(CITY.index(tmp_path, "val")[0])


def test_only_a_few_of_many_unknown_classes_are_listed(tmp_path):
    path = write_tree(SEMKITTI, tmp_path, 1)[0].labels[0]
    write_png(path, np.arange(100, 108, dtype=np.uint8).reshape(2, 4))
    with pytest.raises(InputError, match=r"unknown classes \[100, 101, 102, 103, 104\] and 3 more; expected"):
        SEMKITTI.read_labels(SEMKITTI.index(tmp_path, "val")[0])


def test_a_frame_that_is_there_under_two_numbers_is_refused(tmp_path):
    first = write_tree(STEP, tmp_path, 1)[0].labels[0]
    first.with_name("0.png").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match=r"000000.png: the same frame is there as 0.png too"):
        STEP.index(tmp_path, "val")


def test_a_focal_length_that_is_no_number_is_no_depth_file(tmp_path):
    frame = write_tree(SEMKITTI, tmp_path, 1, ("000000",), focal_px=707.5)[0]
    assert SEMKITTI.sample(SEMKITTI.index(tmp_path, "val")).intrinsics[0, 0] == 707.5
    frame.depth.rename(frame.depth.with_name("000000_000000_depth_7.0.7.png"))
    assert SEMKITTI.index(tmp_path, "val")[0].depth is None


def test_ids_beyond_the_encoding_are_refused_by_name(tmp_path):
    car = np.full((1, 1), CAR, np.uint8)
    with pytest.raises(InputError, match="gtFine_instanceTrainIds.png: .* divisor 1000, got 1001"):
        CITY.write(tmp_path, "val", "000000", 0, class_map=car, instance_map=np.array([[1001]]))
    for layout in (SEMKITTI, STEP):
        thing = np.full((1, 1), layout.things[0], np.uint8)
        with pytest.raises(InputError, match="up to 65535, got 65536"):
            layout.write(tmp_path, "val", "000000", 0, class_map=thing, instance_map=np.array([[65536]]))
    with pytest.raises(InputError, match="unknown classes"):
        CITY.write(tmp_path, "val", "000000", 0, class_map=car + 10, instance_map=np.array([[0]]))


def test_empty_and_missing_folders_are_refused(tmp_path):
    for layout in LAYOUTS.values():
        with pytest.raises(InputError, match="found no frames named like"):
            layout.index(tmp_path, "val")
        with pytest.raises(InputError, match="expected a folder"):
            layout.index(tmp_path / "nowhere", "val")


def test_a_frame_that_is_there_twice_is_refused(tmp_path):
    first = write_tree(CITY, tmp_path)[0].labels[0]
    first.with_name("000000_000000_panoptic.png").write_bytes(first.read_bytes())
    with pytest.raises(InputError, match="the same frame is there as"):
        CITY.index(tmp_path, "val")


def test_pairs_give_the_frames_of_both_trees(tmp_path):
    for tree in ("gt", "pred"):
        write_tree(CITY, tmp_path / tree)
    source = FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val")
    pair = source.load(4)
    assert len(source) == 6 and source.has_depth
    assert (pair.sequence, pair.name, source.sequence(4)) == ("000001", "000001/000001", "000001")
    assert (pair.gt_sem == CLASSES).all() and (pair.pr_depth == DEPTH).all()
    assert (source.image(0) == IMAGE).all()


def test_pairs_refuse_trees_of_other_frames(tmp_path):
    write_tree(CITY, tmp_path / "gt")
    pred = write_tree(CITY, tmp_path / "pred")
    pred[2].labels[0].unlink()
    with pytest.raises(InputError, match="1 of 6 frames of the truth have no prediction, .* 000000/000002"):
        FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val")
    write_tree(CITY, tmp_path / "pred", frames=4)
    with pytest.raises(InputError, match="2 frames are predicted but not in the truth .*000000_000003_"):
        FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val")


def test_pairs_without_depth_say_so_only_when_it_is_needed(tmp_path):
    write_tree(CITY, tmp_path / "gt")
    for files in write_tree(CITY, tmp_path / "pred"):
        files.depth.unlink()
    assert not FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val").has_depth
    with pytest.raises(InputError, match=r"no depth file beside .*pred.*\(prediction\)"):
        FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val", depth=True)


@pytest.mark.parametrize("tree", ["gt", "pred"])
def test_depth_of_some_frames_only_is_refused_unless_it_is_not_wanted(tree, tmp_path):
    files = {t: write_tree(CITY, tmp_path / t) for t in ("gt", "pred")}
    files[tree][3].depth.unlink()
    with pytest.raises(InputError, match=rf"no depth file beside .*{tree}.*000001_000000.*0 others of 6"):
        FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val")
    assert not FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val", depth=False).has_depth


def test_pairs_of_other_size_name_the_file(tmp_path):
    write_tree(CITY, tmp_path / "gt")
    pred = write_tree(CITY, tmp_path / "pred")
    write_png(pred[1].labels[0], np.zeros((3, 4), np.uint16))
    write_png(pred[2].depth, np.zeros((2, 5), np.uint16))
    source = FolderPairs(CITY, tmp_path / "gt", tmp_path / "pred", "val")
    with pytest.raises(InputError, match="pred.*000000_000001.*: expected 2x4 pixels, got 3x4"):
        source.load(1)
    with pytest.raises(InputError, match="pred.*000000_000002.*depth.png: expected 2x4 pixels, got 2x5"):
        source.load(2)


def test_every_problem_of_two_trees_is_named(tmp_path):
    gt = write_tree(CITY, tmp_path / "gt")
    pred = write_tree(CITY, tmp_path / "pred", frames=4)
    assert [p for p in find_problems(CITY, tmp_path / "gt", None, "val") if p] == []
    gt[0].depth.write_bytes(b"")
    gt[1].image.write_bytes(gt[1].image.read_bytes()[:-20])
    pred[0].labels[0].unlink()
    write_png(pred[1].labels[0], np.full((2, 4), 25000, np.uint16))
    write_png(pred[2].depth, np.zeros((9, 4), np.uint16))
    found = [p for p in find_problems(CITY, tmp_path / "gt", tmp_path / "pred", "val") if p]
    wanted = [
        "frame 000000/000000 has no prediction",
        "000000_000000_dvps_000000_000000_depth.png: expected a whole PNG",
        "000000_000001_dvps_000000_000001_leftImg8bit.png: expected a whole PNG",
        "values [25000]",
        "expected 2x4 pixels, got 9x4",
        "000000_000003_",
        "000001_000003_",
    ]
    assert len(found) == len(wanted)
    for sentence, part in zip(found, wanted, strict=True):
        assert part in sentence


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_png_of_few_bits_has_its_values(bits, tmp_path):
    """Decoders spread them over 0 to 255, for the eye."""
    values = np.arange(2**bits, dtype=np.uint8).reshape(1, -1).repeat(4, 0)
    rows = b"".join(
        b"\0" + np.packbits(np.unpackbits(row[:, None], axis=1)[:, 8 - bits :]).tobytes() for row in values
    )

    def chunk(kind, content):
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", values.shape[1], 4, bits, 0, 0, 0, 0)
    path = tmp_path / "labels.png"
    end = chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + end)
    assert np.asarray(Image.open(path)).max() > 2**bits - 1 or bits == 1  # so does another decoder
    np.testing.assert_array_equal(read_png(path), values)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_files_that_systems_leave_beside_pictures_are_none(layout, tmp_path):
    written = write_tree(layout, tmp_path)
    for file in {p for f in written for p in (*f.labels, f.image, f.depth) if p is not None}:
        (file.parent / f"._{file.name}").write_bytes(b"\0\5\x16\7Mac OS X")
    assert layout.index(tmp_path, "val") == written
    assert not [p for p in find_problems(layout, tmp_path, None, "val") if p]


def test_things_that_the_data_set_does_not_count_are_of_unknown_number(tmp_path):
    truck = CITYSCAPES.id_of("truck")
    classes = np.where(CLASSES == POLE, truck, CLASSES).astype(np.uint8)
    ids = np.where(CLASSES == CAR, 0, INSTANCES).astype(np.int32)  # cars of a group
    STEP.write(tmp_path, "val", "0000", 0, class_map=classes, instance_map=ids, image=IMAGE)
    (sample,) = STEP.samples(tmp_path, "val", 1)
    want = np.where((classes == truck) | (classes == CAR), -1, np.where(classes == PERSON, 3, 0))
    np.testing.assert_array_equal(sample.instance_map[0], want)
