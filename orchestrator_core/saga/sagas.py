"""The sagas of one directory, with the steps that can undo them: the facade of the package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypedDict

import msgspec

from orchestrator_core.exceptions import SagaNotFound
from orchestrator_core.saga.encoding import make_entry
from orchestrator_core.saga.engine import Saga
from orchestrator_core.saga.history import fold
from orchestrator_core.saga.observer import safe
from orchestrator_core.saga.planning import opening_entries, steps_by_type
from orchestrator_core.saga.recovery import (
    KeepCommitted,
    Recovery,
    RecoveryReport,
    policy_from_callables,
)
from orchestrator_core.saga.report import UnwindReport
from orchestrator_core.saga.states import State
from orchestrator_core.saga.store import JournalStore
from orchestrator_core.system.deprecation import renamed_attributes, renamed_keyword, warn_renamed

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    from orchestrator_core.saga.engine import Finalizer
    from orchestrator_core.saga.history import History
    from orchestrator_core.saga.observer import Observer
    from orchestrator_core.saga.recovery import RecoveryPolicy
    from orchestrator_core.saga.step import Step, Unwind


class _Hooks(TypedDict):
    """The keywords that every saga of the directory gets."""

    finalizer: Finalizer | None
    observer: Observer | None


@renamed_attributes(adopt="create_committed", opened="journals")
class Sagas:
    """
    All sagas whose journals live in one directory.

    Safe to use from several threads and processes at once.
    """

    @renamed_keyword("epilogue", "finalizer")
    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        steps: Iterable[Step[Any]] | Mapping[str, Step[Any]],
        finalizer: Finalizer | None = None,
        observer: Observer | None = None,
    ) -> None:
        """
        Open the directory, and create it if it is missing.

        *steps* must contain every step that a journal there may name; a saga with an unknown
        step gets STUCK. A mapping by receipt type is asked when a journal names a step. It may
        import the step then, or raise UnknownStep.

        Raises:
            StorageError: The directory cannot be used.
        """
        self.journals = JournalStore.open_directory(directory)
        self.steps = steps if isinstance(steps, Mapping) else steps_by_type(steps)
        self._hooks: _Hooks = {"finalizer": finalizer, "observer": observer}

    def begin(
        self,
        saga_id: str,
        steps: Sequence[Step[Any]],
        *,
        values: Mapping[str, Any] | None = None,
        labels: Mapping[str, Any] | None = None,
    ) -> Saga:
        """Begin a saga; see :meth:`Saga.begin <orchestrator_core.saga.engine.Saga.begin>`."""
        return Saga.begin(
            self.journals, saga_id, steps, values=values, labels=labels, **self._hooks
        )

    def create_committed(
        self,
        saga_id: str,
        receipts: Mapping[str, Any],
        *,
        labels: Mapping[str, Any] | None = None,
        why: Unwind | None = None,
    ) -> Saga:
        """
        Create a committed saga that holds *receipts*, for resources that no saga holds.

        The saga is durable and owned by this process; with *why* it is UNWINDING. *receipts*
        are by step name, in the order of the stack. No step is called.

        Raises:
            SagaExists: The id was used before.
            StorageError: The journal could not be written; there is none.
        """
        entries = [
            *opening_entries(saga_id, labels, receipts),
            make_entry("commit"),
            *([] if why is None else [make_entry("unwind", why=why)]),
        ]
        history = fold(entries)
        journal = self.journals.create(saga_id, entries)
        saga = Saga(self.journals, journal, history, self.steps, **self._hooks)
        observer = safe(self._hooks["observer"])
        observer.saga_begun(saga_id, saga.history.labels)
        observer.saga_committed(saga_id)
        return saga

    def open(self, saga_id: str, *, timeout_s: float = 0.0) -> Saga:
        """
        Return an open saga, owned by this process; wait up to *timeout_s* for its owner.

        Raises:
            SagaNotFound: There is no open saga of that id.
            SagaBusy: Its owner did not release it in time.
            JournalDamaged: The journal is not whole; :meth:`recover` rebuilds it.
        """
        journal, history = self.journals.open(saga_id, timeout_s=timeout_s)
        return Saga(self.journals, journal, history, self.steps, **self._hooks)

    def unwind(self, saga_id: str, why: Unwind, *, timeout_s: float = 0.0) -> UnwindReport:
        """
        Unwind a saga, once; if it is closed already, return the report of that unwinding.

        Raises:
            SagaNotFound: There is no such saga.
            SagaBusy: Its owner did not release it within *timeout_s*.
        """
        try:
            with self.open(saga_id, timeout_s=timeout_s) as saga:
                if saga.state is not State.CLOSED:
                    return saga.unwind(why)
        except SagaNotFound:
            pass
        return self.report(saga_id)

    def report(self, saga_id: str) -> UnwindReport:
        """
        Return how a closed saga was unwound.

        Raises:
            SagaNotFound: There is no closed saga of that id.
        """
        last = self.journals.read(saga_id).entries[-1:]
        if not last or last[0].kind != "close":
            raise SagaNotFound(f"there is no closed saga {saga_id!r}")
        return msgspec.convert(last[0].data["report"], UnwindReport)

    def history(self, saga_id: str) -> History:
        """
        Read the history of a saga, open or closed, without owning it.

        Raises:
            SagaNotFound: There is no such saga.
            JournalDamaged: The journal is not whole.
        """
        return self.journals.history(saga_id)

    def recover(
        self,
        *,
        policy: RecoveryPolicy | None = None,
        only: str | None = None,
        force: bool = False,
        **callables: Any,  # noqa: ANN401 - the old keywords
    ) -> RecoveryReport:
        """
        Finish the sagas of dead owners; see :mod:`orchestrator_core.saga.recovery`.

        The default *policy* leaves every committed saga alone.
        """
        if callables:  # verdict, replan and spared, for one release
            warn_renamed("Sagas.recover(verdict=, replan=, spared=)", "policy=", stacklevel=2)
            policy = policy_from_callables(**callables)
        recovery = Recovery(
            journals=self.journals,
            steps=self.steps,
            policy=policy or KeepCommitted(),
            **self._hooks,
        )
        return recovery.run(only=only, force=force)
