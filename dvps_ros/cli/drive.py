# SPDX-License-Identifier: Apache-2.0
"""``dvps drive``: the steering head drives the synthetic world, closed loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dvps_ros.cli.options import measurement, out_option

if TYPE_CHECKING:
    from dvps_ros.training.steering.closed_loop import RoadDrive


@click.command()
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=2_000_000,
    show_default=True,
    help="First road; seeds from 1000000 on are never trained on.",
)
@click.option(
    "--minutes",
    type=click.FloatRange(min=0.01),
    default=10.0,
    show_default=True,
    help="Time on all roads together.",
)
@click.option(
    "--road-seconds",
    type=click.FloatRange(min=1),
    default=60.0,
    show_default=True,
    help="Longest drive on one road; then, or when its lane was left, comes the next one.",
)
@click.option(
    "--streets",
    type=click.Choice(("all", "marked", "unmarked")),
    default="all",
    show_default=True,
    help="Only streets with lane lines, or only those without.",
)
@click.option("--rate", "rate_hz", type=click.FloatRange(1, 60), default=10.0, show_default=True, help="Hz.")
@click.option(
    "--latency-ms",
    type=click.FloatRange(min=40),
    default=100.0,
    show_default=True,
    help="From the camera's time stamp to the wheels.",
)
@click.option(
    "--drop", type=click.FloatRange(0, 0.95), default=0.0, show_default=True, help="Share of lost frames."
)
@click.option("--perception", default="lite", show_default=True, help="Perception model: name or folder.")
@click.option("--head", default="steering", show_default=True, help="Steering head: name or folder.")
@click.option("--threads", type=click.IntRange(min=0), default=0, help="Of the perception engine; 0: all.")
@out_option("out/drive", "Folder of report.json, drives.svg and drive.mp4.")
def command(
    seed: int,
    minutes: float,
    road_seconds: float,
    streets: str,
    rate_hz: float,
    latency_ms: float,
    drop: float,
    perception: str,
    head: str,
    threads: int,
    out: Path,
) -> None:
    """Let the steering head drive roads that it has never seen, and say how well it keeps the lane.

    \b
    dvps drive --minutes 10 --latency-ms 100
    dvps drive --seed 2000042 --minutes 1 --latency-ms 200 --drop 0.2

    The command moves the ego vehicle through its bicycle model. A road ends when the middle of the rear axle
    crosses the lane's edge; the next one follows until all minutes are driven.
    """
    from dataclasses import asdict, replace

    from tqdm import tqdm

    from dvps_ros.bench import facts
    from dvps_ros.config import EngineConfig, SteeringConfig
    from dvps_ros.runtime.engine import Engine
    from dvps_ros.runtime.steering import SteeringPipeline
    from dvps_ros.training.steering.closed_loop import Conditions, drive_on, drive_road, overall
    from dvps_ros.training.steering.drives import steering_world
    from dvps_ros.viz.files import video_file

    facts.require("matplotlib")
    made = measurement()
    width, height = 512, 256
    conditions = Conditions(rate_hz, latency_ms / 1e3, drop, road_seconds)
    out.mkdir(parents=True, exist_ok=True)
    steering = SteeringPipeline.open(SteeringConfig(model=head))
    config = EngineConfig(model=perception, threads=threads)
    engine = Engine.open(perception, config, camera_size=(width, height))
    drives: list[RoadDrive] = []
    try:
        with (
            video_file(out / "drive.mp4", width, height, rate_hz) as video,
            tqdm(desc="driving", total=round(60 * minutes), unit="s") as bar,
        ):

            def drive(road: int, longest_s: float) -> RoadDrive:
                world, camera = steering_world(road, width, height)
                limited = replace(conditions, seconds=longest_s)
                return drive_road(
                    world, camera, engine, steering, limited, shown=lambda image, t: video.write(image)
                )

            marked = {"all": None, "marked": True, "unmarked": False}[streets]
            for road in drive_on(drive, seed, 60 * minutes, road_seconds, rate_hz, marked=marked):
                drives.append(road)
                tqdm.write(_line(road.summary()))
                bar.update(round(road.driven_s))
    finally:
        steering.close()
        engine.close()
    total = overall(drives)
    facts.write_report(
        out / "report.json",
        made
        | {
            "perception": engine.description,
            "head": steering.head.description,
            "conditions": asdict(conditions) | {"streets": streets},
            "overall": total,
            "roads": [d.summary() for d in drives],
        },
    )
    _write_plot(out / "drives.svg", drives)
    click.echo("\n".join(f"{name:<20} {value}" for name, value in total.items()))
    click.echo(f"written to {out}")


def _line(road: dict[str, Any]) -> str:
    left = road["left_lane_at_s"]
    end = "stayed in its lane" if left is None else f"LEFT ITS LANE at {left:.1f} s"
    lines = "lines" if road["marked"] else "no lines"
    return (
        f"{road['seed']:>8} {road['style']:<12}{lines:<9}{road['seconds']:>6.1f} s {road['metres']:>7.1f} m, "
        f"lateral mean {road['lateral_mean_m']} m, 95 % {road['lateral_p95_m']} m: {end}"
    )


def _write_plot(path: Path, drives: list[RoadDrive]) -> None:
    """Distance from the lane's middle over time, one line a road."""
    from dvps_ros.viz.plot import panels, write_plot

    figure, (axes,) = panels(10, 4, 1)
    for drive in drives:
        line = axes.plot(drive.t_s, drive.lateral_m, lw=1, label=f"{drive.seed} {drive.style}")[0]
        if drive.left_lane_at_s is not None:
            axes.plot(drive.t_s[-1], drive.lateral_m[-1], "x", color=line.get_color())
    edge = min(0.5 * d.lane_width_m for d in drives)
    for y in (-edge, edge):
        axes.axhline(y, color="0.6", ls="--", lw=1)
    axes.set_xlabel("s")
    axes.set_ylabel("m left of the lane's middle (dashed: edge of the narrowest lane)")
    axes.legend(fontsize=6, ncols=5, loc="upper center", bbox_to_anchor=(0.5, 1.2))
    write_plot(path, figure)
