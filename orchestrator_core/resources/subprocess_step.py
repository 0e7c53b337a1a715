"""
A helper server for an agent: started before the agent, ended after it, with proof of its end.

The helper runs below a supervisor, the same program as above every agent. It therefore
survives the orchestrator, and all that it starts is contained. Every process that has its
receipt can end it, by the same evidence as for an agent: the supervisor's identity, which no
other process can have, and a cookie in the environment.

An orchestrator that is killed during the start may leave a supervisor that has not begun to
run. The launch file decides: the supervisor must delete it before it starts the helper, and
the undo deletes it before it looks for processes. The second of the two finds no file, and
does nothing.
"""

from __future__ import annotations

import functools
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import (
    InvalidInput,
    OrchestratorError,
    ReceiptRefused,
    Survivors,
)
from orchestrator_core.model.environment import HIDDEN_ENV, RESERVED_ENV
from orchestrator_core.resources import private_dir
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Context, Outcome, Presence, Unwind, receipt
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.supervisor import launch as launch_file
from orchestrator_core.system import durable, paths
from orchestrator_core.system.event_reader import SupervisorEvents
from orchestrator_core.system.inheritance import inherited
from orchestrator_core.system.interpreter import find_python
from orchestrator_core.system.processes import (
    GracePeriods,
    Identity,
    LocalProcesses,
    OwnershipSelector,
    read_exit_record,
)
from orchestrator_core.system.processes.exit_record import reserve_exit_records
from orchestrator_core.system.processes.table import COOKIE_NAME
from orchestrator_core.system.tree import remove_tree

if TYPE_CHECKING:
    from collections.abc import Mapping

_COMMITTED = b'{"kind":"commit"}\n'  #: The journal of a committed saga, as the gate reads it.
_START_S = 10.0  #: From the start of the supervisor to the helper's first instruction.


@receipt("subprocess")
@attrs.frozen
class SubprocessReceipt:
    """The helper's directory, and the evidence by which its processes are found."""

    run: str
    cookie: str
    term_s: float
    kill_s: float
    supervisor: Identity | None = None  #: Known after the start. The cookie is enough.

    @property
    def selector(self) -> OwnershipSelector:
        """The selector of the helper's processes."""
        return OwnershipSelector(
            self.cookie, supervisor=self.supervisor, exit_file=f"{self.run}/exit"
        )


@attrs.frozen
class Subprocess(private_dir.PrivateDirOptions):
    """
    A program that runs as long as the agent does: *command*, an argv and no shell string.

    Placeholders of the steps before it are replaced in *command* and in the values of *env*.
    Its environment is this process's, plus the variables of those steps, plus *env*. It runs
    in *cwd*, or in the agent's directory if a step before it provides one. After this step it
    is started, but perhaps not ready: a server needs time until it listens. If it exits by
    itself, the agent goes on, and the report has its exit status.

    Its output goes to the file *log*, which stays. Without *log*, the output is removed with
    the helper. The undo waits *term_s* seconds after SIGTERM and *kill_s* seconds after
    SIGKILL. A process that is alive after that is a survivor, and the saga is STUCK.
    """

    receipt_type = SubprocessReceipt

    command: tuple[str, ...] = attrs.field(default=(), converter=tuple, repr=False)
    env: Mapping[str, str] = attrs.field(factory=dict, kw_only=True, repr=False)
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    log: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    term_s: float = attrs.field(default=2.0, kw_only=True)
    kill_s: float = attrs.field(default=2.0, kw_only=True)

    def __attrs_post_init__(self) -> None:
        reserved = (RESERVED_ENV | HIDDEN_ENV) & set(self.env)
        if reserved:
            raise InvalidInput(f"{min(reserved)} is reserved: a helper must not get it")

    def plan(self, ctx: Context) -> SubprocessReceipt:
        """Fix the helper's directory and cookie."""
        if not self.command or not self.command[0]:
            raise InvalidInput("the helper has no command", hint='give an argv: ["redis-server"]')
        root = ctx.values.get("root_id") or os.urandom(8).hex()
        own = self.name or "subprocess"
        return SubprocessReceipt(
            run=str(self.saga_dir(ctx) / own),
            # Unlike an agent's cookie, so that a sweep does not report the helper as an orphan.
            cookie=f"och_{root}_{ctx.saga_id}_{own}",
            term_s=self.term_s,
            kill_s=self.kill_s,
        )

    def do(self, receipt: SubprocessReceipt) -> SubprocessReceipt:
        """Start the helper without provisions of other steps."""
        return self.do_with(receipt, Provision())

    def do_with(self, receipt: SubprocessReceipt, given: Provision) -> SubprocessReceipt:
        """
        Start the helper below its supervisor, and wait until it runs.

        Raises:
            HelperFailed: The helper cannot be run.
        """
        run = Path(receipt.run)
        private_dir.make_private(run.parent)
        run.mkdir(mode=0o700)
        os.mkfifo(run / "events", 0o600)
        launch = self._launch(receipt, given)
        Path(launch.log).touch(mode=0o600)
        reserve_exit_records(receipt.run)
        durable.create(run / "launch", launch_file.encode(launch), durable=False)
        # Last: the supervisor starts nothing without it.
        durable.create(run / "journal", _COMMITTED, durable=False)
        with SupervisorEvents(launch.events, launch.log) as events:
            command = launch_file.command(str(run / "launch"), python=find_python())
            identity = _spawn_detached(command, receipt.cookie)
            self._wait_until_started(receipt, events, identity)
        return attrs.evolve(receipt, supervisor=identity)

    def verify(
        self, receipt: SubprocessReceipt, saga_id: str, labels: Mapping[str, Any]
    ) -> SubprocessReceipt:
        """
        Return the receipt, whose directory and cookie must be the saga's.

        Raises:
            ReceiptRefused: They are not.
        """
        owner = naming_id(saga_id, labels)
        private_dir.check_place(receipt.run, owner)
        ending = f"_{owner}_{Path(receipt.run).name}"
        if not (receipt.cookie.startswith("och_") and receipt.cookie.endswith(ending)):
            raise ReceiptRefused(f"{receipt.cookie!r:.200} is not a cookie of {owner!r}")
        return receipt

    def undo(self, receipt: SubprocessReceipt, _why: Unwind) -> Outcome:
        """
        End all processes of the helper, and prove it.

        Raises:
            Survivors: A process is still alive after SIGKILL.
        """
        run = Path(receipt.run)
        private_dir.make_usable(run.parent)
        if not private_dir.is_directory(run):
            private_dir.remove(run)  # What an agent put there leads nowhere.
        if not private_dir.is_directory(run) and receipt.supervisor is None:
            private_dir.remove_if_empty(run.parent)
            return Outcome.absent()
        never_ran = _prevent_start(run)
        periods = GracePeriods(term_s=receipt.term_s, kill_s=receipt.kill_s)
        earlier_exit = read_exit_record(receipt.selector.exit_file)
        result = LocalProcesses().terminate_all(receipt.selector, periods)
        if result.survivors:
            names = [f"{process.pid} ({process.name})" for process in result.survivors]
            raise Survivors(f"still alive after SIGKILL: {', '.join(names)}", leaked=names)
        existed = private_dir.is_directory(run)
        if existed:
            remove_tree(run)
        private_dir.remove_if_empty(run.parent)
        facts = {
            "method": result.method,
            "proven": result.proven or never_ran,
            "processes_ended": result.signalled,
            "forced": result.forced,
        }
        if result.refused:
            facts["kept"] = "; ".join(result.refused)
        if earlier_exit is not None:
            facts |= {"exit_code": earlier_exit.code, "exit_signal": earlier_exit.signal}
        return Outcome.undone(**facts) if existed or result.signalled else Outcome.absent(**facts)

    def probe(self, receipt: SubprocessReceipt) -> Presence:
        """Return whether a process of the helper is alive."""
        return (
            Presence.OURS if LocalProcesses().owned_processes(receipt.selector) else Presence.ABSENT
        )

    def _launch(self, receipt: SubprocessReceipt, given: Provision) -> launch_file.Launch:
        run = receipt.run
        kept = inherited(os.environ)
        for name in RESERVED_ENV:
            kept.pop(name, None)
        own = {name: given.replaced(value) for name, value in self.env.items()}
        cwd = str(paths.absolute("the helper's directory", self.cwd or given.cwd or "."))
        return launch_file.Launch(
            journal=f"{run}/journal",
            log=f"{run}/log" if self.log is None else str(paths.absolute("the log", self.log)),
            exit_file=f"{run}/exit",
            events=f"{run}/events",
            argv=[given.replaced(argument) for argument in self.command],
            env={**kept, "PWD": cwd, **given.environment, **own, COOKIE_NAME: receipt.cookie},
            cwd=cwd,
            term_s=receipt.term_s,
            kill_s=receipt.kill_s,
        )

    def _wait_until_started(
        self, receipt: SubprocessReceipt, events: SupervisorEvents, identity: Identity | None
    ) -> None:
        wait_for = functools.partial(
            events.wait_for, processes=LocalProcesses(), supervisor=identity, timeout_s=_START_S
        )
        event = wait_for({"started", "refused"})
        if event == "started":
            return
        if event == "refused":  # The supervisor writes the reason down before "exited".
            wait_for({"exited"})
        record = read_exit_record(receipt.selector.exit_file)
        why = record.error if record is not None and record.error else "no answer of its supervisor"
        raise HelperFailed(f"the helper {self.command[0]!r} was not started: {why}")


class HelperFailed(OrchestratorError):
    """A helper could not be started."""

    code = "helper-failed"


def _spawn_detached(argv: list[str], cookie: str) -> Identity | None:
    """
    Start a program as a child of init, in a POSIX session without a terminal.

    As a child of this process it would stay a zombie after its end until this process reaps
    it.
    """
    shell = subprocess.run(  # noqa: S603 - the shell starts an argv of this library, and exits
        ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 & echo $!', "sh", *argv],
        cwd="/",
        env={"PATH": os.defpath, COOKIE_NAME: cookie},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return LocalProcesses().identify(int(shell.stdout))


def _prevent_start(run: Path) -> bool:
    """Let no supervisor start the helper from now on; return whether certainly none has."""
    try:
        (run / "launch").unlink()
    except FileNotFoundError:
        return not durable.exists(run / "journal")
    return True
