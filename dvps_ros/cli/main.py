# SPDX-License-Identifier: Apache-2.0
"""The ``dvps`` command: a table of sub-commands, each imported only when it is called."""

from __future__ import annotations

import importlib
import logging
import sys
from importlib.metadata import PackageNotFoundError, version

import click

from dvps_ros.errors import DvpsError

log = logging.getLogger(__name__)

COMMANDS = {
    "demo": "Run the whole ROS 2 graph on a scene or a clip, and judge what comes out.",
    "run": "Process a video, image folder, bag or drive without ROS.",
    "bag": "Recover bags whose recorder was killed.",
    "data": "List, check and look at data sets.",
    "world": "Render synthetic driving sequences with exact truth.",
    "train": "Train a network from a recipe.",
    "export": "Write a trained network as a model folder that the engines load.",
    "import": "Make a model folder of networks of the transformers library.",
    "engine": "Build, list, verify, profile and remove the engines of this machine.",
    "predict": "Write predictions of a data set in its official format.",
    "eval": "Score predictions against ground truth.",
    "drive": "Let the steering head drive the synthetic world, closed loop.",
    "bench": "Measure stages and engines on this machine.",
    "doctor": "Check this machine and installation, and say what to do.",
}
"""Sub-command -> its one-line help; the code is ``dvps_ros.cli.<name>.command``."""
MODULES = {"import": "import_"}
"""Sub-commands whose module has another name, because theirs is a keyword."""


EXTRAS = {
    "train": {"huggingface_hub", "lightning", "onnx", "onnxscript", "safetensors", "torch", "transformers"},
    "tools": {"av", "jinja2", "matplotlib", "mcap", "rosbags"},
    "peers": {"transformers"},
    "ros": {"rclpy", "sensor_msgs", "rosgraph_msgs", "diagnostic_msgs", "visualization_msgs", "nav_msgs"},
    "cpu": {"onnxruntime", "openvino"},
}
"""Extra of the package -> what commands import of it."""


class CommandTable(click.Group):
    """Looks sub-commands up in :data:`COMMANDS`, so that ``dvps --help`` imports none of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"dvps_ros.cli.{MODULES.get(cmd_name, cmd_name)}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def _version() -> str:
    try:
        return version("dvps_ros")
    except PackageNotFoundError:
        return "source checkout"


@click.command(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="dvps")
@click.option("-v", "--verbose", is_flag=True, help="Log debug messages.")
def cli(verbose: bool) -> None:
    """Depth-aware video panoptic perception from one camera."""
    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO, format="%(levelname)s %(name)s: %(message)s"
    )


def main() -> int:
    """Entry point: errors of the package and of files end it with status 1 and one sentence on stderr."""
    try:
        # Not standalone, click gives back the status of an Exit, and None of a command that ends by itself.
        return cli.main(standalone_mode=False) or 0
    except click.Abort:
        print("dvps: interrupted", file=sys.stderr)
        return 130
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except DvpsError as error:
        print(f"dvps: {error}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        extra = next((e for e, packages in EXTRAS.items() if package in packages), "")
        if not extra:
            raise
        print(
            f"dvps: this command needs {package}, which is not installed: pip install 'dvps_ros[{extra}]' "
            f"(in a checkout: pip install -e '.[{extra}]')",
            file=sys.stderr,
        )
        return 1
    except OSError as error:  # mostly a folder that cannot be written, or a full disk
        log.debug("where it happened", exc_info=True)
        print(f"dvps: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
