# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import fcntl
import json
import multiprocessing
import os
import resource
import signal
import time

import pytest

from dvps_ros.errors import EngineError
from dvps_ros.runtime.plans import PlanStore, key_of

MADE_OF = {"graph": "a1", "version": "10.3", "gpu": "Orin sm_87"}


@pytest.fixture
def store(tmp_path):
    return PlanStore(tmp_path / "engines")


def unexpected(what):
    raise AssertionError(f"waited: {what}")


def test_what_was_written_is_read(store):
    assert store.read("m", MADE_OF) is None
    store.write("m", MADE_OF, b"plan", 1.234)
    assert store.read("m", dict(reversed(MADE_OF.items()))) == b"plan"
    ((path, record),) = store.records().items()
    assert path.name == f"m-{key_of(MADE_OF)}.plan"
    assert (record.made_of, record.size, record.build_s) == (MADE_OF, 4, 1.23)
    assert sorted(p.suffix for p in store.folder.iterdir()) == [".json", ".plan"]


@pytest.mark.parametrize("name", MADE_OF)
def test_another_graph_library_or_device_is_another_plan(store, name):
    store.write("m", MADE_OF, b"plan", 1)
    assert store.read("m", MADE_OF | {name: "other"}) is None


def test_a_plan_under_a_foreign_name_is_not_loaded(store, caplog):
    """Copied by hand over the file of another version: the record tells."""
    store.write("m", MADE_OF, b"plan", 1)
    other = MADE_OF | {"version": "10.4"}
    for suffix in (".plan", ".json"):
        content = store.plan_path("m", MADE_OF).with_suffix(suffix).read_bytes()
        store.plan_path("m", other).with_suffix(suffix).write_bytes(content)
    assert store.read("m", other) is None and "is damaged, building it again" in caplog.text


@pytest.mark.parametrize("record", [b"", b"{", b"[]", b'{"label": 1}', b'{"made_of": {}}', None])
def test_a_damaged_record_makes_the_plan_unknown(store, record):
    store.write("m", MADE_OF, b"plan", 1)
    path = store.plan_path("m", MADE_OF).with_suffix(".json")
    path.unlink() if record is None else path.write_bytes(record)
    assert store.read("m", MADE_OF) is None
    assert store.records() == {} and store.leftovers() == [store.plan_path("m", MADE_OF)]
    store.write("m", MADE_OF, b"new", 1)
    assert store.read("m", MADE_OF) == b"new" and store.leftovers() == []


def test_a_full_disk_leaves_the_old_plan(store):
    store.write("m", MADE_OF, b"old", 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))  # the kernel refuses to write more
    try:
        with pytest.raises(EngineError, match=r"cannot keep the engine .* \(1 MiB\): .*; free space there"):
            store.write("m", MADE_OF, bytes(1 << 20), 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert store.read("m", MADE_OF) == b"old"
    assert sorted(p.suffix for p in store.folder.iterdir()) == [".json", ".plan"]


def test_notes_are_kept_and_those_of_no_plan_are_not(store):
    store.note("m", MADE_OF, verified=True)
    assert not store.folder.exists()
    store.write("m", MADE_OF, b"plan", 1)
    store.note("m", MADE_OF, verified={"passed": True})
    store.note("m", MADE_OF, profile=[1, 2])
    (record,) = store.records().values()
    assert record.notes == {"verified": {"passed": True}, "profile": [1, 2]}
    assert store.read("m", MADE_OF) == b"plan"


def test_removal(store):
    store.write("m", MADE_OF, b"plan", 1)
    with store.lock("m", MADE_OF, unexpected):
        pass
    freed = store.remove(store.plan_path("m", MADE_OF))
    assert freed > 4 and list(store.folder.iterdir()) == []
    assert store.remove(store.plan_path("m", MADE_OF)) == 0


def test_parts_of_dead_processes_are_left_over_and_those_of_living_ones_are_not(store):
    store.folder.mkdir()
    dead = store.folder / "m.plan.999999999.part"
    for path in (dead, store.folder / f"m.plan.{os.getpid()}.part"):
        path.write_bytes(b"")
    assert store.leftovers() == [dead]


def test_a_lock_without_a_plan_is_left_over_unless_it_is_held(store):
    """A build that was interrupted, or whose plan the disk refused."""
    with store.lock("m", MADE_OF, unexpected):
        assert store.leftovers() == []
    (lock,) = store.leftovers()
    assert lock.suffix == ".lock"
    store.remove(lock)
    assert list(store.folder.iterdir()) == []
    with store.lock("m", MADE_OF, unexpected):
        store.write("m", MADE_OF, b"plan", 1)
    assert store.leftovers() == []  # it goes with its plan


def test_a_lock_removed_while_one_waits_for_it_is_made_anew(store):
    path = store.plan_path("m", MADE_OF).with_suffix(".lock")
    store.folder.mkdir()
    first = path.open("w")
    fcntl.flock(first, fcntl.LOCK_EX)
    told = []

    def let_go(what):
        told.append(what)
        path.unlink()
        first.close()

    with store.lock("m", MADE_OF, let_go) as waited:
        assert waited and len(told) == 1
        with path.open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def hold(folder, ready, seconds):
    store = PlanStore(folder)
    with store.lock("m", MADE_OF, unexpected):
        ready.set()
        time.sleep(seconds)
        store.write("m", MADE_OF, b"of the first", 1)


@pytest.fixture
def spawn():
    return multiprocessing.get_context("spawn")


def test_of_two_processes_one_builds_and_the_other_waits(store, spawn):
    ready = spawn.Event()
    first = spawn.Process(target=hold, args=(store.folder, ready, 0.5))
    first.start()
    assert ready.wait(60)
    told = []
    with store.lock("m", MADE_OF, told.append) as waited:
        assert waited and store.read("m", MADE_OF) == b"of the first"
    assert told[0] == "another process builds this engine; waiting for it"
    first.join()
    with store.lock("m", MADE_OF, unexpected) as waited:
        assert not waited


def test_waiting_can_be_cancelled_and_a_killed_process_holds_nobody_up(store, spawn):
    ready = spawn.Event()
    first = spawn.Process(target=hold, args=(store.folder, ready, 600))
    first.start()
    assert ready.wait(60)

    def give_up(what):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), store.lock("m", MADE_OF, give_up):
        raise AssertionError("got in")
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    with store.lock("m", MADE_OF, unexpected):
        assert store.read("m", MADE_OF) is None


def test_record_is_plain_json(store):
    store.write("m", MADE_OF, b"plan", 1)
    data = json.loads(store.plan_path("m", MADE_OF).with_suffix(".json").read_text())
    assert set(data) == {"label", "made_of", "sha256", "size", "built", "build_s", "notes"}
