# SPDX-License-Identifier: Apache-2.0
"""ONNX operators in PyTorch: those that the project's graphs use. torch is handed in, never imported.

Each function takes the node's attributes and its inputs: tensors, or for inputs that are known beforehand and
say shapes, axes or ranges, lists of numbers (``LISTS``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

LISTS = {
    "Unsqueeze": (1,), "Squeeze": (1,), "Expand": (1,), "Reshape": (1,), "ReduceMean": (1,),
    "ReduceSum": (1,), "ReduceMax": (1,), "ReduceMin": (1,), "Split": (1,), "Slice": (1, 2, 3, 4),
    "Pad": (1, 2, 3), "TopK": (1,), "Resize": (2, 3), "Tile": (1,),
}  # fmt: skip
"""Operator -> which of its inputs are constants that become lists."""


def operators(torch: Any) -> dict[str, Callable[..., Any]]:
    """Operator name -> function of (attributes, *inputs)."""
    f = torch.nn.functional
    types = {
        1: torch.float32, 2: torch.uint8, 3: torch.int8, 6: torch.int32, 7: torch.int64, 9: torch.bool,
        10: torch.float16, 11: torch.float64, 16: torch.bfloat16,
    }  # fmt: skip

    def plain(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, *inputs: function(*inputs)

    def folded(function: Callable[..., Any]) -> Callable[..., Any]:
        def apply(a: dict, first: Any, *others: Any) -> Any:
            for other in others:
                first = function(first, other)
            return first

        return apply

    def conv(a: dict, x: Any, weight: Any, bias: Any = None) -> Any:
        spatial = weight.dim() - 2
        pads = a.get("pads", [0] * 2 * spatial)
        if pads[:spatial] != pads[spatial:]:
            x, pads = f.pad(x, _torch_pads(pads)), [0] * 2 * spatial
        function = f.conv2d if spatial == 2 else f.conv1d
        stride, dilation = a.get("strides", 1), a.get("dilations", 1)
        return function(x, weight, bias, stride, pads[:spatial], dilation, a.get("group", 1))

    def gemm(a: dict, x: Any, y: Any, c: Any = None) -> Any:
        x, y = (x.T if a.get("transA") else x), (y.T if a.get("transB") else y)
        product = a.get("alpha", 1.0) * (x @ y)
        return product if c is None else product + a.get("beta", 1.0) * c

    def reduced(function: Callable[..., Any]) -> Callable[..., Any]:
        def apply(a: dict, x: Any, axes: list[int] | None = None) -> Any:
            axes = axes or a.get("axes") or list(range(x.dim()))
            return function(x, dim=axes, keepdim=bool(a.get("keepdims", 1)))

        return apply

    def arg(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda a, x: function(x, dim=a.get("axis", 0), keepdim=bool(a.get("keepdims", 1)))

    def pooled(a: dict) -> tuple[list[int], Any, list[int]]:
        kernel = a["kernel_shape"]
        pads = a.get("pads", [0] * 2 * len(kernel))
        assert pads[: len(kernel)] == pads[len(kernel) :], "pooling with pads that differ from side to side"
        return kernel, a.get("strides", 1), pads[: len(kernel)]

    def max_pool(a: dict, x: Any) -> Any:
        return f.max_pool2d(x, *pooled(a), a.get("dilations", 1), bool(a.get("ceil_mode", 0)))

    def average_pool(a: dict, x: Any) -> Any:
        ceil, count = bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0))
        return f.avg_pool2d(x, *pooled(a), ceil, count)

    def resize(a: dict, x: Any, roi: Any, scales: list | None, sizes: list | None = None) -> Any:
        if sizes:
            size = sizes[2:]
        else:
            assert scales, "a resize needs sizes or scales"
            size = [int(s * k) for s, k in zip(x.shape[2:], scales[2:], strict=True)]
        mode, where = a.get("mode", "nearest"), a.get("coordinate_transformation_mode", "half_pixel")
        if mode == "linear":
            assert where in ("half_pixel", "pytorch_half_pixel", "align_corners"), where
            return f.interpolate(x, size, mode="bilinear", align_corners=where == "align_corners")
        assert mode == "nearest" and where == "asymmetric" and a.get("nearest_mode") == "floor", (mode, where)
        return f.interpolate(x, size, mode="nearest")

    def reshape(a: dict, x: Any, shape: list[int]) -> Any:
        if not a.get("allowzero"):
            shape = [x.shape[i] if n == 0 else n for i, n in enumerate(shape)]
        return x.reshape(shape)

    def unsqueeze(a: dict, x: Any, axes: list[int]) -> Any:
        rank = x.dim() + len(axes)
        for axis in sorted(i % rank for i in axes):
            x = x.unsqueeze(axis)
        return x

    def sliced(
        a: dict, x: Any, starts: list, ends: list, axes: list | None = None, steps: list | None = None
    ):
        index = [slice(None)] * x.dim()
        for k, axis in enumerate(axes or range(len(starts))):
            step = steps[k] if steps else 1
            assert step > 0, "a slice that runs backwards"
            index[axis] = slice(starts[k], ends[k], step)
        return x[tuple(index)]

    def split(a: dict, x: Any, sizes: list[int] | None = None) -> Any:
        axis = a.get("axis", 0)
        return x.split(sizes or x.shape[axis] // a["num_outputs"], axis)

    def gather(a: dict, x: Any, index: Any) -> Any:
        axis = a.get("axis", 0) % x.dim()
        size = x.shape[axis]
        picked = x.index_select(axis, index.reshape(-1) % size)
        return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])

    def gather_nd(a: dict, x: Any, index: Any) -> Any:
        assert a.get("batch_dims", 0) == 0, "GatherND with batch_dims"
        return x[tuple(index.unbind(-1))]

    def pad(a: dict, x: Any, pads: list[int], value: Any = None, axes: Any = None) -> Any:
        assert axes is None, "Pad of some axes"
        mode = {"constant": "constant", "edge": "replicate", "reflect": "reflect"}[a.get("mode", "constant")]
        fill = value[0] if value is not None and mode == "constant" else None
        sides = _torch_pads(pads)
        while mode != "constant" and sides and sides[-1] == 0:  # torch wants the padded axes only
            sides.pop()
        return f.pad(x, sides + [0] * (len(sides) % 2), mode, fill)

    def top_k(a: dict, x: Any, k: list[int]) -> Any:
        return tuple(x.topk(k[0], a.get("axis", -1), bool(a.get("largest", 1)), bool(a.get("sorted", 1))))

    def grid_sample(a: dict, x: Any, grid: Any) -> Any:
        mode = {"linear": "bilinear"}.get(a.get("mode", "linear"), a.get("mode", "linear"))
        padding, align = a.get("padding_mode", "zeros"), bool(a.get("align_corners", 0))
        return f.grid_sample(x, grid, mode, padding, align)

    def layer_norm(a: dict, x: Any, scale: Any, bias: Any = None) -> Any:
        return f.layer_norm(x, x.shape[a.get("axis", -1) :], scale, bias, a.get("epsilon", 1e-5))

    def gelu(a: dict, x: Any) -> Any:
        return f.gelu(x, approximate=a.get("approximate", "none"))

    def divide(a: dict, x: Any, y: Any) -> Any:
        whole = not (x.is_floating_point() or y.is_floating_point())
        return torch.div(x, y, rounding_mode="trunc") if whole else x / y

    def clip(a: dict, x: Any, low: Any = None, high: Any = None) -> Any:
        return x if low is None and high is None else x.clamp(low, high)

    return {
        "Abs": plain(torch.abs),
        "Add": plain(torch.add),
        "And": plain(torch.logical_and),
        "ArgMax": arg(torch.argmax),
        "ArgMin": arg(torch.argmin),
        "AveragePool": average_pool,
        "Cast": lambda a, x: x.to(types[a["to"]]),
        "Clip": clip,
        "Concat": lambda a, *xs: torch.cat(xs, a["axis"]),
        "Conv": conv,
        "Div": divide,
        "Equal": plain(torch.eq),
        "Erf": plain(torch.erf),
        "Exp": plain(torch.exp),
        "Expand": lambda a, x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape))),
        "Floor": plain(torch.floor),
        "Gather": gather,
        "GatherElements": lambda a, x, index: x.gather(a.get("axis", 0), index),
        "GatherND": gather_nd,
        "Gelu": gelu,
        "Gemm": gemm,
        "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
        "Greater": plain(torch.gt),
        "GreaterOrEqual": plain(torch.ge),
        "GridSample": grid_sample,
        "HardSwish": plain(f.hardswish),
        "HardSigmoid": lambda a, x: (a.get("alpha", 0.2) * x + a.get("beta", 0.5)).clamp(0, 1),
        "Identity": lambda a, x: x,
        "LayerNormalization": layer_norm,
        "LeakyRelu": lambda a, x: f.leaky_relu(x, a.get("alpha", 0.01)),
        "Less": plain(torch.lt),
        "LessOrEqual": plain(torch.le),
        "Log": plain(torch.log),
        "MatMul": plain(torch.matmul),
        "Max": folded(torch.maximum),
        "MaxPool": max_pool,
        "Min": folded(torch.minimum),
        "Mul": plain(torch.mul),
        "Neg": plain(torch.neg),
        "Not": plain(torch.logical_not),
        "Or": plain(torch.logical_or),
        "Pad": pad,
        "Pow": plain(torch.pow),
        "Reciprocal": plain(torch.reciprocal),
        "ReduceMax": reduced(torch.amax),
        "ReduceMean": reduced(torch.mean),
        "ReduceMin": reduced(torch.amin),
        "ReduceSum": reduced(torch.sum),
        "Relu": plain(torch.relu),
        "Reshape": reshape,
        "Resize": resize,
        "Round": plain(torch.round),
        "Sigmoid": plain(torch.sigmoid),
        "Slice": sliced,
        "Softmax": lambda a, x: x.softmax(a.get("axis", -1)),
        "Softplus": plain(f.softplus),
        "Split": split,
        "Sqrt": plain(torch.sqrt),
        "Squeeze": lambda a, x, axes=None: x.squeeze() if axes is None else x.squeeze(tuple(axes)),
        "Sub": plain(torch.sub),
        "Tanh": plain(torch.tanh),
        "Tile": lambda a, x, repeats: x.repeat(*repeats),
        "TopK": top_k,
        "Transpose": lambda a, x: x.permute(a["perm"]),
        "Unsqueeze": unsqueeze,
        "Where": plain(torch.where),
    }


def _torch_pads(pads: list[int]) -> list[int]:
    """ONNX's (starts of all axes, ends of all axes) in torch's order: last axis first, start and end."""
    axes = len(pads) // 2
    return [pads[i + side * axes] for i in reversed(range(axes)) for side in (0, 1)]
