# SPDX-License-Identifier: Apache-2.0
"""The metrics once more, pixel by pixel and as plainly as their definitions read."""

from __future__ import annotations

from collections import defaultdict
from fractions import Fraction

import numpy as np

VOID = 255


def segments(sem: np.ndarray, ins: np.ndarray) -> dict[tuple[int, int], set[tuple[int, ...]]]:
    """Pixels of each (class, instance); void pixels are one segment."""
    result = defaultdict(set)
    for index in np.ndindex(*sem.shape):
        c = int(sem[index])
        result[(c, 0 if c == VOID else int(ins[index]))].add(index)
    return dict(result)


def voided(pr_sem, gt_depth, pr_depth, lam):
    """The prediction's classes after the depth criterion."""
    result = pr_sem.copy()
    for index in np.ndindex(*pr_sem.shape):
        d = float(gt_depth[index])
        if d > 0 and abs(float(pr_depth[index]) - d) / d > lam:
            result[index] = VOID
    return result


def pq_counts(gt_sem, gt_ins, pr_sem, pr_ins, count, things, crowd="ignored"):
    """{class: [iou, tp, fp, fn]} with exact fractions; arrays of any dimension."""
    gt, pr = segments(gt_sem, gt_ins), segments(pr_sem, pr_ins)
    void = gt.pop((VOID, 0), set())
    pr.pop((VOID, 0), None)
    crowds = {
        key: area for key, area in gt.items() if key[0] in things and key[1] == 0 and crowd == "ignored"
    }
    table = {c: [Fraction(0), 0, 0, 0] for c in range(count)}
    found = set()
    for p, p_area in pr.items():
        matched = False
        for g, g_area in gt.items():
            if g[0] != p[0] or g in crowds:
                continue
            iou = Fraction(len(p_area & g_area), len(p_area | g_area) - len(p_area & void))
            if iou > Fraction(1, 2):
                table[p[0]][0] += iou
                table[p[0]][1] += 1
                found.add(g)
                matched = True
        if not matched:
            free = len(p_area & void) + len(p_area & crowds.get((p[0], 0), set()))
            if not Fraction(free, len(p_area)) > Fraction(1, 2):
                table[p[0]][2] += 1
    for g in gt:
        if g not in found and g not in crowds:
            table[g[0]][3] += 1
    return table


def pq_of(table):
    """Mean PQ over classes with counts, None without any."""
    values = [
        iou / (tp + Fraction(fp, 2) + Fraction(fn, 2)) for iou, tp, fp, fn in table.values() if tp + fp + fn
    ]
    return float(sum(values) / len(values)) if values else None


def vpq_counts(gt_sem, gt_ins, pr_sem, pr_ins, seq, k, count, things, crowd="ignored"):
    total = {c: [Fraction(0), 0, 0, 0] for c in range(count)}
    for name in dict.fromkeys(seq.tolist()):
        frames = np.flatnonzero(seq == name)
        for start in range(len(frames) - k + 1):
            w = frames[start : start + k]
            table = pq_counts(gt_sem[w], gt_ins[w], pr_sem[w], pr_ins[w], count, things, crowd)
            for c in total:
                total[c] = [a + b for a, b in zip(total[c], table[c], strict=True)]
    return total


def stq(gt_sem, gt_ins, pr_sem, pr_ins, seq, count, things, void="kept", predicted_void="class"):
    known = gt_sem != VOID
    ious = []
    for c in range(count):
        union = (known & ((gt_sem == c) | (pr_sem == c))).sum()
        if union:
            ious.append(Fraction(int((known & (gt_sem == c) & (pr_sem == c)).sum()), int(union)))
    if predicted_void == "class" and (known & (pr_sem == VOID)).any():
        ious.append(Fraction(0))
    sq = float(sum(ious) / len(ious)) if ious else None
    scores = []
    is_thing = np.isin(gt_sem, things)
    crowd = is_thing & (gt_ins == 0)
    for name in dict.fromkeys(seq.tolist()):
        here = (seq == name)[:, None, None] & np.ones(gt_sem.shape, bool)
        gt = segments_of(gt_sem, gt_ins, here & is_thing & ~crowd)
        use = here & np.isin(pr_sem, things) & ~crowd
        if void == "masked":
            use &= known
        pr = segments_of(pr_sem, pr_ins, use)
        for g in gt.values():
            inner = Fraction(0)
            for p in pr.values():
                tpa = len(g & p)
                inner += Fraction(tpa * tpa, len(g | p))
            scores.append(inner / len(g))
    aq = float(sum(scores) / len(scores)) if scores else None
    return {"STQ": None if aq is None or sq is None else (aq * sq) ** 0.5, "AQ": aq, "SQ": sq}


def segments_of(sem, ins, where):
    result = defaultdict(set)
    for index in zip(*np.nonzero(where), strict=True):
        result[(int(sem[index]), int(ins[index]))].add(index)
    return dict(result)


def tq(gt_sem, gt_ins, pr_sem, pr_ins, seq, things, void="masked"):
    """Mean TQ over true thing tracks, predicted objects being ids."""
    scores = []
    for name in dict.fromkeys(seq.tolist()):
        frames = np.flatnonzero(seq == name).tolist()
        story = defaultdict(list)
        lives = defaultdict(int)
        for t in frames:
            gt = segments_of(gt_sem[t], gt_ins[t], np.isin(gt_sem[t], things) & (gt_ins[t] > 0))
            pr = defaultdict(set)
            for (_, i), area in segments_of(
                pr_sem[t],
                pr_ins[t],
                (pr_sem[t] != VOID) & (pr_ins[t] > 0) & ((gt_sem[t] != VOID) | (void == "kept")),
            ).items():
                pr[i] |= area
            for p in pr:
                lives[p] += 1
            for g, g_area in gt.items():
                hits = [
                    p
                    for p, area in pr.items()
                    if Fraction(len(area & g_area), len(area | g_area)) > Fraction(1, 2)
                ]
                assert len(hits) <= 1
                story[g].append(hits[0] if hits else None)
        for matches in story.values():
            n = len(matches)
            score = Fraction(0)
            for p in set(matches) - {None}:
                tpa = matches.count(p)
                score += Fraction(tpa * tpa, n + lives[p] - tpa)
            ids = sum(a is None or a != b for a, b in zip(matches, matches[1:], strict=False))
            steady = 1 - Fraction(ids, n - 1) if n > 1 else 1
            scores.append(float(steady * score / n) ** 0.5)
    return sum(scores) / len(scores) if scores else None
