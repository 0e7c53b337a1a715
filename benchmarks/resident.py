"""
The cost of the resident sweeper, and its time to react.

    python benchmarks/resident.py [--rounds N] [DIRECTORY]

One process runs `orchestrator-core sweep --watch` on a root with twenty live agents. Its memory
and processor time at rest are read from /proc; the floor is a bare Python. Then agents crash:
one exits with 1, or all of its processes are killed with SIGKILL, its supervisor included. The
time is from the crash to the closed journal.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import _figures
import sweep
from _figures import Figure, median, timed

from orchestrator_core import AgentSpec

if TYPE_CHECKING:
    from pathlib import Path

LIVE, IDLE_S = 20, 20
SETTLE_S = 5  # Its first sweeps are not rest.


def figures(directory: str | None = None, rounds: int = 15) -> list[Figure]:
    with _figures.place(directory) as where:
        rig = sweep.Rig(where / "library")
        try:
            rig.deploy(LIVE)
            with running(rig.orch.root) as pid:
                select.select([], [], [], SETTLE_S)
                used = _cpu_ms(pid)
                select.select([], [], [], IDLE_S)
                used = _cpu_ms(pid) - used
                memory = _memory_mb(pid)
                failed = median([_fails(rig) for _ in range(rounds)])
                killed = median([_dies(rig) for _ in range(rounds)])
                grown = _memory_mb(pid)
            bare = _bare_mb()
        finally:
            rig.close()
    after = f"after {2 * rounds} crashes {grown:.1f} MB"
    return [
        Figure(
            name=f"the resident sweeper, idle for {IDLE_S} s: memory",
            measured=memory,
            floor=bare,
            unit="MB",
            at_most_units=40,
            note=after,
        ),
        Figure(name="… and processor time", measured=used, floor=0, at_most_units=20),
        Figure(name="an agent that exits with 1", measured=failed, floor=0, at_most_units=100),
        Figure(name="… killed with its supervisor", measured=killed, floor=0, at_most_units=100),
    ]


@contextmanager
def running(root: Path):
    """Run the command, and yield its pid after its first sweep."""
    command = [sys.executable, "-m", "orchestrator_core", "--root", str(root), "sweep", "--watch"]
    reader, writer = os.pipe()
    process = subprocess.Popen(
        command,
        stdout=writer,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(_figures.HERE.parent)},
    )
    try:
        _is_healthy(root, process)
        yield process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
        os.close(reader)
        os.close(writer)


def _is_healthy(root: Path, process: subprocess.Popen) -> None:
    command = [sys.executable, "-m", "orchestrator_core", "--root", str(root), "health"]
    for _ in range(50):
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:
            return
        if process.poll() is not None:
            break
    raise RuntimeError("the sweeper does not run")


def _fails(rig: sweep.Rig) -> float:
    fifo = rig.orch.root / "crash"
    os.mkfifo(fifo)
    spec = AgentSpec(type="bench", prompt="p", command=["sh", "-c", f"read x < {fifo}; exit 1"])
    agent = rig.orch.deploy(rig.task, spec).id
    fd = os.open(fifo, os.O_WRONLY)
    try:
        return _until_over(rig, agent, lambda: os.write(fd, b"go\n"))
    finally:
        os.close(fd)
        fifo.unlink()


def _dies(rig: sweep.Rig) -> float:
    [agent] = rig.deploy(1)
    return _until_over(rig, agent, lambda: rig.kill({agent}))


def _until_over(rig: sweep.Rig, agent: str, crash) -> float:
    def crashed() -> None:
        crash()
        rig.orch.wait(agent, timeout_s=30)

    return timed(crashed)[0]


def _cpu_ms(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123 - not a file to keep
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) * 1000 / os.sysconf("SC_CLK_TCK")


def _memory_mb(pid: int) -> float:
    """Return its resident memory, shared libraries included."""
    with open(f"/proc/{pid}/status", "rb") as file:  # noqa: PTH123 - as above
        [line] = [line for line in file if line.startswith(b"VmRSS")]
    return int(line.split()[1]) / 1024


def _bare_mb() -> float:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as bare:
        select.select([], [], [], 0.5)
        memory = _memory_mb(bare.pid)
        bare.communicate(b"\n")
    return memory


if __name__ == "__main__":
    _figures.main(__doc__, figures)
