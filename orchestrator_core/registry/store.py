"""
One registry document on disk, whole at every instant.

Reading takes no lock: the document is only ever replaced, so what is read is
complete. Changing it takes the lock of a sibling, and is read, change, derive,
replace. A document that cannot be used is set aside, once, under a name that
stays beside the registry: as long as it is there and the registry is not, the
registry is damaged, not missing.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from orchestrator_core.exceptions import (
    LockTimeout,
    NotFound,
    RegistryDamaged,
    RegistryTooNew,
    StorageError,
)
from orchestrator_core.registry.document import InvalidDocument, check, decode, encode
from orchestrator_core.registry.foreign_writer import read_when_unlocked
from orchestrator_core.registry.group_commit import UNKNOWN, CommitLog, Transaction
from orchestrator_core.system import durable, locks
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from orchestrator_core.registry.document import Document, Schema
    from orchestrator_core.registry.group_commit import PendingVersion
    from orchestrator_core.system.locks import Acquire

T = TypeVar("T")

#: How often one update mends. More would set aside files for ever where a disk lies.
_MENDINGS = 2


class Quarantined(NamedTuple):
    """A damaged document that was just set aside."""

    registry: Path
    kept: Path  #: Where it is now.
    why: str


class _Loaded(NamedTuple):
    document: Document
    data: bytes | None  #: As it was read; None if there is no such file yet.
    version: int  #: As it was written.


class Registry:
    """
    A document at *path*.

    ``rebuild`` returns a document in place of a damaged one, from what else is
    known, or None if it cannot; without it damage is an error until a person
    has mended it. It is called with this registry's lock held, and must not
    take another's: :meth:`read_or_none` does not. ``on_damage`` is told of every
    document set aside, after the lock was let go.
    """

    def __init__(
        self,
        path: Path,
        *,
        schema: Schema,
        rebuild: Callable[[], Document | None] | None = None,
        on_damage: Callable[[Quarantined], None] | None = None,
        lock_timeout_s: float = 10.0,
    ) -> None:
        self.path = path
        self.schema = schema
        self._rebuild = rebuild
        self._on_damage = on_damage
        self._lock_timeout_s = lock_timeout_s

    @functools.cached_property
    def _editions(self) -> CommitLog:
        return CommitLog(self.path, self.schema.name)

    def read(self) -> Document:
        """
        Return the document, complete, as it was at some instant during the call. Takes no lock.

        Raises:
            NotFound: There is none.
            RegistryDamaged: It cannot be used, nor rebuilt; the message names the file kept.
            RegistryTooNew: A newer release wrote it.
            StorageError: Refused.
        """
        try:
            return self._load().document
        except (FileNotFoundError, InvalidDocument):
            if not self.path.parent.is_dir():
                raise self._not_found() from None

        def repair(take: Acquire, told: list[Quarantined]) -> None:
            with Transaction(self._editions) as revision:
                self._mend(revision, take, told)

        self._in_turn(repair)
        return self._load().document

    def read_or_none(self) -> Document | None:
        """Return the document if it can be used; None if not. Takes no lock, mends nothing."""
        try:
            return self._load().document
        except (FileNotFoundError, InvalidDocument, RegistryTooNew, StorageError):
            return None

    def update(self, change: Callable[[Document], T]) -> T:
        """
        Let *change* work on the document in place, and return what it returns.

        No other update comes between; none is lost. Counters are derived
        afterwards. When this returns the change is durable; if *change* raises,
        nothing was changed. *change* runs with the lock held: it is to be quick,
        and to take no other lock.

        Raises:
            NotFound: There is none.
            LockTimeout: Somebody held the lock for too long; the message says who.
            RegistryDamaged, RegistryTooNew: As in :meth:`read`.
            StorageError: The disk refused, and the old document stands, unless
                the message says that this is unknown.
        """
        written: list[T] = []

        def rewrite(revision: Transaction, loaded: _Loaded | None) -> PendingVersion | None:
            assert loaded is not None  # noqa: S101 - for the type: it may not be missing
            result = change(loaded.document)
            edition = self._store(revision, loaded)
            written.append(result)
            return edition

        self._revise(rewrite)
        return written[0]

    def create(self, initial: Document) -> bool:
        """Write the first document, durably; False if there is one, which stays as it is."""
        durable.make_directory(self.path.parent)
        created: list[bool] = []

        def make(revision: Transaction, loaded: _Loaded | None) -> PendingVersion | None:
            created.append(loaded is None)
            if loaded is not None:
                return revision.pending()
            document = {"schema_version": self.schema.version, **initial}
            return self._store(revision, _Loaded(document, None, self.schema.version))

        self._revise(make, may_be_missing=True)
        return created[0]

    # --- mending ---------------------------------------------------------------------------

    def repair(self, mended: Callable[[Document | None], Document]) -> list[Quarantined]:
        """
        Write what *mended* makes of the document, durably, if that is anything else.

        It gets a copy of the document; None if there is none, or if it was damaged:
        then that is set aside first, and returned. No update comes between. It may
        be called twice.

        Raises:
            NotFound: Not even its directory is there.
            LockTimeout, RegistryTooNew, StorageError: As in :meth:`update`.
        """
        asides: list[Quarantined] = []

        def work(take: Acquire, told: list[Quarantined]) -> None:
            with Transaction(self._editions) as revision:
                revision.lock_alone(take)
                loaded: _Loaded | None = None
                try:
                    loaded = self._newest(revision)
                except InvalidDocument as damage:
                    asides.append(self._set_aside(str(damage)))
                    told.append(asides[-1])
                except FileNotFoundError:
                    pass
                edition = self._write_mended(revision, loaded, mended)
                revision.unlock()
                revision.settle(edition, take)

        self._in_turn(work)
        return asides

    def _write_mended(
        self,
        revision: Transaction,
        loaded: _Loaded | None,
        mended: Callable[[Document | None], Document],
    ) -> PendingVersion | None:
        if loaded is None:
            document = {"schema_version": self.schema.version, **mended(None)}
            kept = {"damaged": names} if (names := self._quarantined_names()) else {}
            return self._store(revision, _Loaded({**document, **kept}, None, self.schema.version))
        import copy  # noqa: PLC0415 - seldom needed, and imports weakref

        document = mended(copy.deepcopy(loaded.document))
        self.schema.derive(document)
        if document == loaded.document:
            return revision.pending()
        return self._store(revision, _Loaded(document, loaded.data, loaded.version))

    def quarantined(self) -> list[Path]:
        """
        Return the documents set aside as damaged, the newest first.

        Then come those from before a migration. None if not even their directory is there.
        """
        try:
            names = os.listdir(self.path.parent)  # noqa: PTH208 - names are enough
        except OSError:
            return []
        name = self.path.name
        damaged = sorted((n for n in names if n.startswith(f"{name}.damaged-")), reverse=True)
        before = sorted((n for n in names if n.startswith(f"{name}.v")), reverse=True)
        return [self.path.with_name(each) for each in (*damaged, *before)]

    # --- reading and writing -------------------------------------------------------------

    def _load(self, path: Path | None = None) -> _Loaded:
        path = path or self.path
        try:
            data = durable.read(path)
        except StorageError:
            if _is_directory(path):
                raise InvalidDocument("it is a directory") from None
            raise
        try:
            return self._decoded(data)
        except InvalidDocument:
            return self._decoded(read_when_unlocked(path))

    def _decoded(self, data: bytes) -> _Loaded:
        try:
            document, version = decode(data, self.schema)
        except RegistryTooNew as error:
            raise RegistryTooNew(f"{self.path}: {error}") from None
        return _Loaded(document, data, version)

    def _newest(self, revision: Transaction) -> _Loaded:
        """Load the newest edition. Needs the document's lock."""
        if revision.unsettled is not None:
            return self._decoded(revision.unsettled)
        return self._load()

    def _revise(
        self,
        revise: Callable[[Transaction, _Loaded | None], PendingVersion | None],
        *,
        may_be_missing: bool = False,
    ) -> None:
        """
        Let *revise* write a new edition on top of the newest, and see to it that it is settled.

        It returns the edition that is to be settled.
        """
        written: list[PendingVersion | None] = []
        revision = Transaction(self._editions)

        def work(take: Acquire, told: list[Quarantined]) -> None:
            comes_again = False
            try:
                if not written:
                    written.append(
                        self._write(revise, revision, take, told, may_be_missing=may_be_missing)
                    )
                revision.settle(written[0], take)
            except locks.WouldBlock:
                revision.pause()
                comes_again = True  # To wait; then it finds its files open.
                raise
            finally:
                if not comes_again:
                    revision.close()

        try:
            self._in_turn(work)
        except LockTimeout as timeout:
            if not written:
                raise
            raise LockTimeout(f"{timeout}; by then it was written", hint=UNKNOWN) from None

    def _write(
        self,
        revise: Callable[[Transaction, _Loaded | None], PendingVersion | None],
        revision: Transaction,
        take: Acquire,
        told: list[Quarantined],
        *,
        may_be_missing: bool,
    ) -> PendingVersion | None:
        while len(told) <= _MENDINGS:
            revision.lock(take)
            with contextlib.suppress(InvalidDocument):
                loaded = self._newest_or_none(revision)
                if loaded is not None or (may_be_missing and not self._quarantined_names()):
                    edition = revise(revision, loaded)
                    revision.unlock()
                    return edition
            revision.unlock()
            with Transaction(self._editions) as mending:
                self._mend(mending, take, told)
        raise RegistryDamaged(
            f"{self.schema.name} {self.path} was damaged again as soon as it was mended: "
            f"{told[-1].why}",
            hint="something keeps writing to it, or the disk does not keep what is written",
        )

    def _newest_or_none(self, revision: Transaction) -> _Loaded | None:
        try:
            return self._newest(revision)
        except FileNotFoundError:
            return None

    def _store(self, revision: Transaction, loaded: _Loaded) -> PendingVersion | None:
        """Write a new edition, counters derived; return what is to be settled."""
        try:
            check(loaded.document, self.schema)
        except InvalidDocument as damage:
            raise TypeError(f"{self.schema.name}: the change would break it: {damage}") from None
        self.schema.derive(loaded.document)
        data = encode(loaded.document, self.schema)
        if data == loaded.data:
            return revision.pending()  # What it was read from may not be settled itself.
        if loaded.version < self.schema.version:
            self._keep_version(loaded.version)
        return revision.write(data)

    def _keep_version(self, version: int) -> None:
        """Let the document as it was before a migration keep a name of its own."""
        place = self.path.with_name(f"{self.path.name}.v{version}")
        with (
            storage_errors("keep", place, allow=(FileExistsError,)),
            contextlib.suppress(FileExistsError),
        ):
            os.link(self.path, place)

    # --- damage ----------------------------------------------------------------------------

    def _mend(self, revision: Transaction, take: Acquire, told: list[Quarantined]) -> None:
        """See to it that there is a document that can be used, and that it is settled."""
        revision.lock_alone(take)
        try:
            self._newest(revision)
            edition = revision.pending()
        except InvalidDocument as damage:
            told.append(self._set_aside(str(damage)))
            edition = revision.write(self._rebuilt())
        except FileNotFoundError:
            if not self._quarantined_names():
                raise self._not_found() from None
            edition = revision.write(self._rebuilt())
        revision.unlock()
        revision.settle(edition, take)

    def _set_aside(self, why: str) -> Quarantined:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        with storage_errors("set aside", self.path):
            # One rename, so that it is never under both names. The name is free:
            # we hold the lock, and time has passed since the last.
            os.rename(self.path, kept)  # noqa: PTH104 - see durable
        durable.fsync_directory(self.path.parent)
        return Quarantined(self.path, kept, why)

    def _quarantined_names(self) -> list[str]:
        """Return the names of the documents set aside, oldest first."""
        prefix = f"{self.path.name}.damaged-"
        with storage_errors("list", self.path.parent):
            return sorted(n for n in os.listdir(self.path.parent) if n.startswith(prefix))  # noqa: PTH208 - names are enough

    def _rebuilt(self) -> bytes:
        kept = self._quarantined_names()
        document = self._rebuild() if self._rebuild is not None else None
        if document is None:
            newest = self.path.with_name(kept[-1])
            raise RegistryDamaged(
                f"{self.schema.name} {self.path} was damaged; it is kept as {newest}",
                hint=f"mend it, then: mv {newest} {self.path}",
            )
        document = {"schema_version": self.schema.version, **document, "damaged": kept}
        self.schema.derive(document)
        return encode(document, self.schema)

    def _not_found(self) -> NotFound:
        return NotFound(f"there is no {self.schema.name} {self.path}")

    # --- the locks ----------------------------------------------------------------------------

    def _in_turn(self, work: Callable[[Acquire, list[Quarantined]], None]) -> None:
        """Do *work*, which needs locks; afterwards, tell of what was set aside meanwhile."""
        told: list[Quarantined] = []
        try:
            locks.run_with_lock(lambda take: work(take, told), timeout_s=self._lock_timeout_s)
        except FileNotFoundError:
            raise self._not_found() from None
        finally:
            for aside in told:
                self._tell(aside)

    def _tell(self, aside: Quarantined) -> None:
        """A registry could not be used. It was kept aside, and made anew if that is known how."""
        import logging  # noqa: PLC0415 - seldom needed, and slow to import

        from orchestrator_core.system import log  # noqa: PLC0415 - the same

        registry, kept = str(aside.registry), str(aside.kept)
        log.emit(logging.ERROR, "registry.damaged", registry=registry, kept=kept, why=aside.why)
        if self._on_damage is not None:
            self._on_damage(aside)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
