# SPDX-License-Identifier: Apache-2.0
"""A model folder of the deployed-graph contract whose outputs are known by hand (no training, no torch).

What the graph does with the mean colour of each 4x4 block:

- class: the Cityscapes class of the nearest palette colour (a linear classifier, softmax confidence);
  borders of classes at camera resolution lie half way between cells;
- depth: a flat road 1.5 m below the camera, z = 1.5 fy / (v - cy), 1 m to 100 m, 100 m above the horizon;
- segments: one for every thing class that is seen, in order of class; score 0.9, 0.89, ...; the centre
  is the mean pixel; the motion is the way back to the centre in the previous frame (from the state);
  the embedding is the one-hot thing number; ``moving`` is 1 where that way is longer than 2 px;
- latent: token 0 is the mean colour of this frame, token 1 that of the previous one (from the state).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from dvps_ros.labels import CITYSCAPES
from dvps_ros.runtime.manifest import (
    GraphFile,
    Manifest,
    StateTensor,
    WeightsFile,
    hash_file,
    write_manifest,
)
from dvps_ros.runtime.verify import TABLES

K, CAMERA_HEIGHT_M, FAR_M, LIFT = 64, 1.5, 100.0, 2000.0
THINGS = CITYSCAPES.thing_ids
STATES = (StateTensor("state_centers", (1, K, 3)), StateTensor("state_color", (1, 3, "H/8", "W/8")))


class _Graph:
    """Nodes are added by calling operators by name; constants come from numpy arrays."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, value, dtype=np.float32) -> str:
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def __getattr__(self, operator: str):
        def add(*inputs: str, name: str | None = None, **attributes) -> str:
            output = name or f"value_{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
            return output

        return add


def classifier() -> tuple[np.ndarray, np.ndarray]:
    """Logits 0.01 (2 p.x - p.p): the largest is that of the palette colour p nearest to x."""
    palette = CITYSCAPES.palette[: len(CITYSCAPES)].astype(np.float32)
    return np.float32(0.02) * palette[:, :, None, None], np.float32(-0.01) * (palette**2).sum(1)


def build(height: int, width: int, weights: tuple[np.ndarray, np.ndarray]) -> onnx.ModelProto:
    h, w, c = height // 4, width // 4, len(CITYSCAPES)
    g = _Graph()
    pixels = g.Transpose(g.Cast("image", to=TensorProto.FLOAT), perm=[0, 3, 1, 2])
    color = g.AveragePool(pixels, kernel_shape=[4, 4], strides=[4, 4])
    logits = g.Conv(color, "weight", "bias")
    labels = g.ArgMax(logits, axis=1, keepdims=0)
    # Lifted above all others, so that between two cells no third class, of the colour between, wins.
    every = g.const(np.arange(c).reshape(1, c, 1, 1), np.int64)
    best_class = g.Equal(every, g.Unsqueeze(labels, g.const([1], np.int64)))
    g.Add(logits, g.Mul(g.Cast(best_class, to=TensorProto.FLOAT), g.const(LIFT)), name="class_logits")
    g.Cast(labels, to=TensorProto.UINT8, name="class_map")
    best = g.ReduceMax(g.Softmax(logits, axis=1), g.const([1], np.int64), keepdims=0)
    g.Cast(g.Round(g.Mul(best, g.const(255))), to=TensorProto.UINT8, name="confidence")

    # Depth of the road plane; pixel rows of the stride-4 map lie at 4 i + 1.5 of the input.
    rows = g.const(4 * np.arange(h).reshape(1, h, 1) + 1.5)
    fy, cy = (g.Gather("intrinsics", g.const([[[i]]], np.int64), axis=1) for i in (1, 3))
    fy, cy = (g.Reshape(v, g.const([1, 1, 1], np.int64)) for v in (fy, cy))
    below = g.Max(g.Sub(rows, cy), g.const(1e-3))
    depth = g.Clip(g.Div(g.Mul(fy, g.const(CAMERA_HEIGHT_M)), below), g.const(1), g.const(FAR_M))
    g.Expand(depth, g.const([1, h, w], np.int64), name="depth_m")

    # One segment a thing class; rows from len(THINGS) on stay empty.
    row_class = np.full(K, -1)
    row_class[: len(THINGS)] = THINGS
    flat = g.Reshape(labels, g.const([1, 1, h * w], np.int64))
    member = g.Cast(g.Equal(flat, g.const(row_class.reshape(1, K, 1), np.int64)), to=TensorProto.FLOAT)
    area = g.ReduceSum(member, g.const([2], np.int64), keepdims=1)
    seen = g.Cast(g.Greater(area, g.const(0)), to=TensorProto.FLOAT)
    count = g.Max(area, g.const(1))

    def mean(values: str) -> str:
        return g.Div(g.ReduceSum(g.Mul(member, values), g.const([2], np.int64), keepdims=1), count)

    y, x = np.mgrid[:h, :w].reshape(2, 1, 1, h * w)
    x, y = g.const(4 * x + 1.5), g.const(4 * y + 1.5)
    center_x, center_y = mean(x), mean(y)
    previous = [g.Slice("state_centers", *(g.const([v], np.int64) for v in (i, i + 1, 2))) for i in range(3)]
    both = g.Mul(seen, previous[2])
    dx, dy = (g.Mul(both, g.Sub(p, now)) for p, now in zip(previous, (center_x, center_y), strict=False))
    far = g.Greater(g.Add(g.Mul(dx, dx), g.Mul(dy, dy)), g.const(4))
    mean_depth = mean(g.Reshape("depth_m", g.const([1, 1, h * w], np.int64)))
    columns = [
        g.Mul(seen, g.const(np.maximum(row_class, 0).reshape(1, K, 1))),
        g.Mul(seen, g.const(0.9 - 0.01 * np.arange(K).reshape(1, K, 1))),
        area,
        center_x,
        center_y,
        dx,
        dy,
        mean_depth,
        g.Cast(far, to=TensorProto.FLOAT),
    ]
    g.Concat(*columns, axis=2, name="segments")
    g.Mul(seen, g.const(np.eye(K, len(THINGS))[None]), name="embedding")
    g.Concat(center_x, center_y, seen, axis=2, name="next_state_centers")

    # 255 where no thing is; `nearest` fills it with the row whose centre is closest.
    thing = g.Greater(g.ReduceSum(member, g.const([1], np.int64), keepdims=0), g.const(0))
    row = g.ArgMax(member, axis=1, keepdims=0)
    to_x, to_y = g.Sub(x, center_x), g.Sub(y, center_y)
    away = g.Add(g.Add(g.Mul(to_x, to_x), g.Mul(to_y, to_y)), g.Mul(g.Sub(g.const(1), seen), g.const(1e9)))
    closest = g.Where(thing, row, g.ArgMin(away, axis=1, keepdims=0))
    none = g.Less(g.ReduceSum(seen, g.const([1], np.int64), keepdims=0), g.const(0.5))
    shape, void = g.const([1, h, w], np.int64), g.const(255, np.int64)
    maps = {"segment_map": g.Where(thing, row, void), "nearest": g.Where(none, void, closest)}
    for name, value in maps.items():
        g.Cast(g.Reshape(value, shape), to=TensorProto.UINT8, name=name)

    blurred = g.AveragePool(pixels, kernel_shape=[8, 8], strides=[8, 8], name="next_state_color")
    tokens = [g.ReduceMean(v, g.const([2, 3], np.int64), keepdims=0) for v in (blurred, "state_color")]
    g.Concat(*(g.Reshape(t, g.const([1, 1, 3], np.int64)) for t in tokens), axis=1, name="latent")

    u8, f32 = TensorProto.UINT8, TensorProto.FLOAT
    shapes = {s.name: s.sizes(height, width) for s in STATES}
    inputs = {"image": (u8, [1, height, width, 3]), "intrinsics": (f32, [1, 4])}
    inputs |= {name: (f32, sizes) for name, sizes in shapes.items()}
    outputs = {name: (u8, [1, h, w]) for name in ("class_map", "segment_map", "confidence", "nearest")}
    outputs |= {"depth_m": (f32, [1, h, w]), "class_logits": (f32, [1, c, h, w]), "latent": (f32, [1, 2, 3])}
    outputs |= {"segments": (f32, [1, K, 9]), "embedding": (f32, [1, K, len(THINGS)])}
    outputs |= {f"next_{name}": (f32, sizes) for name, sizes in shapes.items()}
    graph = helper.make_graph(
        g.nodes,
        "tiny",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in outputs.items()],
        [*g.constants, *_external(weights)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _external(weights: tuple[np.ndarray, np.ndarray]) -> list[onnx.TensorProto]:
    tensors, offset = [], 0
    for name, values in zip(("weight", "bias"), weights, strict=True):
        tensor = onnx.TensorProto(name=name, data_type=TensorProto.FLOAT, dims=values.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", offset), ("length", values.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        offset += values.nbytes
        tensors.append(tensor)
    return tensors


def paint(height: int, width: int, *, car_x: int | None = 8) -> np.ndarray:
    """uint8 [H,W,3]: sky above, road below, and a car of H/4 x W/4 px whose left edge is ``car_x``."""
    image = np.empty((height, width, 3), np.uint8)
    image[: height // 2] = CITYSCAPES.palette[CITYSCAPES.id_of("sky")]
    image[height // 2 :] = CITYSCAPES.palette[CITYSCAPES.id_of("road")]
    if car_x is not None:
        image[height // 2 : 3 * height // 4, car_x : car_x + width // 4] = CITYSCAPES.palette[
            CITYSCAPES.id_of("car")
        ]
    return image


def write_tiny_model(folder: Path, sizes: tuple[tuple[int, int], ...] = ((64, 128),)) -> Path:
    """Write the model folder, goldens from ONNX Runtime, and give it back."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = classifier()
    (folder / "weights.bin").write_bytes(b"".join(v.tobytes() for v in weights))
    graphs = []
    for height, width in sizes:
        model = build(height, width, weights)
        name = f"{height}x{width}"
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        onnx.checker.check_model(folder / f"{name}.onnx")
        _write_golden(folder, name, height, width)
        digests = [hash_file(folder / f"{name}{suffix}") for suffix in (".onnx", ".golden.npz")]
        graphs.append(GraphFile(f"{name}.onnx", height, width, digests[0], f"{name}.golden.npz", digests[1]))
    write_manifest(
        Manifest(
            name=folder.name,
            version="1",
            network="tiny",
            label_space=CITYSCAPES,
            embedding_size=len(THINGS),
            latent_shape=(2, 3),
            state=STATES,
            sky_class=CITYSCAPES.id_of("sky"),
            weights=WeightsFile("weights.bin", hash_file(folder / "weights.bin")),
            graphs=tuple(graphs),
            licence="Apache-2.0",
            training={},
        ),
        folder,
    )
    return folder


def _write_golden(folder: Path, name: str, height: int, width: int) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / f"{name}.onnx", providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    images = [paint(height, width, car_x=x) for x in (width // 4, width // 4 + 8)]
    intrinsics = np.array([width, width, (width - 1) / 2, (height - 1) / 2], np.float32)
    state = {s.name: np.zeros(s.sizes(height, width), np.float32) for s in STATES}
    arrays = {"image_0": images[0], "image_1": images[1], "intrinsics": intrinsics}
    for image in images:
        feeds = {"image": image[None], "intrinsics": intrinsics[None], **state}
        outputs = dict(zip(names, session.run(names, feeds), strict=True))
        state = {s.name: outputs[f"next_{s.name}"] for s in STATES}
        if "first_segments" not in arrays:
            arrays |= {f"first_{name}": outputs[name] for name in TABLES}
    arrays |= {f"out_{k}": v for k, v in outputs.items()}
    np.savez_compressed(folder / f"{name}.golden.npz", **arrays)
