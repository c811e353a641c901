# SPDX-License-Identifier: Apache-2.0
"""``dvps bench graph``: peak rate, latency, jitter and load of the ROS 2 graph; ros2_benchmark's method."""

from __future__ import annotations

from pathlib import Path

import click

from dvps_ros.cli.options import ImageSize, given_camera, measurement, out_option, played_options

JSON_NAME = "graph.json"


@click.command("graph")
@played_options(size="512x1024")
@click.option("--topics", default="all", show_default=True, help="Outputs subscribed to: semantic,depth,...")
@click.option(
    "--frames-in-flight",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="The node's parameter: 2 computes the next frame while one is published.",
)
@click.option("--rates", default="10,30,60", show_default=True, help="Of the fixed runs, Hz; empty: none.")
@click.option("--search/--no-search", default=True, help="Look for the peak rate.")
@click.option(
    "--lower", "lower_hz", type=click.FloatRange(min=0.1), default=4.0, show_default=True, help="Hz."
)
@click.option(
    "--upper", "upper_hz", type=click.FloatRange(min=0.2), default=120.0, show_default=True, help="Hz."
)
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(min=0.1),
    default=10.0,
    show_default=True,
    help="Of a run, seconds; a probe of the search takes half of it.",
)
@click.option("--buffer", "buffer_frames", type=click.IntRange(1), default=20, show_default=True)
@out_option("out/bench_graph", "Folder for graph.json, graph.png and the nodes' logs.")
@click.option(
    "--plot",
    "plot_path",
    type=click.Path(dir_okay=False, exists=True, path_type=Path),
    help="Measure nothing: table and plots from this JSON file.",
)
def graph_command(
    model: str,
    backend: str,
    camera_height_m: float,
    precision: str,
    fov_deg: float | None,
    camera_file: Path | None,
    input_spec: str,
    size: ImageSize,
    topics: str,
    frames_in_flight: int,
    rates: str,
    search: bool,
    lower_hz: float,
    upper_hz: float,
    duration_s: float,
    buffer_frames: int,
    out: Path,
    plot_path: Path | None,
) -> None:
    """Peak rate, latency, jitter, losses and load of the perception node in a ROS 2 graph.

    Plays images from memory at searched and fixed rates. Prints a table in Markdown.

    \b
    dvps bench graph
    dvps bench graph --size 384x768 --topics semantic,instance,depth,points,instances,scale
    dvps bench graph --plot out/bench_graph/graph.json
    """
    from dvps_ros.bench import ros_graph as bench
    from dvps_ros.bench.facts import require, write_report
    from dvps_ros.viz.graph_plot import write_graph_plot

    require("matplotlib")
    if plot_path is not None:
        report = bench.read_report(plot_path)
        write_graph_plot(plot_path.with_suffix(".png"), report)
        click.echo(bench.table(report) + f"\n\nplots: {plot_path.with_suffix('.png')}")
        return
    require("rclpy")
    fixed_hz = parse_rates(rates)
    if lower_hz >= upper_hz:
        raise click.BadParameter(f"expected less than --upper {upper_hz:g}", param_hint="--lower")
    made = measurement("figures will be too bad")
    frames, source = bench.read_frames(input_spec, size, given_camera(camera_file), fov_deg, buffer_frames)
    config = {
        "input": input_spec,
        "camera": f"{frames[0].camera.width}x{frames[0].camera.height}",
        "engine.model": model,
        "engine.backend": backend,
        "engine.precision": precision,
        "engine.size": str(size),
        "scale.camera_height_m": camera_height_m or getattr(source, "camera_height_m", 0.0),
        "frames_in_flight": frames_in_flight,
        "buffer_frames": len(frames),
        "duration_s": duration_s,
        "search_hz": [lower_hz, upper_hz] if search else None,
        "rates_hz": fixed_hz,
    }
    report = made | {
        "method": bench.METHOD,
        "config": config,
        **bench.measure(frames, topics, config, out / "logs", click.echo),
    }
    write_report(out / JSON_NAME, report)
    write_graph_plot((out / JSON_NAME).with_suffix(".png"), report)
    click.echo(f"\n{bench.table(report)}\n\nwritten to {out / JSON_NAME}, plots beside it")


def parse_rates(rates: str) -> list[float]:
    """Numbers above 0, separated by commas."""
    try:
        values = [float(r) for r in rates.split(",") if r.strip()]
    except ValueError:
        values = [0.0]
    if not all(0 < v <= 1000 for v in values):
        raise click.BadParameter(
            f"expected rates in Hz such as 10,30,60, none above 1000, got {rates}", param_hint="--rates"
        )
    return values
