# SPDX-License-Identifier: Apache-2.0
"""The scores of an evaluation as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dvps_ros.files import write_text
from dvps_ros.labels import LabelSpace
from dvps_ros.viz.page import PAGE_STYLE, jpeg_uri, svg_uri
from dvps_ros.viz.plot import panels, tab20

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>{{ style | safe }}
  main { max-width: 1500px; }
  .panels { display: grid; grid-template-columns: repeat(3, 1fr); gap: 10px; }
  .panels figure { cursor: zoom-in; outline: none; margin: 0 0 6px; }
  .panels figure:focus { cursor: zoom-out; }
  .panels figure:focus img { position: fixed; inset: 0; width: 100vw; height: 100vh; object-fit: contain;
                             background: #10151bf0; z-index: 9; border-radius: 0; pointer-events: none; }
  td small { color: var(--soft); }
  .swatch { display: inline-block; width: 10px; height: 10px; border-radius: 3px; margin-right: 6px; }
  .key span { margin-right: 16px; }
</style>
</head>
<body><main>
<header><h1>{{ title }}</h1>
<p>{{ result.frames | number("frame") }} in {{ result.sequences | number("sequence") }},
{{ result.classes.count | number("class", "classes") }},
{{ result.classes.things | length }} of them things</p></header>

<div class="cards">
{% for value, name in cards %}
<div class="card"><b>{{ value | percent }}{% if value is not none %} <small>%</small>{% endif %}</b>
<span>{{ name }}</span></div>
{% endfor %}
</div>

{% for kind, heading in (("undefined", "Not defined here"), ("warnings", "Be careful")) %}
{% if result[kind] %}
<section><h2>{{ heading }}</h2><ul>
{% for text in result[kind] %}<li>{{ text }}</li>{% endfor %}</ul></section>
{% endif %}{% endfor %}

{% if quality_rows %}
<section><h2>Panoptic quality, %</h2><div class="two">
<div><table><tr><th></th><th class="n">all</th><th class="n">things</th><th class="n">stuff</th></tr>
{% for name, cell in quality_rows %}
<tr><td>{{ name }}</td>{% for g in groups %}<td class="n">{{ cell[g] | percent }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
<div>
{% if depth_heads %}
<table><tr><th>DVPQ</th>
{% for head in depth_heads %}<th class="n">{{ head }}</th>{% endfor %}</tr>
{% for name, cells in depth_rows %}
<tr><td>{{ name }}</td>{% for cell in cells %}<td class="n">{{ cell.all | percent }}<br>
<small>{{ cell.things | percent }} | {{ cell.stuff | percent }}</small></td>{% endfor %}</tr>
{% endfor %}</table>
<p class="note">All, and below it things | stuff. Columns: predicted pixels with a larger relative depth error
are void. Rows: tubes over k frames.</p>
{% endif %}
{% if tracking_rows %}
<table>{% for name, value, meaning in tracking_rows %}
<tr><td>{{ name }}</td><td class="n">{{ value }}</td><td class="note">{{ meaning }}</td></tr>
{% endfor %}</table>
{% endif %}</div>
</div></section>
{% endif %}

{% if class_rows %}
<section><h2>Classes</h2><table>
<tr><th>class</th><th class="n">PQ</th><th style="width:30%"></th><th class="n">SQ</th><th class="n">RQ</th>
<th class="n">IoU</th><th class="n">hit</th><th class="n">false</th><th class="n">missed</th></tr>
{% for row in class_rows %}
<tr><td><span class="swatch" style="background:rgb{{ row.color }}"></span>{{ row.name }}</td>
<td class="n">{{ row.pq | percent }}</td><td>
{% if row.pq > 0 %}<div class="bar" style="width:{{ 100 * row.pq }}%"></div>{% endif %}</td>
<td class="n">{{ row.sq | percent }}</td><td class="n">{{ row.rq | percent }}</td>
<td class="n">{{ row.iou | percent }}</td>
<td class="n">{{ row.tp }}</td><td class="n">{{ row.fp }}</td><td class="n">{{ row.fn }}</td></tr>
{% endfor %}</table>
<p class="note">PQ = SQ x RQ; hit, false and missed count segments over all frames; IoU is over pixels.</p>
</section>
{% endif %}

{% if timeline %}
<section><h2>The least stable objects</h2><figure><img src="{{ timeline }}" alt="identities over time">
<figcaption>One row for each true object, those that changed their id most often first; a colour is one
predicted id, grey is not found, white is not there. A row of one colour is an object that kept its
identity.</figcaption></figure></section>
{% endif %}

{% if result.depth %}
<section><h2>Depth</h2>
<table><tr><th>crop</th><th>scaling</th>
{% for name in error_names %}<th class="n">{{ name }}</th>{% endfor %}</tr>
{% for crop, by_scaling in result.depth.items() %}{% for scaling, row in by_scaling.items() %}
<tr><td>{{ crop }}</td><td>{{ scaling }}</td>
{% for name in error_names %}<td class="n">{{ row[name] | figure }}</td>{% endfor %}</tr>
{% endfor %}{% endfor %}</table>
<p class="note">sq_rel and rmse in metres, silog x 100, rmse_log and silog of natural logarithms.</p>
{% if distance_plot %}<figure style="margin-top:16px">
<img src="{{ distance_plot }}" alt="error over distance">
<figcaption>Error over true distance, all pixels, unscaled: bars are the mean relative error, the line is the
bias, grey is the share of pixels.</figcaption></figure>{% endif %}</section>
{% endif %}

{% if frames %}
<section><h2>Worst frames</h2>
<p class="note">The worst of each ten frames of a sequence. Click a picture to enlarge it.</p>
<p class="note key">label errors:
{% for name, color in key %}
<span><i class="swatch" style="background:rgb{{ color }}"></i>{{ name }}</span>
{% endfor %}</p>
{% for frame in frames %}
<h3>{{ frame.caption }}</h3><div class="panels">
{% for name, source in frame.panels %}
<figure tabindex="0"><img src="{{ source }}" alt="{{ name }}"><figcaption>{{ name }}</figcaption></figure>
{% endfor %}</div>
{% endfor %}</section>
{% endif %}

<section><h2>Rules</h2><table>
{% for name, value in result.rules.items() %}
<tr><td>{{ name.replace("_", " ") }}</td><td>{{ value | plain }}</td></tr>
{% endfor %}</table></section>
</main></body></html>
"""

GROUPS = ("all", "things", "stuff")
ERROR_NAMES = ("abs_rel", "sq_rel", "rmse", "rmse_log", "silog", "delta1", "delta2", "delta3")


@dataclass(frozen=True)
class FramePanels:
    """One frame with its pictures: name -> uint8 [H,W,3] RGB."""

    caption: str
    panels: Mapping[str, np.ndarray]


@dataclass(frozen=True)
class ObjectLine:
    """One true object: (frame number, predicted id or -1) of each frame in which it exists."""

    name: str
    matches: Sequence[tuple[int, int]]


def write_score_page(
    path: Path,
    result: Mapping[str, Any],
    *,
    title: str,
    space: LabelSpace,
    frames: Sequence[FramePanels] = (),
    key: Sequence[tuple[str, tuple[int, int, int]]] = (),
    lines: Sequence[ObjectLine] = (),
) -> None:
    """Write the page.

    Args:
        result: what ``Evaluation.result`` gives.
        space: names and colours of the scored classes.
        frames: pictures of the frames that are worth a look.
        key: what the colours of their error maps mean.
        lines: objects whose identity is worth a look.

    Raises:
        InputError: the file cannot be written.
    """
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = lambda v: "-" if v is None else f"{100 * v:.1f}"
    environment.filters["number"] = lambda n, one, many=None: f"{n} {one if n == 1 else many or one + 's'}"
    environment.filters["plain"] = _plain
    environment.filters["figure"] = lambda v: "-" if v is None else f"{v:.3f}"
    heads, depth_rows = _depth_table(result)
    page = environment.from_string(TEMPLATE).render(
        title=title,
        style=PAGE_STYLE,
        result=result,
        groups=GROUPS,
        cards=list(_cards(result)),
        quality_rows=list(_quality_rows(result)),
        tracking_rows=list(_tracking_rows(result)),
        depth_heads=heads,
        depth_rows=depth_rows,
        class_rows=list(_class_rows(result, space)),
        timeline=_timeline_plot(lines) if lines else None,
        error_names=ERROR_NAMES,
        distance_plot=_distance_plot(result["depth_by_distance"]) if "depth_by_distance" in result else None,
        key=key,
        frames=[
            {"caption": f.caption, "panels": [(name, jpeg_uri(i)) for name, i in f.panels.items()]}
            for f in frames
        ],
    )
    write_text(path, page)


def _plain(value: Any) -> str:
    """A rule in words: lists by commas, nothing as "none"."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return "none" if value is None else str(value)


def _cards(result: Mapping[str, Any]) -> Any:
    means = result.get("means", {})
    for name in ("PQ", "STQ", "DSTQ", "PAT"):
        if name in result:
            yield (result[name]["all"] if name == "PQ" else result[name][name]), name
    for name in ("VPQ", "DPQ", "DVPQ"):
        if name in means:
            yield means[name]["all"], f"{name}, mean"
    if "depth" in result:
        crop, by_scaling = next(iter(result["depth"].items()))
        scaling, row = next(iter(by_scaling.items()))
        yield row["abs_rel"], f"relative depth error ({crop}, {scaling})"
    if "ids" in result:
        yield result["ids"]["kept"], "object-frames under one id"


def _quality_rows(result: Mapping[str, Any]) -> Any:
    means = result.get("means", {})
    if "PQ" in result:
        yield "PQ", result["PQ"]
    for k, cell in result.get("VPQ", {}).items():
        yield f"VPQ, k = {k}", cell
    if "VPQ" in means:
        yield "VPQ, mean", means["VPQ"]
    for value, cell in result.get("DPQ", {}).items():
        yield f"DPQ, lambda = {value}", cell
    for name in ("DPQ", "DVPQ"):
        if name in means:
            yield f"{name}, mean", means[name]


def _tracking_rows(result: Mapping[str, Any]) -> Any:
    """(name, text, meaning) of what is not a table by class or window."""
    meanings = {
        "STQ": {"STQ": "root of AQ x SQ", "AQ": "tracks over time, pixels", "SQ": "mean class IoU"},
        "DSTQ": {"DSTQ": "STQ with depth", "DQ": "share of depth inliers"},
        "PAT": {"PAT": "harmonic mean of PQ and TQ", "TQ": "tracks over time, frames"},
    }
    for metric, parts in meanings.items():
        for part, meaning in parts.items():
            if metric in result:
                value = result[metric][part]
                yield part, "-" if value is None else f"{100 * value:.1f}", meaning
    if "ids" in result:
        ids = result["ids"]
        for part, meaning in (("found", "object-frames with a match"), ("kept", "under one id")):
            yield f"ids {part}", "-" if ids[part] is None else f"{100 * ids[part]:.1f}", meaning
        yield "ids switched", str(ids["switches"]), f"times, among {ids['objects']} objects"


def _depth_table(result: Mapping[str, Any]) -> tuple[list[str], list[tuple[str, list[Any]]]]:
    table = result.get("DVPQ")
    if not table:
        return [], []
    means = result["means"]
    rows = [(f"k = {k}", [*columns.values(), means["DVPQ_k"][k]]) for k, columns in table.items()]
    rows.append(("mean", [*means["DVPQ_lambda"].values(), means["DVPQ"]]))
    return [*(f"lambda {value}" for value in next(iter(table.values()))), "mean"], rows


def _class_rows(result: Mapping[str, Any], space: LabelSpace) -> Any:
    counts = result.get("per_class", {}).get("PQ")
    if counts is None:
        return
    iou = result["per_class"].get("STQ", {}).get("iou", [None] * len(space))
    for c in space.classes:
        if counts["pq"][c.id] is not None:
            yield {"name": c.name, "color": c.color, "iou": iou[c.id]} | {
                key: counts[key][c.id] for key in ("pq", "sq", "rq", "tp", "fp", "fn")
            }


def _timeline_plot(lines: Sequence[ObjectLine]) -> str:
    from matplotlib.ticker import MaxNLocator

    colors = tab20(0.3)
    figure, (axes,) = panels(11, 0.8 + 0.2 * len(lines), 1)
    for y, line in enumerate(lines):
        # Ids in the order in which they appear, so that a change of id is a change of colour.
        order = {p: i for i, p in enumerate(dict.fromkeys(p for _, p in line.matches if p >= 0))}
        shades = [colors[(y + order[p]) % len(colors)] if p >= 0 else "#d5dae0" for _, p in line.matches]
        axes.broken_barh([(t - 0.5, 1) for t, _ in line.matches], (y - 0.4, 0.8), facecolors=shades)
    axes.set_yticks(range(len(lines)), [line.name for line in lines], fontsize=7)
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axes.set_xlabel("frame of the sequence")
    return svg_uri(figure)


def _distance_plot(rows: Sequence[Mapping[str, Any]]) -> str | None:
    seen = [r for r in rows if r["pixels"]]
    if not seen:
        return None
    total = sum(r["pixels"] for r in seen)
    names = [f"{r['from_m']:.0f}-{r['to_m']:.0f}" if r["to_m"] else f"> {r['from_m']:.0f}" for r in seen]
    figure, (axes,) = panels(11, 3.4, 1)
    x = np.arange(len(seen))
    axes.bar(x, [r["pixels"] / total for r in seen], width=0.9, color="#d5dae0", label="share of pixels")
    axes.bar(x, [r["abs_rel"] for r in seen], width=0.5, color="#2566b8", label="relative error")
    axes.set_xticks(x, names)
    axes.set_xlabel("true depth, m")
    axes.set_ylabel("relative error; share of pixels")
    bias = axes.twinx()
    bias.plot(x, [r["bias_m"] for r in seen], "o-", color="#c0392b", label="bias, m (right)")
    bias.axhline(0, color="#c0392b", lw=0.6)
    bias.set_ylabel("bias, m")
    (handles, labels), (line, line_label) = axes.get_legend_handles_labels(), bias.get_legend_handles_labels()
    axes.legend(
        [*handles, *line],
        [*labels, *line_label],
        frameon=False,
        loc="lower center",
        ncols=3,
        bbox_to_anchor=(0.5, 1),
        fontsize=9,
    )
    return svg_uri(figure)
