"""
One registry document on disk, whole at every instant.

A reader takes no lock: the document is only ever replaced, so it is complete. A
writer holds the lock of a sibling file while it reads, changes, derives and replaces.
A document that cannot be used is quarantined, once, under a name that stays beside
the registry. As long as that name is there and the registry is not, the registry
counts as damaged, not as missing.
"""

from __future__ import annotations

import contextlib
import copy
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from orchestrator_core.exceptions import (
    NotFound,
    RegistryDamaged,
    RegistryTooNew,
    StorageError,
)
from orchestrator_core.registry.document import InvalidDocument, check, decode, encode
from orchestrator_core.registry.foreign_writer import read_when_unlocked
from orchestrator_core.registry.group_commit import Transaction
from orchestrator_core.system import durable
from orchestrator_core.system.os_errors import storage_errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_core.registry.document import Document, Schema
    from orchestrator_core.registry.group_commit import PendingVersion

#: How many damaged documents one update replaces. A disk that lies could fill up otherwise.
_MAX_REPAIRS = 3


class Quarantined(NamedTuple):
    """A damaged document that was just quarantined."""

    registry: Path
    kept: Path  #: Where it is now.
    why: str


class LoadedDocument(NamedTuple):
    """A document, as it was read."""

    document: Document
    data: bytes | None  #: As it was read; None if there is no such file yet.
    version: int  #: The schema version that it was written in.


class _Update(Transaction):
    """A transaction, and the damaged documents that it has quarantined."""

    def __init__(self, registry: Registry, timeout_s: float) -> None:
        super().__init__(registry.path, what=registry.schema.name, timeout_s=timeout_s)
        self._registry = registry
        self.quarantined: list[Quarantined] = []

    def not_found(self) -> NotFound:
        """Return the error for a registry that does not exist: for a task's, that of the task."""
        what, path = self._registry.schema.directory, self._registry.path
        return NotFound(f"there is no {what} {path.parent.name!r}") if what else super().not_found()


class Registry:
    """
    A document at *path*.

    ``rebuild`` returns a document in place of a damaged one, from other sources,
    or None if it cannot. Without it, damage is an error until a person has repaired the
    file. ``rebuild`` runs with this registry's lock held, and must not take another lock;
    :meth:`read_or_none` takes none. ``on_damage`` is called with every quarantined
    document, after the lock is released.
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

    # --- reading -----------------------------------------------------------------------------

    def read(self) -> Document:
        """
        Return the document, complete, as it was at some instant during the call. Takes no lock.

        Raises:
            NotFound: There is none.
            RegistryDamaged: It cannot be used, nor rebuilt; the message names the quarantined file.
            RegistryTooNew: A newer release wrote it.
            StorageError: The disk refused.
        """
        with contextlib.suppress(FileNotFoundError, InvalidDocument):
            return self.load().document
        with self._begin() as update:
            self._replace_damaged(update)
        return self.load().document

    def read_or_none(self) -> Document | None:
        """Return the document if it can be used; None if not. Takes no lock, repairs nothing."""
        try:
            return self.load().document
        except (FileNotFoundError, InvalidDocument, RegistryTooNew, StorageError):
            return None

    def load(self) -> LoadedDocument:
        """
        Return the document as it is on disk. Takes no lock, repairs nothing.

        Raises:
            FileNotFoundError: There is none.
            InvalidDocument: It cannot be used.
            RegistryTooNew: A newer release wrote it.
            StorageError: The disk refused.
        """
        try:
            data = durable.read(self.path)
        except StorageError:
            with contextlib.suppress(OSError):
                if not stat.S_ISREG(os.lstat(self.path).st_mode):
                    raise InvalidDocument("it is not a regular file") from None
            raise
        try:
            return self._decode(data)
        except InvalidDocument:
            return self._decode(read_when_unlocked(self.path))

    def quarantined(self) -> list[Path]:
        """
        Return the documents quarantined as damaged, the newest first.

        Then come those from before a migration. Empty if their directory cannot be read.
        """
        try:
            oldest_first = [*self._siblings(".v"), *self._siblings(".damaged-")]
        except StorageError:
            return []
        return [self.path.with_name(name) for name in reversed(oldest_first)]

    def _siblings(self, suffix: str) -> list[str]:
        """Return the names that begin with the document's and *suffix*, the oldest first."""
        prefix = f"{self.path.name}{suffix}"
        with storage_errors("list", self.path.parent):
            return sorted(n for n in os.listdir(self.path.parent) if n.startswith(prefix))  # noqa: PTH208 - names are enough

    # --- changing ----------------------------------------------------------------------------

    @contextlib.contextmanager
    def transaction(self, *, on_refused: Callable[[], object] | None = None) -> Iterator[Document]:
        """
        Yield the document, to be changed in place; commit it, durably, at the end of the block.

        No other update comes between, and none is lost. Counters are derived from what the
        block leaves. An exception aborts: nothing is written. The block runs with the lock
        held, so it must be quick, and must take no other lock. If the document cannot be written
        then, *on_refused* is called, with the lock still held.

        Raises:
            NotFound: There is none.
            LockTimeout: Another process held the lock for too long; the message names it.
            InvalidInput, TypeError: The block leaves a document that cannot be written.
            RegistryDamaged, RegistryTooNew: As in :meth:`read`.
            StorageError: The disk refused, and the old document stands, unless
                the hint says that this is unknown.
        """
        with self._begin() as update:
            loaded = self._lock_and_load(update)
            if loaded is None:
                raise update.not_found()
            yield loaded.document
            try:
                version = self._write(update, loaded)
            except BaseException:
                if on_refused is not None:
                    on_refused()
                raise
            update.commit(version)

    def create(self, initial: Document) -> bool:
        """Write the first document, durably; False if there is one, which stays as it is."""
        durable.make_directory(self.path.parent)
        with self._begin() as update:
            loaded = self._lock_and_load(update)
            if loaded is None:
                version = self._write(update, self._new(initial))
            else:
                version = update.pending()
            update.commit(version)
        return loaded is None

    def repair(self, repaired: Callable[[Document | None], Document]) -> list[Quarantined]:
        """
        Write what *repaired* returns, durably, if it differs from the document.

        *repaired* is called with a copy of the document; with None if there is none or it was
        damaged. A damaged document is quarantined first, and returned. No update comes between.

        Raises:
            NotFound: Its directory is gone.
            LockTimeout, RegistryTooNew, StorageError: As in :meth:`transaction`.
        """
        with self._begin() as update:
            update.lock_exclusive()
            loaded = None
            try:
                loaded = self._newest(update)
            except InvalidDocument as damage:
                self._quarantine(update, str(damage))
            except FileNotFoundError:
                pass
            if loaded is None:
                names = self._siblings(".damaged-")
                new = self._new({**repaired(None), **({"damaged": names} if names else {})})
            else:
                new = loaded._replace(document=repaired(copy.deepcopy(loaded.document)))
                self.schema.derive(new.document)
            is_changed = loaded is None or new.document != loaded.document
            update.commit(self._write(update, new) if is_changed else update.pending())
        return update.quarantined

    def restore(self) -> bool:
        """
        Rebuild the document, durably, if its file was removed; return whether it was.

        Nothing happens if the whole directory is gone, or if the document cannot be rebuilt.

        Raises:
            LockTimeout, StorageError: As in :meth:`transaction`.
        """
        rebuild = self._rebuild
        if rebuild is None or os.path.lexists(self.path) or not self.path.parent.is_dir():
            return False
        with contextlib.suppress(NotFound):  # The directory is gone by now.
            self.repair(lambda present: self._present_or_rebuilt(present, rebuild))
            return True
        return False

    def _present_or_rebuilt(
        self, present: Document | None, rebuild: Callable[[], Document | None]
    ) -> Document:
        if present is not None:
            return present  # Another process has restored it.
        document = rebuild()
        if document is None:
            raise NotFound(f"there is no {self.schema.name} {self.path}, and no source of it")
        self._log_restored()
        return document

    def _log_restored(self) -> None:
        """A registry was removed from a directory that is still there, and was rebuilt."""
        import logging  # noqa: PLC0415 - seldom needed, and slow to import

        from orchestrator_core.system import log  # noqa: PLC0415 - the same

        log.emit(logging.ERROR, "registry.restored", registry=str(self.path))

    @contextlib.contextmanager
    def _begin(self) -> Iterator[_Update]:
        """Open an update. Damage that it finds is reported when its locks are released."""
        update = _Update(self, self._lock_timeout_s)
        try:
            with contextlib.closing(update):
                yield update
        finally:
            for damaged in update.quarantined:
                self._report(damaged)

    # --- loading and writing, with the lock held ------------------------------------------------

    def _lock_and_load(self, update: _Update) -> LoadedDocument | None:
        """Lock the document and load it, repaired if it was damaged; None if it never was."""
        while len(update.quarantined) < _MAX_REPAIRS:
            update.lock()
            with contextlib.suppress(InvalidDocument):
                try:
                    return self._newest(update)
                except FileNotFoundError:
                    if not self._siblings(".damaged-"):
                        return None
            update.unlock()
            self._replace_damaged(update)
        raise RegistryDamaged(
            f"{self.schema.name} {self.path} was damaged again as soon as it was repaired: "
            f"{update.quarantined[-1].why}",
            hint="another program keeps writing to it, or the disk does not keep what is written",
        )

    def _newest(self, update: _Update) -> LoadedDocument:
        return self.load() if update.unflushed is None else self._decode(update.unflushed)

    def _decode(self, data: bytes) -> LoadedDocument:
        try:
            document, version = decode(data, self.schema)
        except RegistryTooNew as error:
            raise RegistryTooNew(f"{self.path}: {error}") from None
        return LoadedDocument(document, data, version)

    def _new(self, fields: Document) -> LoadedDocument:
        version = self.schema.version
        return LoadedDocument({"schema_version": version, **fields}, None, version)

    def _write(self, update: _Update, loaded: LoadedDocument) -> PendingVersion | None:
        """Write a new version, counters derived, and return what :meth:`_Update.commit` needs."""
        try:
            check(loaded.document, self.schema)
        except InvalidDocument as damage:
            raise TypeError(f"{self.schema.name}: the change would break it: {damage}") from None
        self.schema.derive(loaded.document)
        data = encode(loaded.document, self.schema)
        if data == loaded.data:
            return update.pending()  # The version that was loaded may not be flushed yet.
        if loaded.version < self.schema.version:
            self._keep_before_migration(loaded.version)
        return update.write(data)

    def _keep_before_migration(self, version: int) -> None:
        """Link the document as it was before a migration to a name with its version."""
        kept = self.path.with_name(f"{self.path.name}.v{version}")
        with (
            storage_errors("keep", kept, allow=(FileExistsError,)),
            contextlib.suppress(FileExistsError),
        ):
            os.link(self.path, kept)

    # --- damage ----------------------------------------------------------------------------

    def _replace_damaged(self, update: _Update) -> None:
        """Quarantine and rebuild the document if it is damaged; a usable one stays."""
        update.lock_exclusive()
        try:
            self._newest(update)
            version = update.pending()
        except InvalidDocument as damage:
            self._quarantine(update, str(damage))
            version = update.write(self._rebuilt())
        except FileNotFoundError:
            if not self._siblings(".damaged-"):
                raise update.not_found() from None
            version = update.write(self._rebuilt())
        update.commit(version)

    def _quarantine(self, update: _Update, why: str) -> None:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        with storage_errors("quarantine", self.path):
            # One rename, so that it is never under both names. The name is free:
            # this process holds the lock, and time has passed since the last.
            os.rename(self.path, kept)  # noqa: PTH104 - see durable
        durable.fsync_directory(self.path.parent)
        update.quarantined.append(Quarantined(self.path, kept, why))

    def _rebuilt(self) -> bytes:
        names = self._siblings(".damaged-")
        document = self._rebuild() if self._rebuild is not None else None
        if document is None:
            newest = self.path.with_name(names[-1])
            raise RegistryDamaged(
                f"{self.schema.name} {self.path} was damaged; it is kept as {newest}",
                hint=f"repair it, then: mv {newest} {self.path}",
            )
        document = self._new({**document, "damaged": names}).document
        self.schema.derive(document)
        return encode(document, self.schema)

    def _report(self, damaged: Quarantined) -> None:
        """A registry was damaged. It is quarantined, and rebuilt if that is possible."""
        import logging  # noqa: PLC0415 - seldom needed, and slow to import

        from orchestrator_core.system import log  # noqa: PLC0415 - the same

        registry, kept = str(damaged.registry), str(damaged.kept)
        log.emit(logging.ERROR, "registry.damaged", registry=registry, kept=kept, why=damaged.why)
        if self._on_damage is not None:
            self._on_damage(damaged)
