"""
The attributes that a program inherits from its starter, and that are no environment.

An agent's real parent is a tmux server, which the first deployer of a root started, perhaps
days ago and with another umask or priority. So each deployer writes its own attributes into
the launch file, and the agent's process sets them before it becomes the agent.

The kernel lets nobody raise a priority or a hard limit without a privilege. What it refuses
stays as near as possible to what was asked for, and is named in the ``started`` record.
"""

from __future__ import annotations

import posix

from orchestrator_core.supervisor import procfs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ADJUSTMENT = "/proc/self/oom_score_adj"
_LIMITS = "/proc/self/limits"


def current() -> dict[str, object]:
    """Return the attributes of this process, as values that a launch file can hold."""
    import resource  # noqa: PLC0415 - for deployers only

    names = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    numbers = sorted({int(getattr(resource, name)) for name in names})
    found: dict[str, object] = {
        "umask": _umask(),
        "nice": posix.getpriority(posix.PRIO_PROCESS, 0),
        "limits_listed": procfs.read(_LIMITS),
        "limits": [(number, *resource.getrlimit(number)) for number in numbers],
    }
    if hasattr(posix, "sched_getaffinity"):
        found["cpus"] = sorted(posix.sched_getaffinity(0))
        found["policy"] = (posix.sched_getscheduler(0), posix.sched_getparam(0).sched_priority)
        found["oom_score_adj"] = procfs.read(_ADJUSTMENT)
    return found


def apply(attributes: Mapping[str, object]) -> list[str]:
    """Give this process *attributes*; return the names of those that the system refused."""
    refused = []
    for name, setter in _SETTERS.items():
        try:
            if name in attributes and not setter(attributes[name], attributes):
                refused.append(name)
        except (OSError, OverflowError, ValueError):
            refused.append(name)
    return refused


def _umask() -> int:
    """Return the umask; without ``/proc``, other threads must not create files meanwhile."""
    for line in procfs.read("/proc/self/status").splitlines():
        if line.startswith(b"Umask:"):
            return int(line.split()[1], 8)
    mask = posix.umask(0o077)
    posix.umask(mask)
    return mask


def _set_umask(mask: int, _all: Mapping[str, object]) -> bool:
    posix.umask(mask)
    return True


def _set_cpus(cpus: list[int], _all: Mapping[str, object]) -> bool:
    if posix.sched_getaffinity(0) != {*cpus}:
        posix.sched_setaffinity(0, cpus)
    return True


def _set_policy(wanted: tuple[int, int], _all: Mapping[str, object]) -> bool:
    policy, priority = wanted
    if posix.sched_getscheduler(0) != policy:
        posix.sched_setscheduler(0, policy, posix.sched_param(priority))
    return True


def _set_nice(nice: int, _all: Mapping[str, object]) -> bool:
    if posix.getpriority(posix.PRIO_PROCESS, 0) != nice:
        posix.setpriority(posix.PRIO_PROCESS, 0, nice)
    return True


def _set_adjustment(value: bytes, _all: Mapping[str, object]) -> bool:
    if value and procfs.read(_ADJUSTMENT) != value:
        fd = posix.open(_ADJUSTMENT, posix.O_WRONLY | posix.O_CLOEXEC)
        try:
            posix.write(fd, value)
        finally:
            posix.close(fd)
    return True


def _set_limits(limits: list[tuple[int, int, int]], attributes: Mapping[str, object]) -> bool:
    listed = attributes.get("limits_listed")
    if listed and procfs.read(_LIMITS) == listed:
        return True
    import resource  # noqa: PLC0415 - 0.2 ms, for the rare case that the limits differ

    complete = True
    for number, soft, hard in limits:
        own = resource.getrlimit(number)
        if own == (soft, hard):
            continue
        try:
            resource.setrlimit(number, (soft, hard))
        except (OSError, ValueError):  # The hard limit cannot be raised.
            complete = False
            top = own[1]
            nearest = soft if top < 0 or 0 <= soft <= top else top  # Infinity is -1.
            resource.setrlimit(number, (nearest, top))
    return complete


#: In this order: the limits last, since they may forbid what the others need.
_SETTERS: dict[str, Callable[..., bool]] = {
    "umask": _set_umask,
    "cpus": _set_cpus,
    "policy": _set_policy,
    "nice": _set_nice,
    "oom_score_adj": _set_adjustment,
    "limits": _set_limits,
}
