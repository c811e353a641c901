# SPDX-License-Identifier: Apache-2.0
"""From a model's graph to a loaded engine: by the plan that is kept, else by building it, once a machine."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

from dvps_ros.config import EngineConfig
from dvps_ros.errors import EngineError
from dvps_ros.runtime.backends import BACKENDS, Backend, Progress
from dvps_ros.runtime.manifest import GraphFile, Manifest, check_files
from dvps_ros.runtime.plans import PlanStore
from dvps_ros.runtime.verify import Difference

log = logging.getLogger(__name__)

RECIPE = "1"
"""Raised when this package builds other plans from the same graph."""


def quiet(what: str) -> None:
    """A :data:`~dvps_ros.runtime.backends.Progress` for those who do not watch."""


class Builder:
    """The engines of one graph of a model. ``config`` has backend, precision and threads resolved.

    Raises:
        EngineError: fusion is not in the graph, or a file is missing, truncated or of another export.
    """

    def __init__(self, model_dir: Path, manifest: Manifest, graph: GraphFile, store: PlanStore) -> None:
        if manifest.fusion != "graph":
            raise EngineError(f"model {model_dir}: expected fusion in the graph, got {manifest.fusion!r}")
        check_files(model_dir, manifest, graph)
        self._path = model_dir / graph.file
        self._manifest, self._graph, self.store = manifest, graph, store

    def made_of(self, config: EngineConfig) -> dict[str, str]:
        """All that a plan depends on."""
        kind = BACKENDS[config.backend]
        return {
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

    def open(self, config: EngineConfig, progress: Progress) -> Backend:
        """The engine, from the plan that is kept or else a new one.

        Raises:
            EngineError: it cannot be built or loaded.
        """
        kind = BACKENDS[config.backend]
        progress(f"loading {self.label(config)}")
        plan = self.kept(config)
        if plan is not None:
            try:
                return kind.load(plan, self._path, config)
            except EngineError as error:
                log.warning("%s; building it again", error)
        return kind.load(self.build(config, progress), self._path, config)

    def kept(self, config: EngineConfig) -> bytes | None:
        """The plan that an earlier start built, if it is there and whole."""
        return self.store.read(self.label(config), self.made_of(config))

    def build(self, config: EngineConfig, progress: Progress) -> bytes:
        """A new plan; of several processes that want the same at once one builds and the others wait for it.

        Where it cannot be kept, that is told in the log and the plan is given back all the same.

        Raises:
            EngineError: it cannot be built.
        """
        label, made_of = self.label(config), self.made_of(config)
        with self.store.lock(label, made_of, progress) as waited:
            plan = self.kept(config) if waited else None
            if plan is not None:
                return plan
            log.info("building the engine %s", label)
            start = time.perf_counter()
            plan = BACKENDS[config.backend].build(
                self._path,
                config,
                lambda what: progress(f"building {label}: {what}"),
                self.store.folder,
            )
            progress(f"keeping {label}")  # the last moment to cancel
            try:
                self.store.write(label, made_of, plan, time.perf_counter() - start)
                self.store.note(label, made_of, model=str(self._path.parent.resolve()))
            except EngineError as error:
                log.warning("%s", error)
            return plan

    def note(self, config: EngineConfig, *, passed: bool, differences: list[Difference]) -> None:
        """Keep what the golden frames gave beside the plan."""
        rows = [dataclasses.asdict(d) for d in differences]
        self.store.note(self.label(config), self.made_of(config), verified={"passed": passed, "rows": rows})
