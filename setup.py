# SPDX-License-Identifier: Apache-2.0
"""pip build of dvps_ros on the ROS 2 wheels: Python code, messages and share/ files in one package.

The messages of msg/ are generated and compiled with the rosidl generators that the ros-rclpy wheel
depends on; that needs a C++ compiler and the Python headers, no CMake. colcon never runs this file:
package.xml says ament_cmake.
"""

import configparser
import json
import shutil
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

PACKAGE = "dvps_ros"
HERE = Path(__file__).resolve().parent
SHARE_FOLDERS = ("launch", "config", "models", "msg")
MESSAGE_DEPENDENCIES = ("builtin_interfaces", "std_msgs", "geometry_msgs", "sensor_msgs", "service_msgs")
TYPE_SUPPORTS = ("rosidl_typesupport_fastrtps_c", "rosidl_typesupport_introspection_c")

PROGRAM = """#!/usr/bin/env python3
import sys

from {module} import {function}

sys.exit({function}())
"""

# rosidl_typesupport_c looks for lib<package>__<type support>.so by name at run time. Here both type
# supports live in one extension, so this small dispatcher picks between them.
DISPATCHER = r"""
#include <cstring>
#include "rosidl_runtime_c/message_type_support_struct.h"
#include "rosidl_typesupport_interface/macros.h"

using Handle = const rosidl_message_type_support_t *;

static Handle pick(Handle self, const char * identifier, Handle (* const candidates[2])())
{
  if (!std::strcmp(self->typesupport_identifier, identifier)) {return self;}
  for (int i = 0; i < 2; ++i) {
    Handle handle = candidates[i]();
    if (!std::strcmp(handle->typesupport_identifier, identifier)) {return handle;}
  }
  return nullptr;
}

#define SYMBOL ROSIDL_TYPESUPPORT_INTERFACE__MESSAGE_SYMBOL_NAME
#define MESSAGE(PACKAGE, NAME) \
  extern "C" Handle SYMBOL(rosidl_typesupport_fastrtps_c, PACKAGE, msg, NAME)(); \
  extern "C" Handle SYMBOL(rosidl_typesupport_introspection_c, PACKAGE, msg, NAME)(); \
  static Handle (* const candidates_##NAME[2])() = { \
    SYMBOL(rosidl_typesupport_fastrtps_c, PACKAGE, msg, NAME), \
    SYMBOL(rosidl_typesupport_introspection_c, PACKAGE, msg, NAME)}; \
  static Handle find_##NAME(Handle self, const char * identifier) \
  {return pick(self, identifier, candidates_##NAME);} \
  extern "C" __attribute__((visibility("default"))) \
  Handle SYMBOL(rosidl_typesupport_c, PACKAGE, msg, NAME)() \
  { \
    static const rosidl_message_type_support_t support = [] { \
        rosidl_message_type_support_t copy = *candidates_##NAME[0](); \
        copy.typesupport_identifier = "rosidl_typesupport_c"; \
        copy.data = nullptr; \
        copy.func = find_##NAME; \
        return copy; \
      }(); \
    return &support; \
  }
"""


def version() -> str:
    return ElementTree.parse(HERE / "package.xml").getroot().findtext("version")


def entry_points() -> dict[str, str]:
    """Executable name -> module:function, from setup.cfg."""
    parser = configparser.ConfigParser()
    parser.read(HERE / "setup.cfg")
    lines = parser["options.entry_points"]["console_scripts"].strip().splitlines()
    return {name.strip(): target.strip() for name, target in (line.split("=") for line in lines)}


def message_names() -> list[str]:
    return sorted(p.stem for p in (HERE / "msg").glob("*.msg"))


def ros_prefix() -> Path:
    """The environment's root, under which the ROS 2 wheels put share/, lib/ and include/."""
    import rosidl_adapter

    return Path(rosidl_adapter.__file__).resolve().parents[4]


def generate_messages(out: Path) -> list[str]:
    """Run the rosidl generators over msg/ into ``out``; returns the C and C++ sources."""
    from rosidl_adapter.msg import convert_msg_to_idl
    from rosidl_cli.command.helpers import generate_visibility_control_file
    from rosidl_generator_c import generate_c
    from rosidl_generator_py import generate_py
    from rosidl_generator_type_description import generate_type_hash
    from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
    from rosidl_typesupport_introspection_c import generate_c as generate_introspection_c

    share = ros_prefix() / "share"
    names = message_names()
    shutil.rmtree(out, ignore_errors=True)
    idl = out / "rosidl_adapter" / PACKAGE
    (idl / "msg").mkdir(parents=True)
    for name in names:
        convert_msg_to_idl(HERE, PACKAGE, Path("msg") / f"{name}.msg", idl / "msg")
    common = {
        "package_name": PACKAGE,
        "idl_tuples": [f"{idl}:msg/{name}.idl" for name in names],
        "ros_interface_files": [str(HERE / "msg" / f"{name}.msg") for name in names],
        "ros_interface_dependencies": [
            f"{package}:{path}"
            for package in MESSAGE_DEPENDENCIES
            for path in sorted((share / package).glob("*/*.idl"))
        ],
        "include_paths": [f"{package}:{share / package}" for package in MESSAGE_DEPENDENCIES],
        "target_dependencies": [],
    }

    def run(generator: str, function, *arguments, **extra) -> Path:
        folder = out / generator / PACKAGE
        folder.mkdir(parents=True, exist_ok=True)
        options = out / f"{generator}.json"
        templates = share / generator / "resource"
        options.write_text(
            json.dumps({**common, **extra, "output_dir": str(folder), "template_dir": str(templates)})
        )
        function(str(options), *arguments)
        visibility = templates / f"{generator}__visibility_control.h.in"
        if visibility.exists():
            generate_visibility_control_file(
                package_name=PACKAGE,
                template_path=visibility,
                output_path=folder / "msg" / f"{generator}__visibility_control.h",
            )
        return folder

    descriptions = run("rosidl_generator_type_description", generate_type_hash)
    structs = run(
        "rosidl_generator_c",
        generate_c,
        type_description_tuples=[f"msg/{name}.idl:{descriptions}/msg/{name}.json" for name in names],
    )
    fastrtps = run(TYPE_SUPPORTS[0], generate_typesupport_fastrtps_c)
    introspection = run(TYPE_SUPPORTS[1], generate_introspection_c)
    python = run("rosidl_generator_py", generate_py, ["rosidl_typesupport_c"])
    dispatcher = out / "dispatcher.cpp"
    dispatcher.write_text(DISPATCHER + "".join(f"MESSAGE({PACKAGE}, {name})\n" for name in names))
    sources = [
        *structs.glob("msg/detail/*.c"),
        *fastrtps.glob("msg/detail/*.cpp"),
        *introspection.glob("msg/detail/*.c"),
        dispatcher,
        *python.glob("msg/*_s.c"),
        *python.glob("_*.ep.rosidl_typesupport_c.c"),
    ]
    return sorted(map(str, sources))


class BuildMessages(build_ext):
    """Builds the one extension that holds all messages, and puts dvps_ros/msg beside it."""

    def build_extension(self, ext: Extension) -> None:
        import numpy

        out = Path(self.build_temp).resolve() / "rosidl"
        prefix = ros_prefix()
        ext.sources = generate_messages(out)
        generated = [out / name for name in ("rosidl_generator_c", *TYPE_SUPPORTS, "rosidl_generator_py")]
        installed = [
            p
            for p in sorted((prefix / "include").iterdir())
            if p.is_dir() and not p.name.startswith("python")
        ]
        # The folder itself too: Fast CDR lies directly in it, and pip's isolated build knows no default.
        headers = [*generated, prefix / "include", *installed]
        ext.include_dirs = [*map(str, headers), numpy.get_include()]
        ext.library_dirs = [str(prefix / "lib")]
        parts = ("rosidl_generator_py", *TYPE_SUPPORTS, "rosidl_generator_c")
        ext.libraries = [f"{package}__{part}" for package in MESSAGE_DEPENDENCIES for part in parts]
        ext.libraries += [
            *TYPE_SUPPORTS,
            "rosidl_typesupport_fastrtps_cpp",
            "rosidl_runtime_c",
            "fastcdr",
            "rcutils",
        ]
        ext.extra_compile_args = ["-O2", "-g0", "-w"]  # generated code is not ours to warn about
        # <prefix>/lib/pythonX.Y/site-packages/dvps_ros/*.so -> <prefix>/lib. An editable install leaves
        # the extension in the source tree; rclpy has loaded these libraries by then.
        ext.extra_link_args = ["-Wl,-rpath,$ORIGIN/../../..", "-Wl,--as-needed"]
        super().build_extension(ext)
        self._copy_messages(Path(self.get_ext_fullpath(ext.name)).parent, out)
        if self.inplace or self.editable_mode:
            self._copy_messages(HERE / PACKAGE, out)

    @staticmethod
    def _copy_messages(package: Path, out: Path) -> None:
        shutil.rmtree(package / "msg", ignore_errors=True)
        shutil.copytree(
            out / "rosidl_generator_py" / PACKAGE / "msg",
            package / "msg",
            ignore=shutil.ignore_patterns("*.c"),
        )


def data_files() -> list[tuple[str, list[str]]]:
    """share/dvps_ros and the ament index marker, so that ros2 tools find the package, and lib/dvps_ros."""
    share = f"share/{PACKAGE}"
    files = [
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (share, ["package.xml"]),
    ]
    for folder in SHARE_FOLDERS:
        for directory in [HERE / folder, *(p for p in sorted((HERE / folder).rglob("*")) if p.is_dir())]:
            names = sorted(
                str(p.relative_to(HERE)) for p in directory.iterdir() if p.is_file() and p.suffix != ".pyc"
            )
            if names:
                files.append((f"{share}/{directory.relative_to(HERE)}", names))
    programs = HERE / "build" / "programs"
    programs.mkdir(parents=True, exist_ok=True)
    for name, target in entry_points().items():
        module, _, function = target.partition(":")
        program = programs / name
        program.write_text(PROGRAM.format(module=module, function=function))
        program.chmod(0o755)
        files.append((f"lib/{PACKAGE}", [str(program.relative_to(HERE))]))
    return files


setup(
    version=version(),
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={PACKAGE: ["**/*.j2"]},
    entry_points={"console_scripts": [f"{name} = {target}" for name, target in entry_points().items()]},
    ext_modules=[Extension(f"{PACKAGE}.{PACKAGE}_s__rosidl_typesupport_c", sources=[], language="c++")],
    cmdclass={"build_ext": BuildMessages},
    data_files=data_files(),
)
