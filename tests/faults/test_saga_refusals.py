"""The disk refuses any call, once or always: nothing is lost, and the saga closes later."""

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
GROWING = (
    "write",
    "pwrite",
    "fsync",
    "mkdir",
    "open",
    "link",
    "symlink",
)  #: The calls that need space.
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
    """Return the files that this process has open below *place*."""
    if sys.platform != "linux":
        opened = [file.path for file in psutil.Process().open_files()]
    else:
        opened = []
        for entry in Path("/proc/self/fd").iterdir():
            with contextlib.suppress(OSError):  # The saga may be closed by now.
                opened.append(str(entry.readlink()))
    return sorted(path for path in opened if path.startswith(f"{place}/"))


def refused_everywhere(memory_tmp, prepare, work, refusal):
    """Refuse every call of *work*, each in a new directory; yield the directory and the error."""
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
    """After recovery on a working disk, everything or nothing is left."""
    for place, error in refused_everywhere(memory_tmp, lambda _place: None, deploy, refusal):
        open_sagas(place).recover(force=True)

        stand = stands(place / "sagas", "s")
        assert {"committed": list(NAMES), "closed": [], "never": []}[stand] == files_of(place)
        assert [] == litter(place / "sagas")
        if error is None:
            assert "committed" == stand


def test_an_end_that_could_not_be_recorded_closes_once_the_disk_is_back(memory_tmp, refusal):
    """An undo needs no disk space; the next unwinding repeats what was not recorded."""
    for place, error in refused_everywhere(memory_tmp, deploy, end, refusal):
        if error is None:
            assert [] == files_of(place)

        assert open_sagas(place).unwind("s", OVER).closed
        open_sagas(place).recover(force=True)  # Closed journals that could not be archived.

        assert ("closed", []) == (stands(place / "sagas", "s"), files_of(place))
        assert [] == litter(place / "sagas")


def test_a_recovery_that_was_refused_is_finished_by_the_next(memory_tmp, refusal):
    for place, _error in refused_everywhere(memory_tmp, crash, recover, refusal):
        open_sagas(place).recover(force=True)

        assert ("closed", []) == (stands(place / "sagas", "s"), files_of(place))
        assert [] == litter(place / "sagas")


def test_an_unwinding_on_a_full_disk_releases_everything(memory_tmp):
    """An earlier deployment is unwound without one free byte."""
    deploy(memory_tmp)
    sagas = open_sagas(memory_tmp)
    with Fails(None, 0, errno.ENOSPC, times=math.inf, only=GROWING):
        report = sagas.unwind("s", OVER)

    assert (True, []) == (report.closed, files_of(memory_tmp))


def test_a_queued_entry_is_written_before_the_next_one(memory_tmp):
    """Only the reason was refused: the journal contains all entries in order."""
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


def test_a_failed_line_is_truncated_before_the_next_one(memory_tmp, monkeypatch):
    """The write succeeds, the fsync and the truncation fail: no later line is damaged."""
    deploy(memory_tmp)
    with open_sagas(memory_tmp).open("s") as saga:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", refused)
            patch.setattr(os, "ftruncate", refused)
            with pytest.raises(StorageError, match="error"):
                saga.note("long", durable=True, text="x" * 300)
        saga.note("short")

    assert {"short": {}} == open_sagas(memory_tmp).history("s").notes
