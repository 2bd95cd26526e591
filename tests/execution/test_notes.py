"""What a program leaves on the things that outlive it, for a later one to find or to stumble over."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sandboxing import FIND_NOTES, LEAVE_NOTES, LIMITS, NO_NOTES, POISON, Sandbox

from rlef_lightning.execution.inside import folders
from rlef_lightning.types import Interface, Verdict

pytestmark = pytest.mark.slow


@pytest.mark.every_backend
@pytest.mark.parametrize("keeps_a_file", [False, True])
def test_a_note_on_what_stays_is_not_found(sandbox: Sandbox, keeps_a_file: bool) -> None:
    leave = LEAVE_NOTES + ("open('kept', 'w').close()" if keeps_a_file else "")
    assert sandbox.judge(leave, [("", "7")] * 4).passed
    report = sandbox.judge(FIND_NOTES, [("", NO_NOTES)] * 4)
    assert report.passed, [(result.stdout, result.stderr) for result in report.results]


@pytest.mark.every_backend
def test_folders_are_new_and_not_emptied_ones(sandbox: Sandbox) -> None:
    """Whatever can be set on a folder goes with it: even what nobody has thought of."""
    code = "import os\nprint(os.stat('.').st_dev, os.stat('.').st_ino)"
    seen = [result.stdout for result in sandbox.judge(code, [("", "")] * 8).results]
    assert len(set(seen)) == 8


@pytest.mark.every_backend
def test_a_run_that_is_repeated_begins_from_nothing(sandbox: Sandbox) -> None:
    code = """
import os, time
try: print(os.getxattr(".", "user.memo").decode())
except OSError:
    while time.process_time() < 0.52: pass
    try: os.setxattr(".", "user.memo", b"7")
    except OSError: os.utime(".", (7, 7))
    print(7)
"""
    limits = replace(LIMITS, cpu_s=0.5)
    report = sandbox.judge(code, [("", "7")] * 4, limits)  # as many as it takes to meet a used worker
    assert [result.verdict for result in report.results] == [Verdict.TIME_LIMIT] * 4


@pytest.mark.every_backend
def test_a_poisoned_folder_does_not_fail_the_next_program(sandbox: Sandbox) -> None:
    poison = (
        POISON
        + """
try: os.setxattr(".", "system.posix_acl_default", nobody)
except OSError: pass
"""
    )
    honest = "with open('i') as source, open('o', 'w') as target: target.write(source.read())"
    files = Interface(input_file="i", output_file="o")
    for _ in range(2):
        sandbox.judge(poison, [("", "")] * 2)
        assert sandbox.judge(honest, [("7", "7")] * 4, interface=files).passed


@pytest.mark.every_backend
def test_attributes_can_be_read_and_not_set(sandbox: Sandbox) -> None:
    code = """
import errno, os, shutil
open("a", "w").write("7")
for change in (lambda: os.setxattr("a", "user.x", b"1"), lambda: os.removexattr("a", "user.x")):
    try: change()
    except OSError as error: print(errno.errorcode[error.errno])
print(os.listxattr("a"))
print(open(shutil.copy2("a", "b")).read())  # tries to copy attributes, too
"""
    assert sandbox.run(code, expected="EPERM EPERM [] 7").verdict is Verdict.ACCEPTED


@pytest.mark.every_backend
def test_space_of_files_that_were_open_and_removed_is_free_again(sandbox: Sandbox) -> None:
    take = """
import os
kept = [os.open(str(n), os.O_CREAT | os.O_RDWR) for n in range(100)]
for n, fd in enumerate(kept):
    os.write(fd, bytes(1 << 20))
    os.unlink(str(n))
if os.fork() == 0:
    os.setsid()
    while True: pass
"""
    free = "import os\nfound = os.statvfs('.')\nprint(found.f_bfree, found.f_ffree)"
    before = {result.stdout for result in sandbox.judge(free, [("", "")] * 4).results}
    sandbox.judge(take, [("", "")] * 2)
    after = {result.stdout for result in sandbox.judge(free, [("", "")] * 4).results}
    assert len(before) == 1
    assert after == before


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Path]:
    """A scratch folder as a program may leave it, and one beside it that is no business of anybody's."""
    for name in ("run", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "kept").write_text("kept")
    yield tmp_path / "run"
    assert (tmp_path / "other" / "kept").read_text() == "kept"


def test_a_new_folder_replaces_whatever_is_there(tree: Path) -> None:
    for leave in (
        lambda: None,
        tree.rmdir,
        lambda: (tree / "file").write_text("x"),
        lambda: (tree.rmdir(), tree.write_text("x")),
        lambda: (tree.rmdir(), tree.symlink_to(tree.parent / "other")),
        lambda: ((tree / "a" / "b").mkdir(parents=True), (tree / "a").chmod(0), tree.chmod(0)),
    ):
        leave()
        folders.new_folder(str(tree), None)
        assert (tree.is_symlink(), os.listdir(tree), tree.stat().st_mode & 0o777) == (False, [], 0o700)
    assert sorted(os.listdir(tree.parent)) == ["other", "run"]


def test_names_of_lifted_folders_meet_no_others(tree: Path) -> None:
    for path in ("a/a/a", "a/b/a", "b/a/b", "0/1/0", "1/0"):
        (tree / path).mkdir(parents=True)
        (tree / path / "file").write_text("x")
        (tree / path / "link").symlink_to(tree.parent / "other")
    folders.remove_tree(str(tree))
    assert os.listdir(tree.parent) == ["other"]


def test_folders_that_stay_are_restored(tree: Path) -> None:
    tree.chmod(0o500)
    os.utime(tree, (7, 7))
    try:
        os.setxattr(tree, "user.note", b"7")
    except OSError:
        pytest.skip("this file system has no attributes")
    folders.restore(str(tree))
    assert tree.stat().st_mode & 0o777 == 0o711
    assert tree.stat().st_mtime > 7
    assert tree.stat().st_atime > 7
    assert [name for name in os.listxattr(tree) if name.startswith("user.")] == []


def test_what_lies_beside_the_folder_is_removed(tree: Path) -> None:
    above = tree / "disk"
    for name in ("run", "note/inner"):
        (above / name).mkdir(parents=True)
    (above / "file").write_text("x")
    (above / "link").symlink_to(tree.parent / "other")
    folders.keep_only(str(above / "run"))
    assert os.listdir(above) == ["run"]
