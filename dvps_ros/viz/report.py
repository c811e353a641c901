# SPDX-License-Identifier: Apache-2.0
"""The report of a clip as one self-contained HTML page: figures, pictures and plots, no other files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.files import write_text
from dvps_ros.viz.page import PAGE_STYLE, jpeg_uri, svg_uri
from dvps_ros.viz.plot import panels, tab20

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
{{ style | safe }}</style>
</head>
<body><main>
<header><h1>{{ title }}</h1>
<p>{{ report.model }} on {{ report.backend }}
{% if report.commit %}, commit {{ report.commit[:12] }}{% endif %}</p>
</header>

<div class="cards">
{% for value, unit, name in cards %}
<div class="card"><b>{{ value }} <small>{{ unit }}</small></b><span>{{ name }}</span></div>
{% endfor %}
</div>

{% if verdict %}
<section class="verdict{% if not passed %} bad{% endif %}">
<h2>{% if passed %}Passed{% else %}Failed{% endif %}</h2>
{% if note %}<p class="note">{{ note }}</p>{% endif %}
<table><tr><th>value</th><th class="n">measured</th><th class="n">expected</th><th></th></tr>
{% for row in verdict %}
<tr><td>{{ row.name }}</td><td class="n">{{ row.measured | figure }}</td>
<td class="n">{{ row.relation }} {{ row.limit | figure }}</td>
<td class="{{ "ok" if row.holds else "no" }}">{{ "met" if row.holds else "missed" }}</td></tr>
{% endfor %}
</table></section>
{% endif %}

{% if pictures %}
<section><h2>Pictures</h2>
{% for caption, source in pictures %}
<figure><img src="{{ source }}" alt="{{ caption }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</section>
{% endif %}

{% if report.quality %}
{% set quality = report.quality %}
<section><h2>Quality against the truth</h2><div class="two">
{% if quality.pq %}
<div><table>
<tr><th>class</th><th class="n">PQ</th><th style="width:35%"></th>
<th class="n">hit</th><th class="n">false</th><th class="n">missed</th></tr>
{% for name, row in quality.per_class.items() %}
<tr><td>{{ name }}</td><td class="n">{{ row.pq | percent }}</td>
<td><div class="bar" style="width:{{ 100 * row.pq }}%"></div></td>
<td class="n">{{ row.tp }}</td><td class="n">{{ row.fp }}</td><td class="n">{{ row.fn }}</td></tr>
{% endfor %}
</table>
<p class="note">PQ: panoptic quality; hit, false and missed count segments over all frames.</p></div>
{% endif %}
<div>
{% if quality.objects %}
{% for objects in [quality.objects, quality.objects_near] if objects %}
<table><tr><th>objects{% if objects.within_m %} within {{ objects.within_m | int }} m{% endif %}</th>
<th></th></tr>
<tr><td>in the truth</td><td class="n">{{ objects.objects }}</td></tr>
<tr><td>found in at least one frame</td><td class="n">{{ objects.objects_found }}</td></tr>
<tr><td>found, of all {{ objects.sightings }} sightings</td>
<td class="n">{{ objects.found | percent }}</td></tr>
{% if objects.found_in_class is not none %}
<tr><td>found under the right class, of all sightings</td>
<td class="n">{{ objects.found_in_class | percent }}</td></tr>
{% endif %}
<tr><td>of the found under the object's own track id</td>
<td class="n">{{ objects.ids_kept | percent }}</td></tr>
<tr><td>id switches</td><td class="n">{{ objects.id_switches }}</td></tr>
</table>
{% endfor %}
<p class="note">Objects with at least {{ quality.objects.min_area_px }} known pixels in a frame;
found: one track covers it with IoU above 0.5, whatever class it has.</p>
{% endif %}
{% if quality.objects_by_size %}
<table><tr><th>visible area of an object, as a square</th>
<th class="n">sightings</th><th class="n">found</th></tr>
{% for size, row in quality.objects_by_size.items() if row.sightings %}
<tr><td>{{ size }}</td><td class="n">{{ row.sightings }}</td><td class="n">{{ row.found | percent }}</td></tr>
{% endfor %}
</table>
{% endif %}
{% if quality.stq %}
<table><tr><th>video metrics</th><th></th></tr>
{% for name, value in quality.stq.items() %}
<tr><td>{{ name }}</td><td class="n">{{ value | percent }}</td></tr>
{% endfor %}
{% for k, row in quality.dvpq.items() %}
<tr><td>DVPQ over {{ k }} frame{{ "" if k == "1" else "s" }}, depth error &le; {{ row | join(" / ") }}</td>
<td class="n">{% for value in row.values() %}{{ value | percent }}{{ "" if loop.last else " / " }}{% endfor %}
</td></tr>
{% endfor %}
</table>
{% endif %}
{% if quality.depth %}
<table><tr><th>depth</th><th class="n">abs. rel.</th><th class="n">RMSE, m</th>
<th class="n">&delta;&lt;1.25</th></tr>
{% for name, row in depth_rows %}
<tr><td>{{ name }}</td><td class="n">{{ row.abs_rel | percent }}</td>
<td class="n">{{ row.rmse | figure }}</td>
<td class="n">{{ row.delta1 | percent }}</td></tr>
{% endfor %}
</table>
<p class="note">Of pixels with true depth, {{ quality.depth.coverage | percent }} have an answer.</p>
{% endif %}
</div></div></section>
{% endif %}

{% if timeline %}
<section><h2>Identities over time</h2><figure><img src="{{ timeline }}" alt="identities over time">
<figcaption>One row for each true object; a colour is one track id, grey is not found.
A row of one colour is an object that kept its identity.</figcaption></figure></section>
{% endif %}

<section><h2>Time</h2><div class="two">
<figure><img src="{{ latency }}" alt="latency">
<figcaption>Latency of each frame: {{ latency_meaning }}.</figcaption></figure>
<div><table>
<tr><th>stage</th><th class="n">p50, ms</th><th class="n">p99, ms</th><th style="width:30%"></th></tr>
{% for name, row in report.stages_ms.items() %}
<tr><td>{{ name }}</td><td class="n">{{ row.p50 | figure }}</td><td class="n">{{ row.p99 | figure }}</td>
<td><div class="bar" style="width:{{ 100 * row.p50 / slowest }}%"></div></td></tr>
{% endfor %}
</table></div></div></section>

<section><h2>Where it came from</h2><table>
{% for name, value in facts %}
<tr><td>{{ name }}</td><td>{{ value }}</td></tr>
{% endfor %}
</table></section>

{% if files %}
<section><h2>Files beside this page</h2><table>
{% for name, meaning in files %}
<tr><td><a href="{{ name }}"><code>{{ name }}</code></a></td><td>{{ meaning }}</td></tr>
{% endfor %}
</table></section>
{% endif %}
</main></body></html>
"""


def write_html(
    path: Path,
    report: Mapping[str, Any],
    *,
    title: str,
    pictures: Sequence[tuple[int, np.ndarray]],
    latency_ms: Sequence[float],
    latency_meaning: str,
    timelines: Mapping[int, Sequence[tuple[int, int]]],
    files: Sequence[tuple[str, str]],
    verdict: Sequence[Any] = (),
    note: str = "",
) -> None:
    """Write the page.

    Args:
        report: what report.json holds.
        pictures: (stamp_ns, uint8 [H,W,3] RGB).
        latency_ms: of each frame, in order.
        latency_meaning: from what to what, for the caption.
        timelines: true object -> (stamp_ns, track id; 0 not found), as ClipQuality collects them.
        files: (name, meaning) of what lies beside the page.
        verdict: rows with name, measured, relation, limit, holds.
        note: what the verdict was, and was not, checked against.

    Raises:
        InputError: the file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "-" if v is None else f"{100 * v:.1f} %"
    environment.filters["figure"] = _figure
    first_ns = pictures[0][0] if pictures else 0
    page = environment.from_string(TEMPLATE).render(
        title=title,
        style=PAGE_STYLE,
        report=report,
        cards=_cards(report),
        verdict=list(verdict),
        note=note,
        passed=all(row.holds for row in verdict),
        depth_rows=_depth_rows(report),
        pictures=[
            (f"{(stamp - first_ns) * 1e-9:.2f} s after the first picture", jpeg_uri(i))
            for stamp, i in pictures
        ],
        timeline=_timeline_plot(timelines) if timelines else None,
        latency=_latency_plot(latency_ms),
        latency_meaning=latency_meaning,
        slowest=max((row["p50"] or 0 for row in report["stages_ms"].values()), default=0) or 1,
        facts=list(_facts(report)),
        files=files,
    )
    write_text(path, page)


def _figure(value: Any) -> str:
    """Three significant digits; '-' for nothing."""
    if value is None:
        return "-"
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1000 else f"{value:.0f}"


def _cards(report: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    quality = report.get("quality") or {}
    yield _figure(report["frames_processed"]), f"of {report['frames_in']}", "frames processed"
    yield _figure(report["rate_hz"]), "Hz", "rate"
    yield _figure(report["latency_ms"]["p50"]), "ms", "median latency"
    yield _figure(report["latency_ms"]["p99"]), "ms", "99 % of latencies below"
    yield _figure(report["peak_rss_mib"]), "MiB", "peak memory"
    if quality.get("pq"):
        yield f"{100 * quality['pq']['all']:.1f}", "%", "panoptic quality"
    if (quality.get("depth") or {}).get("abs_rel") is not None:
        yield f"{100 * quality['depth']['abs_rel']:.1f}", "%", "relative depth error"
    objects = quality.get("objects") or {}
    if objects.get("ids_kept") is not None:
        yield f"{100 * objects['ids_kept']:.1f}", "%", "ids kept"


def _depth_rows(report: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    depth = (report.get("quality") or {}).get("depth")
    return [("all under 80 m", depth), *depth["by_distance"].items()] if depth else []


def _facts(report: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    for group in ("inputs", "machine"):
        for name, value in report[group].items():
            yield f"{group}: {name.replace('_', ' ')}", str(value)
    yield "model", str(report["model"])
    yield "backend", str(report["backend"])
    yield "commit", str(report["commit"])


def _latency_plot(latency_ms: Sequence[float]) -> str:
    figure, (axes,) = panels(6, 3.2, 1)
    values = np.asarray(latency_ms, np.float64)
    # The rare long frame would squeeze all others into one bar: it goes into the last one.
    top = float(np.percentile(values, 99)) * 1.2 if values.size else 1.0
    axes.hist(np.minimum(values, top), bins=40, color="#2566b8", alpha=0.85)
    for share, style in ((50, "-"), (99, "--")) if values.size else ():
        at = float(np.percentile(values, share))
        axes.axvline(at, color="#1d2733", lw=1.2, ls=style, label=f"p{share}: {at:.1f} ms")
        axes.legend(frameon=False, loc="upper right")
    axes.set_xlim(left=0)
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("frames")
    return svg_uri(figure)


def _timeline_plot(timelines: Mapping[int, Sequence[tuple[int, int]]]) -> str:
    """The forty objects that are visible longest, one row each."""
    rows = sorted(timelines.items(), key=lambda item: -len(item[1]))[:40]
    rows.sort(key=lambda item: item[1][0][0])
    stamps = sorted({stamp for _, line in rows for stamp, _ in line})
    step_s = float(np.median(np.diff(stamps))) * 1e-9 if len(stamps) > 1 else 0.1
    colors = tab20(0.1)
    figure, (axes,) = panels(11, 0.8 + 0.2 * len(rows), 1)
    for y, (_, line) in enumerate(rows):
        starts = [((stamp - stamps[0]) * 1e-9, step_s) for stamp, _ in line]
        shades = [colors[track * 7 % len(colors)] if track else "#d5dae0" for _, track in line]
        axes.broken_barh(starts, (y - 0.4, 0.8), facecolors=shades)
    axes.set_yticks(range(len(rows)), [str(object_id) for object_id, _ in rows], fontsize=7)
    axes.invert_yaxis()
    axes.set_xlabel("time, s")
    axes.set_ylabel("true object")
    return svg_uri(figure)
