"""
A helper server for an agent: started before it, ended after it, and proved to be gone.

It runs below a supervisor of its own, the same program that stands above every agent. So
it lives on when the orchestrator dies; all that it starts is contained; and any process
that knows its receipt can end it, by the same evidence as an agent: the supervisor's
identity, which no other process can have, and a cookie in the environment.

Killed while it starts one, an orchestrator leaves a supervisor that is still to come. It
starts nothing: each supervisor removes its launch file before it goes on, and the undo
does so before it looks for processes. Whoever comes second finds none, and has lost.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from orchestrator_core import supervisor
from orchestrator_core.exceptions import InvalidInput, OrchestratorError, Survivors
from orchestrator_core.model.environment import HIDDEN_ENV, RESERVED_ENV
from orchestrator_core.resources.private_dir import (
    check_name,
    is_directory,
    is_there,
    make_private,
    remove_if_empty,
    remove_tree,
    saga_dir,
)
from orchestrator_core.resources.provision import Provision
from orchestrator_core.saga import Outcome, Presence, receipt
from orchestrator_core.supervisor import launch as launching
from orchestrator_core.system import durable
from orchestrator_core.system.event_reader import SupervisorEvents
from orchestrator_core.system.processes import (
    GracePeriods,
    Identity,
    LocalProcesses,
    OwnershipSelector,
    read_exit_record,
)
from orchestrator_core.system.processes.table import COOKIE_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga import Context, Unwind

_COMMITTED = b'{"kind":"commit"}\n'  #: A journal in which all is said that a gate asks for.
_START_S = 10.0  #: From the start to the helper's first instruction.


@receipt("subprocess")
@attrs.frozen
class SubprocessReceipt:
    """The helper's directory, and all by which its processes are known."""

    run: str
    cookie: str
    term_s: float
    kill_s: float
    supervisor: Identity | None = None  #: Known once it is there; the cookie finds it without.

    @property
    def claim(self) -> OwnershipSelector:
        """What may be ended as the helper's."""
        return OwnershipSelector(
            self.cookie, supervisor=self.supervisor, exit_file=f"{self.run}/exit"
        )


@attrs.frozen
class Subprocess:
    """
    A program that runs as long as the agent does: *command*, an argv and no shell string.

    Placeholders of the steps before it are replaced in *command* and in the values of *env*;
    what they have for the environment it gets as well, on top of ours. It runs in *cwd*, or
    where a step before it has the agent run. It is started when this step is done, not
    ready: a server needs a moment until it listens. If it ends by itself, nothing else does,
    and the report has its exit status.

    Its output goes to the file *log*, which stays; without one, it goes with the helper.
    Asked to end, it has *term_s* seconds; forced, and not gone after *kill_s*, it is a
    survivor, and the saga STUCK.
    """

    receipt_type = SubprocessReceipt

    command: tuple[str, ...] = attrs.field(default=(), converter=tuple, repr=False)
    env: Mapping[str, str] = attrs.field(factory=dict, kw_only=True, repr=False)
    cwd: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    log: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)
    term_s: float = attrs.field(default=2.0, kw_only=True)
    kill_s: float = attrs.field(default=2.0, kw_only=True)
    name: str = attrs.field(
        default="", kw_only=True, validator=lambda _, __, name: check_name(name)
    )
    directory: str | os.PathLike[str] | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        refused = (RESERVED_ENV | HIDDEN_ENV) & set(self.env)
        if refused:
            raise InvalidInput(f"{min(refused)} is not a helper's to be given")

    def plan(self, ctx: Context) -> SubprocessReceipt:
        """Name its directory, and fix its cookie."""
        if not self.command or not self.command[0]:
            raise InvalidInput("the helper has no command", hint='give an argv: ["redis-server"]')
        root = ctx.values.get("root_id") or os.urandom(8).hex()
        own = self.name or "subprocess"
        return SubprocessReceipt(
            run=str(saga_dir(ctx, self.directory) / own),
            # Not like an agent's: no sweep takes it for one that no saga accounts for.
            cookie=f"och_{root}_{ctx.saga_id}_{own}",
            term_s=self.term_s,
            kill_s=self.kill_s,
        )

    def do(self, receipt: SubprocessReceipt) -> SubprocessReceipt:
        """Start it, with nothing handed on from other steps."""
        return self.do_with(receipt, Provision())

    def do_with(self, receipt: SubprocessReceipt, given: Provision) -> SubprocessReceipt:
        """
        Start it below its supervisor, and wait until it runs.

        Raises:
            HelperFailed: It cannot be run.
        """
        run = Path(receipt.run)
        make_private(run.parent)
        run.mkdir(mode=0o700)
        os.mkfifo(run / "events", 0o600)
        launch = self._launch(receipt, given)
        Path(launch.log).touch(mode=0o600)
        durable.create(run / "launch", launching.encode(launch), durable=False)
        # Last: without it nothing can start.
        durable.create(run / "journal", _COMMITTED, durable=False)
        with SupervisorEvents(launch.events, launch.log) as news:
            who = _spawn_detached(supervisor.command(str(run / "launch")), receipt.cookie)
            self._wait_until_started(receipt, news, who)
        return attrs.evolve(receipt, supervisor=who)

    def undo(self, receipt: SubprocessReceipt, _why: Unwind) -> Outcome:
        """
        End all of its processes, and prove it.

        Raises:
            Survivors: Some are still alive after all that was done.
        """
        run = Path(receipt.run)
        if not is_directory(run) and receipt.supervisor is None:
            remove_if_empty(run.parent)
            return Outcome.absent()
        never_ran = _prevent_start(run)
        patience = GracePeriods(term_s=receipt.term_s, kill_s=receipt.kill_s)
        witnessed = read_exit_record(receipt.claim.exit_file)
        ending = LocalProcesses().terminate_all(receipt.claim, patience)
        if ending.survivors:
            names = [f"{one.pid} ({one.name})" for one in ending.survivors]
            raise Survivors(f"still alive after SIGKILL: {', '.join(names)}", leaked=names)
        was_there = is_directory(run)
        if was_there:
            remove_tree(run)
        remove_if_empty(run.parent)
        facts = {
            "method": ending.method,
            "proven": ending.proven or never_ran,
            "processes_ended": ending.signalled,
            "forced": ending.forced,
        }
        if witnessed is not None:  # It had ended before.
            facts |= {"exit_code": witnessed.code, "exit_signal": witnessed.signal}
        return Outcome.undone(**facts) if was_there or ending.signalled else Outcome.absent(**facts)

    def probe(self, receipt: SubprocessReceipt) -> Presence:
        """Look for a process of it."""
        return Presence.OURS if LocalProcesses().owned_processes(receipt.claim) else Presence.ABSENT

    def _launch(self, receipt: SubprocessReceipt, given: Provision) -> launching.Launch:
        run = receipt.run
        hidden = RESERVED_ENV | HIDDEN_ENV
        ours = {name: value for name, value in os.environ.items() if name not in hidden}
        own = {name: given.replaced(value) for name, value in self.env.items()}
        return launching.Launch(
            journal=f"{run}/journal",
            log=str(Path(self.log).absolute()) if self.log is not None else f"{run}/log",
            exit_file=f"{run}/exit",
            events=f"{run}/events",
            argv=[given.replaced(argument) for argument in self.command],
            env={**ours, **given.environment, **own, COOKIE_NAME: receipt.cookie},
            cwd=str(Path(self.cwd or given.cwd or ".").absolute()),
            term_s=receipt.term_s,
            kill_s=receipt.kill_s,
        )

    def _wait_until_started(
        self, receipt: SubprocessReceipt, news: SupervisorEvents, who: Identity | None
    ) -> None:
        first_of = {"processes": LocalProcesses(), "supervisor": who, "timeout_s": _START_S}
        heard = news.wait_for({"started", "refused"}, **first_of)  # type: ignore[arg-type]  # each is of its own type
        if heard == "started":
            return
        if heard == "refused":  # That is said first, and written down, with the reason, only then.
            news.wait_for({"exited"}, **first_of)  # type: ignore[arg-type]  # as above
        seen = read_exit_record(receipt.claim.exit_file)
        why = seen.error if seen is not None and seen.error else "its supervisor did not answer"
        raise HelperFailed(f"the helper {self.command[0]!r} was not started: {why}")


class HelperFailed(OrchestratorError):
    """A helper could not be started."""

    code = "helper-failed"


def _spawn_detached(argv: list[str], cookie: str) -> Identity | None:
    """
    Start a program that is nobody's child, in a POSIX session without a terminal.

    Being ours would make a zombie of it when it ends, for as long as we live.
    """
    said = subprocess.run(  # noqa: S603 - an argv of ours; the shell only starts it, and leaves
        ["/bin/sh", "-c", '"$@" </dev/null >/dev/null 2>&1 & echo $!', "sh", *argv],
        cwd="/",
        env={"PATH": os.defpath, COOKIE_NAME: cookie},
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    return LocalProcesses().identify(int(said.stdout))


def _prevent_start(run: Path) -> bool:
    """Let no supervisor start anything any more; tell whether it is certain that none has."""
    try:
        (run / "launch").unlink()
    except FileNotFoundError:
        return not is_there(run / "journal")
    return True
