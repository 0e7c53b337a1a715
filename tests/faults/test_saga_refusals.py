"""The disk refuses, at every call, once and for ever: nothing is lost, and it closes later."""

import contextlib
import errno
import itertools
import math
import os
import sys
from pathlib import Path

import psutil
import pytest
from saga_kit import NAMES, OnDisk, litter, on_disk, stands
from support.effects import Fails

from orchestrator_core.exceptions import StorageError
from orchestrator_core.saga import Sagas, Unwind

OVER = Unwind.terminal("its life is over")
GROWING = ("write", "pwrite", "fsync", "mkdir", "open", "link", "symlink")  #: What needs space.
SHRINKING = ("ftruncate", "fchmod", "unlink", "rename", "rmdir")
REFUSALS = {
    "EIO, once": {"code": errno.EIO},
    "EIO, for ever": {"code": errno.EIO, "times": math.inf},
    "ENOSPC, once": {"code": errno.ENOSPC, "only": GROWING},
    "ENOSPC, for ever": {"code": errno.ENOSPC, "only": GROWING, "times": math.inf},
}


@pytest.fixture(params=REFUSALS)
def refusal(request):
    return REFUSALS[request.param]


def open_sagas(place):
    return Sagas(place / "sagas", steps=[OnDisk()])


def deploy(place):
    with open_sagas(place).begin("s", on_disk(), values={"place": str(place)}) as saga:
        saga.run()
        saga.commit()


def end(place):
    report = open_sagas(place).unwind("s", OVER)
    if not report.closed:
        raise OSError("stuck")


def recover(place):
    open_sagas(place).recover()


def crash(place):
    saga = open_sagas(place).begin("s", on_disk(), values={"place": str(place)})
    saga.run()
    saga.release()


def files_of(place):
    return [name for name in NAMES if (place / f"s.{name}").exists()]


def open_below(place):
    """Return what this process has open below *place*; other threads' descriptors are elsewhere."""
    if sys.platform != "linux":
        opened = [file.path for file in psutil.Process().open_files()]
    else:
        opened = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # It may be closed by now.
                opened.append(str(entry.readlink()))
    return sorted(path for path in opened if path.startswith(f"{place}/"))


def refused_everywhere(memory_tmp, prepare, work, refusal):
    """Let every call of *work* be refused, on a world of its own each; yield what became of it."""
    for number in itertools.count():
        place = memory_tmp / str(number)
        place.mkdir()
        prepare(place)
        fails = Fails(None, number, **{"only": (*GROWING, *SHRINKING), **refusal})
        error = None
        try:
            with fails:
                work(place)
        except Exception as raised:  # noqa: BLE001 - whatever it was, the world must be right
            error = raised
        assert [] == open_below(place), "a descriptor is left open"
        if len(fails.names) <= number:
            assert number > 3, "nothing was refused"
            return
        yield place, error


def test_a_deployment_that_returned_holds_all_and_one_that_raised_nothing(memory_tmp, refusal):
    """Whatever was refused: no half of it is left once the disk is back."""
    for place, error in refused_everywhere(memory_tmp, lambda _place: None, deploy, refusal):
        open_sagas(place).recover(force=True)

        stand = stands(place / "sagas", "s")
        assert {"committed": list(NAMES), "closed": [], "never": []}[stand] == files_of(place)
        assert [] == litter(place / "sagas")
        if error is None:
            assert "committed" == stand


def test_an_end_that_could_not_be_recorded_closes_once_the_disk_is_back(memory_tmp, refusal):
    """Giving back needs no space; what is owed to the journal is found out by the next end."""
    for place, error in refused_everywhere(memory_tmp, deploy, end, refusal):
        if error is None:
            assert [] == files_of(place)

        assert open_sagas(place).unwind("s", OVER).closed
        open_sagas(place).recover(force=True)  # What was closed and could not be put away.

        assert ("closed", []) == (stands(place / "sagas", "s"), files_of(place))
        assert [] == litter(place / "sagas")


def test_a_recovery_that_was_refused_is_made_good_by_the_next(memory_tmp, refusal):
    for place, _error in refused_everywhere(memory_tmp, crash, recover, refusal):
        open_sagas(place).recover(force=True)

        assert ("closed", []) == (stands(place / "sagas", "s"), files_of(place))
        assert [] == litter(place / "sagas")


def test_on_a_full_disk_an_end_gives_everything_back(memory_tmp):
    """A deployment of before is ended with not one byte to be had."""
    deploy(memory_tmp)
    sagas = open_sagas(memory_tmp)
    with Fails(None, 0, errno.ENOSPC, times=math.inf, only=GROWING):
        report = sagas.unwind("s", OVER)

    assert (True, []) == (report.closed, files_of(memory_tmp))


def test_what_was_owed_is_written_before_the_next_line(memory_tmp):
    """The disk was full for the reason only: the journal still tells the whole story, in order."""
    deploy(memory_tmp)
    with Fails(None, 0, errno.ENOSPC, only=("pwrite",)):
        open_sagas(memory_tmp).unwind("s", OVER)

    history = open_sagas(memory_tmp).history("s")
    assert ("closed", OVER) == (history.state.value, history.why)


def test_short_writes_are_completed(memory_tmp, monkeypatch):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, bytes(data[:7]), at))

    deploy(memory_tmp)

    assert "committed" == stands(memory_tmp / "sagas", "s")


def refused(*_args):
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_a_line_that_was_refused_is_cut_off_before_the_next(memory_tmp, monkeypatch):
    """It is written whole, its fsync fails, and so does the cut: no later line suffers."""
    deploy(memory_tmp)
    with open_sagas(memory_tmp).open("s") as saga:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refused)
            patch.setattr(os, "ftruncate", refused)
            with pytest.raises(StorageError, match="error"):
                saga.note("long", durable=True, text="x" * 300)
        saga.note("short")

    assert {"short": {}} == open_sagas(memory_tmp).history("s").notes
