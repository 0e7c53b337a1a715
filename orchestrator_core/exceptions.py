"""
The errors of this library.

All are subclasses of :class:`OrchestratorError`, in a family for each kind of reaction of a
caller. Each has a stable ``code``, a message with what was refused and why, and a ``hint``
with the remedy. An error after which something may still exist names it in ``leaked``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class OrchestratorError(Exception):
    """The base class of all errors of this library."""

    code: ClassVar[str] = "error"
    default_hint: ClassVar[str] = ""
    retry_at_once: bool = True  #: Whether an undo that raised it is tried again at once.
    remember: Mapping[str, Any] | None = None  #: Fields that the receipt of a failed undo gets.

    def __init__(self, message: str, *, hint: str = "", leaked: Iterable[str] = ()) -> None:
        super().__init__(_encodable(message))
        self.hint = _encodable(hint or self.default_hint)
        self.leaked = tuple(map(_encodable, leaked))

    def to_dict(self) -> dict[str, object]:
        """Return the error as JSON-safe values."""
        return {
            "code": self.code,
            "error": str(self),
            "hint": self.hint,
            "leaked": list(self.leaked),
        }


def _encodable(text: str) -> str:
    """Return *text* with escapes for what UTF-8 cannot encode, such as a file name's odd bytes."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


# --- arguments ---------------------------------------------------------


class InvalidInput(OrchestratorError, ValueError):
    """An argument cannot be used. Nothing was taken."""

    code = "invalid-input"


class InvalidId(InvalidInput):
    """An id is not safe in a file name and a tmux target."""

    code = "invalid-id"
    default_hint = "use 1 to 100 of A-Z a-z 0-9 _ - and start with a letter or digit"


class NotFound(OrchestratorError, LookupError):
    """No such task or agent."""

    code = "not-found"
    default_hint = "orchestrator-core ps --all lists the agents; is --root the right root?"


# --- sagas -----------------------------------------------------------------------------


class SagaError(OrchestratorError):
    """A saga's state does not allow the operation."""

    code = "saga"


class SagaExists(SagaError):
    """A journal of this id exists."""

    code = "saga-exists"
    default_hint = "an id names one saga for ever; choose another"


class SagaNotFound(SagaError, LookupError):
    """There is no journal of this id."""

    code = "saga-not-found"


class SagaBusy(SagaError):
    """Another live process runs or unwinds this saga."""

    code = "saga-busy"
    default_hint = "wait for that process, and try again"


class JournalDamaged(SagaError):
    """A line of a journal, other than the last one, fails its checksum."""

    code = "journal-damaged"
    default_hint = "the file was kept aside; what its names lead to can still be ended"


class UnknownStep(SagaError):
    """No step is known for a receipt in a journal, or not in its version."""

    code = "unknown-step"
    default_hint = "recover with the release, or the step types, that wrote the journal"


class ReceiptRefused(SagaError):
    """A receipt names something that its saga's id does not lead to. It was left alone."""

    code = "receipt-refused"
    default_hint = "a program other than this library wrote to the journal; see what is named"


class UndoFailed(SagaError):
    """A step could not be undone, so its resource may still exist."""

    code = "undo-failed"

    def __init__(self, saga_id: str, step: str, cause: BaseException) -> None:
        super().__init__(
            f"saga {saga_id!r}: step {step!r} was not undone: {str(cause) or type(cause).__name__}",
            hint=f"mend the cause, then: orchestrator-core recover {saga_id}",
            leaked=[step],
        )
        self.saga_id = saga_id
        self.step = step
        self.cause = self.__cause__ = cause


class CouldNotAsk(OrchestratorError):
    """The state of a resource is unknown, so nothing was changed."""

    code = "could-not-ask"
    retry_at_once = False


class OutOfSight(CouldNotAsk):
    """A process is in another pid or time namespace, where this process cannot see it."""

    code = "out-of-sight"
    default_hint = (
        "ask where the agent was deployed: outside this container or sandbox, or inside that one"
    )


# --- files, locks and registries -----------------------------------------------------------


class StorageError(OrchestratorError):
    """The file system refused an operation."""

    code = "storage"


class LockTimeout(OrchestratorError):
    """Another process held a lock for longer than the timeout."""

    code = "lock-timeout"
    default_hint = "if the holder hangs, end it: its lock ends with it"


class RegistryError(OrchestratorError):
    """A registry document cannot be used."""

    code = "registry"


class RegistryDamaged(RegistryError):
    """A registry is not JSON of its schema. The file was quarantined."""

    code = "registry-damaged"


class RegistryTooNew(RegistryError):
    """A newer release wrote this registry."""

    code = "registry-too-new"
    default_hint = "upgrade orchestrator-core"


# --- the terminal and the processes ----------------------------------------------------------


class TerminalError(OrchestratorError):
    """The terminal refused a call."""

    code = "terminal"


class TerminalUnavailable(TerminalError):
    """The root's terminal cannot be used: there is no tmux, or no such class."""

    code = "terminal-unavailable"
    default_hint = "install tmux 3.2 or newer: apt-get install tmux, or brew install tmux"


class TerminalTimeout(TerminalError, CouldNotAsk):
    """The terminal did not answer in time. The effect of the call is unknown."""

    code = "terminal-timeout"
    default_hint = "is the tmux server stopped or hung? look for it with: pgrep -af tmux"


class UntrustedSocket(TerminalError, CouldNotAsk):
    """Another user may answer at the terminal's socket. Nothing was asked, or changed."""

    code = "untrusted-socket"
    default_hint = "let only its owner write to its directories: chmod go-w DIRECTORY"


class SessionExists(TerminalError):
    """A session of this name exists."""

    code = "session-exists"


class Survivors(OrchestratorError):
    """Processes of an agent are alive after SIGKILL."""

    code = "survivors"


class ChildrenLeft(OrchestratorError):
    """Children of an agent could not be ended with it; ``leaked`` names them."""

    code = "children-left"
    default_hint = "see orchestrator-core show CHILD; then: orchestrator-core recover PARENT"

    def __init__(
        self, message: str, *, leaked: Iterable[str], detail: dict[str, Any], retry_at_once: bool
    ) -> None:
        super().__init__(message, leaked=leaked)
        self.undo_detail = detail  #: The result for each child.
        self.retry_at_once = retry_at_once


# --- deployments -----------------------------------------------------------------------------


class DeploymentError(OrchestratorError):
    """
    An agent was not deployed.

    ``cleanup_performed`` says whether an unwinding ran (a refusal before anything was taken
    needs none), ``resources_cleaned`` what it gave back, and ``leaked`` what may still exist:
    nothing, unless an undo failed.
    """

    code = "deployment"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        leaked: Iterable[str] = (),
        agent_id: str = "",
        cleanup_performed: bool = False,
        resources_cleaned: dict[str, bool] | None = None,
        output: str = "",
    ) -> None:
        super().__init__(message, hint=hint, leaked=leaked)
        self.agent_id = agent_id
        self.cleanup_performed = cleanup_performed
        self.resources_cleaned = dict(resources_cleaned or {})
        self.output = output

    def to_dict(self) -> dict[str, object]:
        """Return the error as JSON-safe values."""
        return super().to_dict() | {
            "agent_id": self.agent_id,
            "cleanup_performed": self.cleanup_performed,
            "resources_cleaned": self.resources_cleaned,
            "output": self.output,
        }


class LimitReached(DeploymentError):
    """One more agent would be too many, or too deep. Nothing is left of the attempt."""

    code = "limit-reached"
    default_hint = "end an agent, or raise the limit where the Orchestrator is made"


class TaskRunning(OrchestratorError):
    """An agent of the task is alive, or not fully given back. Nothing was done."""

    code = "task-running"
    default_hint = "end its agents first: orchestrator-core ps --task TASK shows them"


class WaitTimeout(OrchestratorError, TimeoutError):
    """The awaited event did not happen in time. Nothing was changed."""

    code = "wait-timeout"
