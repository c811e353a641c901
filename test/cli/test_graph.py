# SPDX-License-Identifier: Apache-2.0
"""Processes of the graph: started, watched, and ended in every case."""

import os
import signal
import socket
import sys
import textwrap
import time
from pathlib import Path

import pytest

from dvps_ros.installation import share_file
from dvps_ros.ros.probes import processes as module
from dvps_ros.ros.probes.processes import Graph, GraphError, free_domain


def program(text: str) -> list[str]:
    return [sys.executable, "-c", textwrap.dedent(text)]


SLEEPER = program("import time; print('up', flush=True); time.sleep(60)")
STUBBORN = program(
    """
    import signal, subprocess, sys, time
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print('up', flush=True)
    time.sleep(60)
    """
)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_up(child) -> bool:
    return "up" in child.log.read_text()


def test_children_end_with_the_block_also_on_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Graph(tmp_path, domain=1) as graph:
        one, two = graph.spawn("one", SLEEPER), graph.spawn("two", SLEEPER)
        wait_for(lambda: is_up(one) and is_up(two))
        raise KeyboardInterrupt
    assert one.code is not None and two.code is not None


def test_grandchildren_end_too(tmp_path: Path) -> None:
    text = """
    import subprocess, sys
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])
    print(f'up {child.pid} ', flush=True)
    child.wait()
    """
    with Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("parent", program(text))
        wait_for(lambda: child.log.read_text().endswith(" \n"))
        pid = int(child.log.read_text().split()[1])

    def is_gone() -> bool:
        try:
            return "Z (zombie)" in Path(f"/proc/{pid}/status").read_text()
        except OSError:
            return True

    wait_for(is_gone)


def test_a_stubborn_node_is_killed_and_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(module, "PATIENCE_S", {signal.SIGINT: 0.2, signal.SIGTERM: 0.2, signal.SIGKILL: 5.0})
    with Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("mule", STUBBORN)
        wait_for(lambda: is_up(child))
        with pytest.raises(GraphError, match="mule did not end"):
            graph.stop("mule")
    assert child.code == -signal.SIGKILL


def test_the_sentence_of_a_failed_node_comes_through(tmp_path: Path) -> None:
    text = "import sys; print('[INFO] hello'); print('error: no model here', file=sys.stderr); sys.exit(1)"
    with Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("dvps", program(text))
        wait_for(lambda: child.code is not None)
        with pytest.raises(GraphError, match=r"^dvps: no model here \(its log: .*dvps.log\)"):
            graph.check()


def test_a_crash_without_a_sentence_shows_its_last_line(tmp_path: Path) -> None:
    with Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("dvps", program("raise ValueError('odd')"))
        wait_for(lambda: child.code is not None)
        with pytest.raises(GraphError, match="dvps: ValueError: odd"):
            graph.check()


def test_memory_of_a_node_is_its_peak(tmp_path: Path) -> None:
    text = "x = b'1' * (80 << 20); del x; print('up', flush=True); import time; time.sleep(60)"
    with Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("dvps", program(text))
        wait_for(lambda: is_up(child))
        graph.check()
        assert 80 < child.peak_rss_mib < 300


def test_a_term_signal_ends_the_children_like_ctrl_c(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Graph(tmp_path, domain=1) as graph:
        child = graph.spawn("one", SLEEPER)
        wait_for(lambda: is_up(child))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert child.code is not None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_children_get_domain_and_transport(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("FASTDDS_DEFAULT_PROFILES_FILE", raising=False)
    text = "import os; print('up', os.environ['ROS_DOMAIN_ID'], os.environ['FASTDDS_DEFAULT_PROFILES_FILE'])"
    with Graph(tmp_path, domain=42) as graph:
        child = graph.spawn("one", program(text))
        wait_for(lambda: child.code is not None)
    _, domain, profile = child.log.read_text().split()
    assert domain == "42" and Path(profile).name == "large_messages.xml" and Path(profile).is_file()


@pytest.mark.parametrize(
    ("value", "text"),
    [(True, "true"), ("it's", "'it''s'"), (0.5, "0.5"), (-1.0, "-1.0"), (3, "3"), ("", "''")],
)
def test_parameters_are_yaml(value, text: str) -> None:
    assert module._yaml(value) == text


def test_a_domain_in_use_is_not_taken(monkeypatch) -> None:
    domain = free_domain()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("", 7400 + 250 * domain))
        monkeypatch.setattr(module, "range", lambda *_: [domain], raising=False)
        with pytest.raises(GraphError, match="in use"):
            free_domain()


def test_share_files_of_the_package() -> None:
    assert share_file("config/labels/cityscapes.yaml").is_file()
