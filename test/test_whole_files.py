# SPDX-License-Identifier: Apache-2.0
"""A file is whole or not there, whatever happens while it is written."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dvps_ros.errors import OutputError
from dvps_ros.files import is_abandoned, whole_file, write_bytes, write_text

needs_full = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full on this system")


def part_of(path: Path, suffix: str = "") -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.part{suffix}")


def test_the_name_comes_with_the_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "späť.txt"
    with whole_file(path) as part:
        assert part == part_of(path)
        part.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_writer_that_looks_at_the_suffix_finds_it(tmp_path: Path) -> None:
    with whole_file(tmp_path / "v.mp4", suffix=".mp4") as part:
        assert part == part_of(tmp_path / "v.mp4", ".mp4")
        part.touch()
    assert [p.name for p in tmp_path.iterdir()] == ["v.mp4"]


@pytest.mark.parametrize("failure", [ZeroDivisionError, KeyboardInterrupt, OSError])
def test_the_old_file_stays_when_the_new_one_fails(tmp_path: Path, failure: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")
    expected = OutputError if failure is OSError else failure
    with pytest.raises(expected), whole_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise failure
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_two_processes_do_not_mix_their_files(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    other = """
import sys
from pathlib import Path
from dvps_ros.files import write_text
write_text(Path(sys.argv[1]), "other")
"""
    with whole_file(path) as unfinished, unfinished.open("w") as file:
        file.write("mine, first half; ")
        file.flush()
        subprocess.run([sys.executable, "-c", other, str(path)], check=True, timeout=60)
        assert path.read_text() == "other"
        file.write("second half")
    assert path.read_text() == "mine, first half; second half"
    assert list(tmp_path.iterdir()) == [path]


@needs_full
@pytest.mark.parametrize("sync", [False, True])
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path: Path, sync: bool) -> None:
    write_text(tmp_path / "a.txt", "old")
    part_of(tmp_path / "a.txt").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"^cannot write .*a.txt: No space left on device$"):
        write_bytes(tmp_path / "a.txt", b"new", sync=sync)
    assert (tmp_path / "a.txt").read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_content_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch) -> None:
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append(os.fstat(number).st_size), fsync(number)))
    monkeypatch.setattr(os, "replace", lambda *names: (steps.append("named"), replace(*names)))
    write_bytes(tmp_path / "a", b"12345", sync=True)
    assert steps == [5, "named"]


def test_a_folder_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="it is a folder"), whole_file(tmp_path):
        pytest.fail("the block must not run")


def test_a_device_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    """Root may put a file in the place of /dev/null."""
    (tmp_path / "null").symlink_to("/dev/null")
    write_text(tmp_path / "null", "gone")
    assert (tmp_path / "null").is_symlink() and len(list(tmp_path.iterdir())) == 1
    code = "import pathlib, dvps_ros.files; dvps_ros.files.write_text(pathlib.Path('/dev/stdout'), 'told')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"told"


def test_unfinished_files_of_dead_processes_are_abandoned(tmp_path: Path) -> None:
    assert is_abandoned(tmp_path / "m.plan.999999999.part")
    assert not is_abandoned(part_of(tmp_path / "m.plan"))
