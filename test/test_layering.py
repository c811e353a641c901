# SPDX-License-Identifier: Apache-2.0
"""The package's parts may only import what docs/conventions.md allows them to."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "dvps_ros"

TIERS = [
    {"types", "labels", "config", "errors", "files", "installation", "jit", "contract"},
    {"geometry", "losses", "metrics"},
    {"panoptic", "viz", "networks", "data"},
    {"runtime"},
    {"export", "ros"},
    {"training", "bench"},
    {"cli"},
]
TIER = {part: level for level, parts in enumerate(TIERS) for part in parts}
SAME_TIER = {("training", "bench")}
"""(importer, imported) pairs allowed within a tier, beside a part's own modules and the first tier."""

NO_TORCH = {
    "types",
    "labels",
    "config",
    "errors",
    "files",
    "installation",
    "jit",
    "contract",
    "geometry",
    "panoptic",
    "metrics",
    "viz",
    "data",
    "runtime",
    "ros",
}
TORCH_BACKEND = PACKAGE / "runtime" / "backends" / "pytorch.py"
"""The only part of the runtime that may import torch, inside its functions: robots do without."""
ROS_MODULES = {
    "rclpy",
    "sensor_msgs",
    "std_msgs",
    "geometry_msgs",
    "diagnostic_msgs",
    "visualization_msgs",
    "builtin_interfaces",
    "rosgraph_msgs",
    "rcl_interfaces",
    "lifecycle_msgs",
    "nav_msgs",
    "ackermann_msgs",
}
ON_DEMAND = {
    "tensorrt",
    "tensorrt_rtx",
    "pycuda",
    "cuda",
    "onnx",
    "openvino",
    "onnxruntime",
    "open3d",
    "transformers",
    "lightning",
}
"""Imported inside the function that needs them, so that their absence is a sentence and not a traceback."""

MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "msg" not in p.relative_to(PACKAGE).parts[:1])


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[tuple[str, bool]]:
    """(absolute module name, at run time on the module's level) of every import of a file."""
    tree = ast.parse(path.read_text(), str(path))
    found: list[tuple[str, bool]] = []

    def visit(node: ast.AST, top: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            top = False
        if isinstance(node, ast.Import):
            found.extend((a.name, top) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import on line {node.lineno}; write dvps_ros. in full"
            if node.module == "dvps_ros":
                found.extend((f"dvps_ros.{a.name}", top) for a in node.names)
            else:
                found.append((node.module or "", top))
        inner = top and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inner)

    visit(tree, True)
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_left(path: Path) -> None:
    part = part_of(path)
    if part == "__init__":
        return
    for name, _ in imports(path):
        root, _, rest = name.partition(".")
        if root != "dvps_ros":
            continue
        imported = rest.partition(".")[0]
        if imported == "msg":
            assert part == "ros", f"{path}: only dvps_ros.ros may import messages"
            continue
        allowed = (
            imported == part
            or TIER[imported] < TIER[part]
            or (TIER[imported] == TIER[part] == 0)
            or (part, imported) in SAME_TIER
        )
        if part == "runtime":
            allowed = allowed and imported not in {"losses", "metrics", "data", "networks"}
        assert allowed, f"{path}: {part} may not import {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_heavy_libraries_stay_where_they_belong(path: Path) -> None:
    part = part_of(path)
    for name, top in imports(path):
        root = name.partition(".")[0]
        if root == "torch" and (path != TORCH_BACKEND or top):
            assert part not in NO_TORCH, f"{path}: {part} must not import torch"
            assert part != "cli" or not top, f"{path}: import torch inside the command"
        if root in ROS_MODULES:
            assert part == "ros", f"{path}: only dvps_ros.ros may import {root}"


def module_of(path: Path) -> str:
    parts = ("dvps_ros", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(paths: list[Path]) -> dict[str, set[str]]:
    """Module -> the package's modules that it imports, wherever and whatever for."""
    modules = {module_of(p): p for p in paths}
    graph = {}
    for module, path in modules.items():
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("dvps_ros"):
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in modules else node.module)
        graph[module] = found & modules.keys() - {module}
    return graph


def circles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Sets of modules each of which imports, by way of others, itself."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        todo = list(graph[start])
        while todo:
            module = todo.pop()
            if module not in seen:
                seen.add(module)
                todo += graph.get(module, ())
        reached[start] = seen
    found = []
    for module, others in reached.items():
        circle = {other for other in others if module in reached.get(other, ())} | {module}
        if module in others and circle not in found:
            found.append(circle)
    return found


def test_no_modules_import_each_other() -> None:
    assert circles(graph_of(MODULES)) == []


def test_circles_are_seen() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set()}) == [{"a", "b", "c"}]
    assert circles({"a": {"b"}, "b": set()}) == []


def test_the_walk_sees_imports() -> None:
    """The checks above would pass on an empty list: make sure they see something."""
    assert len(MODULES) > 10
    assert ("dvps_ros.errors", True) in imports(PACKAGE / "labels.py")
    assert part_of(PACKAGE / "geometry" / "depth.py") == "geometry"
