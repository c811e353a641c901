# SPDX-License-Identifier: Apache-2.0
"""What self-contained HTML pages are made of: a style, pictures and plots as data URIs."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

import cv2
import numpy as np

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE_STYLE = """
  :root { --ink: #1d2733; --soft: #5b6b7b; --line: #dde3ea; --paper: #ffffff; --back: #f4f6f9;
          --blue: #2566b8; --good: #1f8a4c; --bad: #c0392b; }
  * { box-sizing: border-box; }
  body { margin: 0; background: var(--back); color: var(--ink);
         font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
  main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
  h1 { font-size: 26px; margin: 0; }
  h2 { font-size: 18px; margin: 0 0 12px; }
  header p { color: var(--soft); margin: 4px 0 20px; }
  section { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px;
            margin: 16px 0; }
  .cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; }
  .card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px; padding: 12px 14px; }
  .card b { display: block; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
  .card span { color: var(--soft); font-size: 13px; }
  .verdict { border-left: 6px solid var(--good); }
  .verdict.bad { border-left-color: var(--bad); }
  .two { display: grid; grid-template-columns: repeat(auto-fit, minmax(380px, 1fr)); gap: 20px; }
  figure { margin: 0 0 16px; }
  figure img { width: 100%; display: block; border-radius: 6px; }
  figcaption, .note { color: var(--soft); font-size: 13px; margin-top: 4px; }
  table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; font-size: 14px; }
  th { text-align: left; color: var(--soft); font-weight: 500; }
  th, td { padding: 4px 10px 4px 0; border-bottom: 1px solid var(--line); }
  td.n, th.n { text-align: right; }
  .bar { background: var(--blue); height: 8px; border-radius: 4px; min-width: 1px; opacity: .8; }
  .ok { color: var(--good); } .no { color: var(--bad); }
  code { font-size: 13px; word-break: break-all; }
"""


def jpeg_uri(image: np.ndarray) -> str:
    """A picture, uint8 [H,W,3] RGB, as the source of an <img>."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def svg_uri(figure: Figure) -> str:
    """A figure as the source of an <img>."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
