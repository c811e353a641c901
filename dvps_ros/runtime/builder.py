# SPDX-License-Identifier: Apache-2.0
"""From a model's graph to a loaded engine: by the plan that is kept, else by building it, once a machine."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.geometry.camera import Fit
from dvps_ros.runtime import calibration, ranges
from dvps_ros.runtime.backends import BACKENDS, Backend, Progress
from dvps_ros.runtime.backends.protocol import RANGES
from dvps_ros.runtime.manifest import GraphFile, Manifest, check_hashes, graph_files, private_copy
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.runtime.resize import check_resize, resize_graph
from dvps_ros.runtime.verify import Difference
from dvps_ros.types import Frame

log = logging.getLogger(__name__)

RECIPE = "1"
"""Raised when this package builds other plans from the same graph."""

CALIBRATED = ("int8", "fp8")
"""Precisions that need a calibrated graph."""


def quiet(what: str) -> None:
    """A :data:`~dvps_ros.runtime.backends.Progress` for those who do not watch."""


class Builder:
    """The engines of one graph of a model. ``config`` has backend, precision and threads resolved.

    Raises:
        EngineError: golden frames are missing or of another export.
    """

    def __init__(self, model_dir: Path, manifest: Manifest, graph: GraphFile, store: PlanStore) -> None:
        check_hashes(model_dir, {graph.golden: graph.golden_sha256})
        self.path = model_dir / graph.file
        self.golden = model_dir / graph.golden
        self._model = str(model_dir.resolve())
        self._manifest, self._graph, self.store = manifest, graph, store

    def made_of(self, config: EngineConfig) -> dict[str, str]:
        """All that a plan depends on.

        Raises:
            EngineError: library or device are missing, or a graph for int8 or fp8 was not calibrated yet.
        """
        kind = BACKENDS[config.backend]
        if config.precision in CALIBRATED:
            calibrated = {"calibrated": self._calibrated(config)}
        else:
            calibrated = {}
        return {
            **calibrated,
            "graph": self._graph.sha256,
            "weights": self._manifest.weights.sha256,
            "recipe": RECIPE,
            "backend": config.backend,
            "version": kind.version(),
            "precision": config.precision,
            **kind.facts(config),
        }

    def label(self, config: EngineConfig) -> str:
        return f"{self._manifest.name} {self._graph.size} {config.backend} {config.precision}"

    def calibrate(
        self, config: EngineConfig, frames: Iterable[Frame], limit: int, source: str, progress: Progress
    ) -> None:
        """Calibrate the graph for this backend and precision, and keep that for all later builds.

        Args:
            frames: of the camera that the engine is for.
            limit: frames that are taken.
            source: where they come from, for the record.

        Raises:
            InputError: frames that cannot be used.
            EngineError: the quantiser is missing or fails, or the result cannot be kept.
        """
        label, made_of = self._quantised(config)
        start = time.perf_counter()
        with self.files() as path:
            feeds = calibration.calibration_feeds(frames, path, limit=limit, progress=progress)
            content = calibration.QUANTISERS[made_of["quantised"]](path, feeds, progress)
        self.store.write(label, made_of, content, time.perf_counter() - start)
        self.store.note(label, made_of, frames=len(feeds), source=source, model=self._model)

    def _quantised(self, config: EngineConfig) -> tuple[str, dict[str, str]]:
        """Label of the calibration that this backend takes, and what that is made of."""
        kind = BACKENDS[config.backend].quantised.get(config.precision)
        if kind is None:
            raise EngineError(f"{config.backend} takes no calibrated graph for {config.precision}")
        files = {"graph": self._graph.sha256, "weights": self._manifest.weights.sha256}
        return f"{self._manifest.name} {self._graph.size} calibrated {kind}", {
            **files,
            "recipe": RECIPE,
            "quantised": kind,
        }

    def _calibrated(self, config: EngineConfig) -> str:
        """SHA-256 of the calibration: of the one that was made here, else of what the model ships."""
        label, made_of = self._quantised(config)
        record = self.store.record(label, made_of)
        if record is not None:
            return record.sha256
        if made_of["quantised"] == RANGES and self._manifest.ranges:
            return hashlib.sha256(ranges.to_json(self._manifest.ranges)).hexdigest()
        raise EngineError(
            f"{label} was not calibrated yet: dvps engine build --backend {config.backend} "
            f"--precision {config.precision} --calibration VIDEO, BAG or FOLDER of the camera"
        )

    @contextlib.contextmanager
    def files(self) -> Iterator[Path]:
        """The graph, weights beside it, in a folder of this process, proved; there within the context.

        Raises:
            EngineError: a file is missing, truncated or of another export.
        """
        with private_copy(self.path.parent, graph_files(self._manifest, self._graph)) as folder:
            yield folder / self.path.name

    @contextlib.contextmanager
    def source(self, config: EngineConfig) -> Iterator[Path]:
        """The graph that is compiled for this precision: a file that is there within the context.

        Raises:
            EngineError: it was not calibrated, or its calibration is damaged or of another network.
        """
        if config.precision not in CALIBRATED:
            with self.files() as path:
                yield path
            return
        label, made_of = self._quantised(config)
        if made_of["quantised"] != RANGES:
            yield self.store.plan_path(label, made_of)
            return
        values = self._ranges(label, made_of)
        with self.files() as graph:
            path = graph.with_name("int8.xml")
            ranges.write(graph, values, path)
            yield path

    def _ranges(self, label: str, made_of: dict[str, str]) -> ranges.Ranges:
        """Those that :meth:`_calibrated` has the hash of."""
        if self.store.record(label, made_of) is None:
            return self._manifest.ranges
        kept = self.store.read(label, made_of)
        if kept is None:
            raise EngineError(
                f"{label} is damaged: calibrate again, or remove it with dvps engine clean --all"
            )
        return json.loads(kept)

    def open(self, config: EngineConfig, progress: Progress) -> Backend:
        """The engine, from the plan that is kept or else a new one.

        Raises:
            EngineError: it cannot be built or loaded.
        """
        kind = BACKENDS[config.backend]
        progress(f"loading {self.label(config)}")
        plan = self.kept(config)
        with self.files() as path:
            if plan is not None:
                try:
                    return kind.load(plan, path, config)
                except EngineError as error:
                    log.warning("%s; building it again", error)
            return kind.load(self.build(config, progress), path, config)

    def kept(self, config: EngineConfig) -> bytes | None:
        """The plan that an earlier start built, if it is there and whole."""
        return self.store.read(self.label(config), self.made_of(config))

    def is_kept(self, config: EngineConfig) -> bool:
        """Whether there is a plan, its bytes not looked at."""
        return self.store.plan_path(self.label(config), self.made_of(config)).is_file()

    def build(self, config: EngineConfig, progress: Progress) -> bytes:
        """A new plan; of several processes that want the same at once one builds and the others wait for it.

        Where it cannot be kept, that is told in the log and the plan is given back all the same.

        Raises:
            EngineError: it cannot be built.
        """
        with self.source(config) as source:
            return self._build(config, self.label(config), self.made_of(config), source, progress)

    def _build(
        self, config: EngineConfig, label: str, made_of: dict[str, str], source: Path, progress: Progress
    ) -> bytes:
        with self.store.lock(label, made_of, progress) as waited:
            plan = self.store.read(label, made_of) if waited else None
            if plan is not None:
                return plan
            log.info("building the engine %s", label)
            start = time.perf_counter()
            plan = BACKENDS[config.backend].build(
                source,
                config,
                lambda what: progress(f"building {label}: {what}"),
                self.store.folder,
            )
            progress(f"keeping {label}")  # the last moment to cancel
            try:
                self.store.write(label, made_of, plan, time.perf_counter() - start)
                self.store.note(label, made_of, model=self._model)
            except EngineError as error:
                log.warning("%s", error)
            return plan

    def resizer(self, config: EngineConfig, fit: Fit, progress: Progress) -> bytes:
        """The plan that makes this network's input of a camera image, proved against the processor.

        Raises:
            EngineError: the backend cannot resize, or does it wrongly.
        """
        kind = BACKENDS[config.backend]
        if kind.put_before is None:
            able = ", ".join(name for name, k in BACKENDS.items() if k.put_before is not None)
            raise EngineError(
                f"engine.resize_on_device: {config.backend} cannot, {able} can; set it to false"
            )
        config = replace(config, precision="fp32")
        graph = resize_graph(fit)
        label = f"resize {fit.camera_width}x{fit.camera_height} to {self._graph.size} {config.backend} fp32"
        made_of = {
            "resize": hashlib.sha256(graph).hexdigest(),
            "recipe": RECIPE,
            "backend": config.backend,
            "version": kind.version(),
            "precision": config.precision,
            **kind.facts(config),
        }
        with tempfile.TemporaryDirectory(prefix="dvps-") as folder:
            path = Path(folder) / "resize.onnx"
            path.write_bytes(graph)
            plan = self.store.read(label, made_of) or self._build(config, label, made_of, path, progress)
            engine = kind.load(plan, path, config)
            try:
                check_resize(engine, fit)
            finally:
                engine.close()
        return plan

    def note(self, config: EngineConfig, *, passed: bool, differences: list[Difference]) -> None:
        """Keep what the golden frames gave beside the plan."""
        rows = [dataclasses.asdict(d) for d in differences]
        self.store.note(self.label(config), self.made_of(config), verified={"passed": passed, "rows": rows})
