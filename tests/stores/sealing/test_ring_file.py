"""The file of a key ring: who may read it, who makes it, and that it is never half written."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from keymux.stores.sealing.ring import BadRing, new_ring
from keymux.stores.sealing.ring_file import GivenRing, RingFile, source_of

MAKE = """
import sys
from pathlib import Path
from keymux.stores.sealing.ring import new_ring
from keymux.stores.sealing.ring_file import RingFile
sys.stdin.readline()
print(RingFile(Path(sys.argv[1])).make(new_ring()).current)
"""


@pytest.fixture
def ring_file(tmp_path: Path) -> RingFile:
    """A file that is not there yet."""
    return RingFile(tmp_path / "keymux.keyring.json")


def test_a_ring_is_made_for_our_eyes_only(ring_file: RingFile) -> None:
    """And read again as it is."""
    ring = ring_file.make(new_ring())

    assert stat.S_IMODE(ring_file.path.stat().st_mode) == 0o600
    assert RingFile(ring_file.path).latest() == ring
    assert [path.name for path in ring_file.path.parent.iterdir()] == [ring_file.path.name]


def test_a_missing_ring_is_none(ring_file: RingFile) -> None:
    """Which is no trouble yet."""
    assert ring_file.latest() is None


def test_a_ring_that_is_there_is_never_overwritten(ring_file: RingFile) -> None:
    """Who comes second is given the first one."""
    first = ring_file.make(new_ring())

    assert RingFile(ring_file.path).make(new_ring()) == first


def test_of_many_processes_at_their_first_start_one_makes_the_ring(ring_file: RingFile) -> None:
    """All of them go on with the same one."""
    command = [sys.executable, "-c", MAKE, str(ring_file.path)]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(6)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    made = {maker.communicate()[0].strip() for maker in makers}
    ring = ring_file.latest()

    assert ring is not None
    assert made == {ring.current}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_ring_that_others_can_reach_is_refused(ring_file: RingFile, mode: int) -> None:
    """Whatever they may do with it, also when that changes while it is in use."""
    ring_file.make(new_ring())
    ring_file.path.chmod(mode)

    with pytest.raises(BadRing, match="chmod 600"):
        ring_file.latest()


def test_a_ring_is_read_again_when_it_was_replaced(ring_file: RingFile) -> None:
    """Servers learn of a rotation without being told."""
    reader = RingFile(ring_file.path)
    ring_file.make(new_ring())
    before = reader.latest()
    after = new_ring()
    ring_file.replace(after)

    assert before != after
    assert reader.latest() == after


@pytest.mark.parametrize(
    "content", [pytest.param(b"{", id="no JSON"), pytest.param(b"\xff\xfe", id="no text")]
)
def test_a_spoilt_file_is_refused(ring_file: RingFile, content: bytes) -> None:
    """It is never taken for no ring at all, which would be the end of all secrets."""
    ring_file.path.touch(0o600)
    ring_file.path.write_bytes(content)

    with pytest.raises(BadRing, match="not JSON"):
        ring_file.latest()


def test_what_is_no_file_is_refused(ring_file: RingFile) -> None:
    """A pipe would be waited for without end."""
    os.mkfifo(ring_file.path, 0o600)

    with pytest.raises(BadRing, match="no plain file"):
        ring_file.latest()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the reason."""
    with pytest.raises(BadRing, match="No such file"):
        RingFile(tmp_path / "missing" / "ring.json").make(new_ring())


def test_two_may_not_change_a_ring_at_once(ring_file: RingFile) -> None:
    """The second is told so; afterwards it may."""
    other = RingFile(ring_file.path)
    with ring_file.alone(), pytest.raises(BadRing, match="another command"), other.alone():
        pass
    with other.alone():
        ring_file.make(new_ring())

    assert other.latest() is not None


def test_a_ring_is_taken_back_only_by_who_made_it(ring_file: RingFile) -> None:
    """Another one stays."""
    mine = ring_file.make(new_ring())
    ring_file.take_back(new_ring())
    kept = ring_file.latest()
    ring_file.take_back(mine)

    assert kept == mine
    assert ring_file.latest() is None


def test_a_ring_may_stand_in_the_environment(tmp_path: Path) -> None:
    """A config says which of both it is."""
    ring = new_ring()
    given = source_of(ring.text())

    assert isinstance(given, GivenRing)
    assert given.latest() == given.make(new_ring()) == ring
    assert isinstance(source_of(tmp_path), RingFile)
