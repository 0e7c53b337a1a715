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
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import attrs

from orchestrator_core import _files, locks
from orchestrator_core.exceptions import NotFound, RegistryDamaged, RegistryTooNew, StorageError
from orchestrator_core.registry.document import Damage, check, decode, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from orchestrator_core.registry.document import Document, Kind

T = TypeVar("T")


@attrs.frozen
class Aside:
    """A damaged document that was just set aside."""

    registry: Path
    kept: Path  #: Where it is now.
    why: str


@attrs.frozen
class _Loaded:
    document: Document
    data: bytes | None  #: As it was read; None if there is no such file yet.
    version: int  #: As it was written.


class Registry:
    """
    A document at *path*.

    ``rebuild`` returns a document in place of a damaged one, from what else is
    known, or None if it cannot; without it damage is an error until a person
    has mended it. It is called with this registry's lock held, and must not
    take another's: :meth:`peek` does not. ``on_damage`` is told of every
    document set aside, after the lock was let go.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: Kind,
        rebuild: Callable[[], Document | None] | None = None,
        on_damage: Callable[[Aside], None] | None = None,
        lock_timeout_s: float = 10.0,
    ) -> None:
        self.path = path
        self.kind = kind
        self._rebuild = rebuild
        self._on_damage = on_damage
        self._lock_timeout_s = lock_timeout_s

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
        except (FileNotFoundError, Damage):
            if not self.path.parent.is_dir():
                raise self._not_found() from None
        with self._locked() as told:
            return self._load_or_rebuild(told).document

    def peek(self) -> Document | None:
        """Return the document if it can be used; None if not. Takes no lock, mends nothing."""
        try:
            return self._load().document
        except (FileNotFoundError, Damage, RegistryTooNew, StorageError):
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
        with self._locked() as told:
            loaded = self._load_or_rebuild(told)
            result = change(loaded.document)
            written = self._store(loaded)
        if written:
            # The next one need not wait for this: what it writes holds our change
            # as well, and whoever is acknowledged first has settled both.
            _files.settle(self.path)
        return result

    def create(self, initial: Document) -> bool:
        """Write the first document, durably; False if there is one, which stays as it is."""
        _files.make_directory(self.path.parent)
        with self._locked() as told:
            with contextlib.suppress(NotFound):
                self._load_or_rebuild(told)
                return False
            document = {"schema_version": self.kind.version, **initial}
            self._store(_Loaded(document, None, self.kind.version))
        _files.settle(self.path)
        return True

    # --- reading and writing -------------------------------------------------------------

    def _load(self) -> _Loaded:
        try:
            data = _files.read(self.path)
        except StorageError:
            if _is_directory(self.path):
                raise Damage("it is a directory") from None
            raise
        try:
            document, version = decode(data, self.kind)
        except RegistryTooNew as error:
            raise RegistryTooNew(f"{self.path}: {error}") from None
        return _Loaded(document, data, version)

    def _store(self, loaded: _Loaded) -> bool:
        """Swap the document in, counters derived; False if it is as it was."""
        try:
            check(loaded.document, self.kind)
        except Damage as damage:
            raise TypeError(f"{self.kind.name}: the change would break it: {damage}") from None
        self.kind.derive(loaded.document)
        data = encode(loaded.document, self.kind)
        if data == loaded.data:
            return False
        if loaded.version < self.kind.version:
            self._keep_version(loaded.version)
        _files.swap(self.path, data)
        return True

    def _keep_version(self, version: int) -> None:
        """Let the document as it was before a migration keep a name of its own."""
        place = self.path.with_name(f"{self.path.name}.v{version}")
        with (
            _files.refusals("keep", place, answers=(FileExistsError,)),
            contextlib.suppress(FileExistsError),
        ):
            os.link(self.path, place)

    # --- damage ----------------------------------------------------------------------------

    def _load_or_rebuild(self, told: list[Aside]) -> _Loaded:
        """Return the document, rebuilt if it is damaged and can be. Needs the lock."""
        try:
            return self._load()
        except Damage as damage:
            told.append(self._set_aside(str(damage)))
        except FileNotFoundError:
            if not self._kept():
                raise self._not_found() from None
        return self._rebuilt()

    def _set_aside(self, why: str) -> Aside:
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
        kept = self.path.with_name(f"{self.path.name}.damaged-{stamp}")
        with _files.refusals("set aside", self.path):
            # One rename, so that it is never under both names. The name is free:
            # we hold the lock, and time has passed since the last.
            os.rename(self.path, kept)  # noqa: PTH104 - see _files.replace
        _files.fsync_directory(self.path.parent)
        return Aside(self.path, kept, why)

    def _kept(self) -> list[str]:
        """Return the names of the documents set aside, oldest first."""
        prefix = f"{self.path.name}.damaged-"
        with _files.refusals("list", self.path.parent):
            return sorted(n for n in os.listdir(self.path.parent) if n.startswith(prefix))  # noqa: PTH208 - names are enough

    def _rebuilt(self) -> _Loaded:
        kept = self._kept()
        document = self._rebuild() if self._rebuild is not None else None
        if document is None:
            newest = self.path.with_name(kept[-1])
            raise RegistryDamaged(
                f"{self.kind.name} {self.path} was damaged; it is kept as {newest}",
                hint=f"mend it, then: mv {newest} {self.path}",
            )
        document = {"schema_version": self.kind.version, **document, "damaged": kept}
        self._store(_Loaded(document, None, self.kind.version))
        _files.settle(self.path)
        return self._load()

    def _not_found(self) -> NotFound:
        return NotFound(f"there is no {self.kind.name} {self.path}")

    # --- the lock -----------------------------------------------------------------------------

    @contextlib.contextmanager
    def _locked(self) -> Iterator[list[Aside]]:
        """Hold the lock; afterwards, tell of what was set aside meanwhile."""
        told: list[Aside] = []
        try:
            with contextlib.ExitStack() as stack:
                try:
                    interrupted = stack.enter_context(
                        locks.locked(self.path, timeout_s=self._lock_timeout_s, what=self.kind.name)
                    )
                except FileNotFoundError:
                    raise self._not_found() from None
                if interrupted:
                    _files.clear_leftovers(self.path)
                yield told
        finally:
            for aside in told:
                self._tell(aside)

    def _tell(self, aside: Aside) -> None:
        import logging  # noqa: PLC0415 - seldom needed, and slow to import

        from orchestrator_core import logs  # noqa: PLC0415 - the same

        values = {"registry": str(aside.registry), "kept": str(aside.kept), "why": aside.why}
        logs.emit(logging.ERROR, "registry.damaged", **values)
        if self._on_damage is not None:
            self._on_damage(aside)


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except OSError:
        return False
