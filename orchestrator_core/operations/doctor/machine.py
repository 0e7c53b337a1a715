"""Checks of the kernel (handles on processes, ``/proc``, containment) and of the clock."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator_core.deployment.steps.session import SessionReceipt
from orchestrator_core.exceptions import CouldNotAsk, InvalidInput, SagaError, StorageError
from orchestrator_core.operations.doctor.check import (
    Check,
    Environment,
    modification_times,
    run_python,
    shorten_list,
)
from orchestrator_core.saga.receipts import name_of
from orchestrator_core.saga.store import SUFFIX, JournalStore
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.processes import LocalProcesses, cgroups, identity

if TYPE_CHECKING:
    from collections.abc import Iterator

_IS_LINUX = sys.platform == "linux"
_PACKAGE_PARENT = str(Path(__file__).parents[3])


def pidfd(_environment: Environment) -> Check:
    """Check that processes have stable handles, so that no signal reaches a foreign process."""
    if not _IS_LINUX:
        return Check.ok("not needed here: kqueue reports the end of a process")
    if not hasattr(os, "pidfd_open"):
        remedy = f"use one that was built on Linux 5.3 or newer, not {sys.executable}"
        return Check.failed("this Python was built without pidfd_open", remedy)
    call = "pidfd_open"
    try:
        fd = os.pidfd_open(os.getpid())
        try:
            call = "pidfd_send_signal"
            signal.pidfd_send_signal(fd, 0)
        finally:
            os.close(fd)
    except OSError as error:
        remedy = "use Linux 5.3 or newer; in a container, a seccomp profile that allows the call"
        return Check.failed(f"{call}: {error.strerror}", remedy)
    return Check.ok("processes have stable handles")


def procfs(_environment: Environment) -> Check:
    """Check that ``/proc`` shows the processes of this user."""
    if not _IS_LINUX:
        return Check.ok("not needed here: psutil queries the system")
    return assess_procfs(
        os.fsdecode(proc.read("/proc/self/mountinfo")),
        boot_id=bool(proc.read("/proc/sys/kernel/random/boot_id")),
        environ=_shows_environment(),
    )


def assess_procfs(mountinfo: str, *, boot_id: bool, environ: bool) -> Check:
    """Report what a ``/proc`` with such a mount, and with these readable files, is good for."""
    mount = next((line for line in mountinfo.splitlines() if " - proc " in line), "")
    if not mount or not boot_id:
        found = "/proc is not there, or not all of it: processes cannot be identified"
        return Check.failed(found, "mount -t proc proc /proc")
    if not environ:
        found = "/proc does not show the environment of this user's processes, which marks agents"
        return Check.failed(found, "check the seccomp profile, the security module, yama")
    hidden = re.search(r"hidepid=(\w+)", mount)
    if hidden is None or hidden[1] in ("0", "off"):
        return Check.ok("/proc shows all processes")
    if hidden[1] in ("4", "ptraceable"):
        found = "/proc is mounted with hidepid=ptraceable: an agent that cannot be traced is hidden"
        return Check.warning(found, "mount -o remount,hidepid=invisible /proc")
    return Check.ok(
        f"/proc is mounted with {hidden[0]}: it hides the processes of other users only"
    )


def _shows_environment() -> bool:
    """Return whether the environment of another process of this user can be read."""
    with subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import sys; print(1, flush=True); sys.stdin.read()"],
        env={**os.environ, "ORCHESTRATOR_COOKIE": "oc_doctor"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdout is not None  # noqa: S101 - for the type: it is a pipe
        child.stdout.readline()
        return b"ORCHESTRATOR_COOKIE=oc_doctor" in proc.environ(child.pid)


_BECOME = """\
import sys
sys.path.insert(0, sys.argv[1])
from orchestrator_core.supervisor.platform import become_subreaper
sys.exit(not become_subreaper())
"""


def subreaper(_environment: Environment) -> Check:
    """Check that a process can become a child subreaper."""
    if not _IS_LINUX:
        return Check.ok("this system has none; a scan finds the processes instead")
    if run_python(_BECOME, _PACKAGE_PARENT) == 0:
        return Check.ok("a supervisor can adopt the orphans of its agent")
    remedy = "in a container, use a seccomp profile that allows prctl"
    return Check.failed("prctl(PR_SET_CHILD_SUBREAPER) is refused", remedy)


# --- containment ------------------------------------------------------------------------------


def containment(environment: Environment) -> Check:
    """Report what will contain agents, and how far their end can be proved."""
    choice = environment.env.get("ORCHESTRATOR_CONTAINMENT") or "auto"
    try:
        path = LocalProcesses(containment=choice).cgroup_path("oc_doctor")
    except InvalidInput as error:
        return Check.failed(str(error), "unset ORCHESTRATOR_CONTAINMENT")
    found = f"asked for {choice}: "
    if path is not None and _can_kill(Path(path).parent):
        return Check.ok(f"{found}a separate cgroup for each agent, in {Path(path).parent}")
    if choice == "cgroup":
        found += f"no cgroup is available, so ends will be unproven: {_why_no_cgroup()}"
        delegate = "systemd-run --user --scope -p Delegate=yes …"
        return Check.warning(found, f"unset ORCHESTRATOR_CONTAINMENT, or: {delegate}")
    if choice == "scan" or not _IS_LINUX:
        found += "scans alone: a process that empties its environment and hides may be missed"
        remedy = "unset ORCHESTRATOR_CONTAINMENT" if _IS_LINUX else "none; the sweeper scans again"
        return Check.warning(f"{found}, and ends are unproven", remedy)
    return Check.ok(f"{found}a subreaper for each agent; {_why_no_cgroup()}")


def _can_kill(base: Path) -> bool:
    """Return whether a cgroup created in *base* can be killed as a whole."""
    if (base / "cgroup.kill").exists():
        return True
    # The root of the hierarchy never has the file. A group below it has, if the kernel does.
    below = next((path for path in base.glob("*/") if path.is_dir()), None)
    return below is None or (below / "cgroup.kill").exists()


def _why_no_cgroup() -> str:
    own = cgroups.current_cgroup()
    if own is None:
        return "there are no cgroups of version 2 here"
    if not os.access(own, os.W_OK):
        return f"this user may not create groups in the cgroup {own}"
    return "it was not asked for" if _can_kill(own) else "this kernel has no cgroup.kill (5.14)"


# --- the clock ------------------------------------------------------------------------------------

_TOLERANCE_S = 60.0  #: The slow correction of a clock while an agent lives.
_FIRST_RELEASE_S = datetime(2025, 1, 1, tzinfo=UTC).timestamp()
_SET_CLOCK = "set the clock: timedatectl set-ntp true"
_WRITTEN = ("sagas/*.jsonl", "sagas/closed/*.jsonl", "registry/*", "TASK-*/*.json")


def clock_is_sane(environment: Environment) -> Check:
    """Check that the clock is later than every written file, and was not set meanwhile."""
    now = time.time()
    problems = []
    if now < _FIRST_RELEASE_S:
        problems.append(Check.failed(f"the clock is at {_format_time(now)}", _SET_CLOCK))
    if environment.layout is not None:
        problems += _check_last_write(environment.layout.root, now)
        problems += _check_steps(environment.layout.sagas, now)
    return Check.worst_of(problems, well=f"it is {_format_time(now)}, and nothing here is later")


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _check_last_write(root: Path, now: float) -> Iterator[Check]:
    newest, path = max(modification_times(root, *_WRITTEN), default=(0.0, root))
    if newest > now + 1.0:
        yield Check.warning(
            f"{path} was written at {_format_time(newest)}, and it is {_format_time(now)}: "
            "the clock was set back",
            f"{_SET_CLOCK}; deadlines come late by as much",
        )


def _check_steps(sagas: Path, now: float) -> Iterator[Check]:
    """Compare the deployment time of each live agent with the age of its supervisor."""
    if not _IS_LINUX:
        return
    journals = JournalStore(sagas)
    steps = {}
    for path in sagas.glob(f"*{SUFFIX}"):  # JournalStore.ids() may write.
        try:
            history = journals.history(path.name.removesuffix(SUFFIX))
            frame = history.frame(name_of(SessionReceipt))
            supervisor = None if frame is None else frame.load().supervisor
            is_alive = supervisor is not None and identity.is_alive(supervisor)
        except (SagaError, StorageError, CouldNotAsk):
            continue
        if supervisor is not None and is_alive:
            started_at = now - identity.age_s(supervisor)
            step = started_at - datetime.fromisoformat(history.begun_at).timestamp()
            if abs(step) > _TOLERANCE_S:
                steps[history.saga_id] = step
    if steps:
        yield Check.warning(
            f"the clock was set by {max(steps.values(), key=abs):+.0f} s "
            f"since {shorten_list(steps)} was deployed",
            f"{_SET_CLOCK}; deadlines of such agents are off by as much",
        )
