"""Checks of what the kernel gives us: handles on processes, and ways to contain them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.operations.doctor.check import Answer, Environment, failed, ok, warning
from orchestrator_core.supervisor import procfs as proc
from orchestrator_core.system.processes import LocalProcesses, cgroups

_IS_LINUX = sys.platform == "linux"
_PACKAGE = str(Path(__file__).parents[3])


def pidfd(_subject: Environment) -> Answer:
    """See whether processes can be held on to, so that no signal ever hits a stranger."""
    if not _IS_LINUX:
        return ok("not needed here: kqueue tells of a process's end")
    if not hasattr(os, "pidfd_open"):
        return failed(
            "this Python was built without pidfd_open",
            f"use one that was built on Linux 5.3 or newer, not {sys.executable}",
        )
    try:
        fd = os.pidfd_open(os.getpid())
    except OSError as error:
        return failed(
            f"pidfd_open: {error.strerror}",
            "Linux 5.3 or newer is needed; in a container, a seccomp profile that allows it",
        )
    try:
        signal.pidfd_send_signal(fd, 0)
    except OSError as error:
        return failed(
            f"pidfd_send_signal: {error.strerror}",
            "in a container, use a seccomp profile that allows it",
        )
    finally:
        os.close(fd)
    return ok("processes can be held on to")


def assess_procfs(mountinfo: str, *, boot_id: bool, environ: bool) -> Answer:
    """Say what a ``/proc`` mounted so, and of which so much can be read, is good for."""
    mount = next((line for line in mountinfo.splitlines() if " - proc " in line), "")
    if not mount or not boot_id:
        return failed(
            "/proc is not there, or not all of it: no process can be told from another",
            "mount -t proc proc /proc",
        )
    if not environ:
        return failed(
            "/proc does not show the environment of our own processes, by which agents are found",
            "see what protects it: a seccomp profile, a security module, yama",
        )
    hidden = re.search(r"hidepid=(\w+)", mount)
    if hidden is None or hidden[1] in ("0", "off"):
        return ok("/proc shows all processes")
    if hidden[1] in ("4", "ptraceable"):
        return warning(
            "/proc is mounted with hidepid=ptraceable: an agent that we may not trace is not seen",
            "mount -o remount,hidepid=invisible /proc",
        )
    return ok(f"/proc is mounted with {hidden[0]}: it hides other users' processes, not ours")


def procfs(_subject: Environment) -> Answer:
    """See whether ``/proc`` shows what our own processes are."""
    if not _IS_LINUX:
        return ok("not needed here: psutil asks the system")
    return assess_procfs(
        os.fsdecode(proc.read("/proc/self/mountinfo")),
        boot_id=bool(proc.read("/proc/sys/kernel/random/boot_id")),
        environ=_shows_environment(),
    )


def _shows_environment() -> bool:
    """Tell whether the environment of another process of ours can be read."""
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


def subreaper(_subject: Environment) -> Answer:
    """See whether a process can become the parent of all orphans below it."""
    if not _IS_LINUX:
        return ok("there is none on this system; processes are scanned instead")
    tried = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-I", "-S", "-c", _BECOME, _PACKAGE],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=5,
        check=False,
    )
    if tried.returncode == 0:
        return ok("a supervisor can adopt what its agent leaves behind")
    return failed(
        "prctl(PR_SET_CHILD_SUBREAPER) is refused",
        "in a container, use a seccomp profile that allows prctl",
    )


# --- containment ------------------------------------------------------------------------------


def containment(subject: Environment) -> Answer:
    """Tell what will contain agents, and how far their end can be proved."""
    asked = subject.env.get("ORCHESTRATOR_CONTAINMENT") or "auto"
    try:
        place = LocalProcesses(containment=asked).containment("oc_doctor")
    except InvalidInput as error:
        return failed(str(error), "unset ORCHESTRATOR_CONTAINMENT")
    found = f"asked for {asked}: "
    if place is not None and _can_kill(Path(place).parent):
        return ok(f"{found}a cgroup of its own for each agent, in {Path(place).parent}")
    if asked == "cgroup":
        return warning(
            f"{found}no cgroup can be had, so ends will be unproven: {_why_no_cgroup()}",
            "unset ORCHESTRATOR_CONTAINMENT, or let this run where cgroups may be made: "
            "systemd-run --user --scope -p Delegate=yes …",
        )
    if asked == "scan" or not _IS_LINUX:
        return warning(
            f"{found}scans alone: what empties its environment and hides may be missed, "
            "and ends are unproven",
            "unset ORCHESTRATOR_CONTAINMENT" if _IS_LINUX else "none here; the sweeper looks again",
        )
    return ok(f"{found}a subreaper for each agent; {_why_no_cgroup()}")


def _can_kill(base: Path) -> bool:
    """Tell whether a cgroup made there can be killed as one."""
    if (base / "cgroup.kill").exists():
        return True
    # The root of the hierarchy has none, but each below it does, or none does.
    below = next((path for path in base.glob("*/") if path.is_dir()), None)
    return below is None or (below / "cgroup.kill").exists()


def _why_no_cgroup() -> str:
    own = cgroups.own_directory()
    if own is None:
        return "there are no cgroups of version 2 here"
    if not os.access(own, os.W_OK):
        return f"the cgroup {own} is not ours to make others in"
    if not _can_kill(own):
        return "this kernel has no cgroup.kill (Linux 5.14)"
    return "it was not asked for"
