"""A glance at a registry: what is there, in one read, without a lock, and nothing is mended."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import RegistryTooNew, StorageError
from orchestrator_core.model.status import is_active
from orchestrator_core.registry.document import InvalidDocument, decode
from orchestrator_core.registry.store import is_directory
from orchestrator_core.system import durable
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.registry.document import Document
    from orchestrator_core.registry.store import Registry


@attrs.frozen(kw_only=True)
class RegistrySnapshot:
    """What a registry's file held. Without a document, one of the other three says why."""

    document: Document | None = None
    version: int = 0  #: In which the document was written; 0 is the old system's.
    all_ended: bool = False  #: All its agents have ended here, with success.
    missing: bool = False
    damage: str = ""  #: Why it cannot be used.
    unreadable: str = ""  #: Why it could not be read: what it holds is unknown.

    @functools.cached_property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """A task's agents, by id: those whose id is one."""
        return {
            record["id"]: record
            for record in (self.document or {}).get("agents", ())
            if is_id(record.get("id"))
        }


class SnapshotCache:
    """Glances in short at a root's tasks: what is past, and as it was, is not read again."""

    def __init__(self) -> None:
        self._past: dict[str, tuple[durable.Fingerprint | None, RegistrySnapshot]] = {}

    def at(self, registries: Mapping[str, Registry]) -> dict[str, RegistrySnapshot]:
        """Glance at all tasks of a root: their registries, by task id."""
        for gone in self._past.keys() - registries.keys():
            self._past.pop(gone, None)
        return {task_id: self._at(task_id, registry) for task_id, registry in registries.items()}

    def _at(self, task_id: str, registry: Registry) -> RegistrySnapshot:
        edition = durable.fingerprint_at(
            registry.path
        )  # Before it is read: it may be replaced meanwhile.
        known = self._past.get(task_id)
        if known is not None and edition is not None and known[0] == edition:
            return known[1]
        seen = read_snapshot(registry, summary_only=True)
        if seen.all_ended:
            self._past[task_id] = edition, seen
        else:
            self._past.pop(task_id, None)
        return seen


def read_snapshot(registry: Registry, *, summary_only: bool = False) -> RegistrySnapshot:
    """
    Look at a registry's file.

    *summary_only* spares the time that it takes to read of agents that are over and done
    with: in a task that has no others, a record is no more than the id, the status, the
    key, the deadline, and that it was ended here, with success.
    """
    try:
        data = durable.read(registry.path)
        past = _past(data, registry.schema.version) if summary_only else None
        if past is not None:
            return RegistrySnapshot(document=past, version=registry.schema.version, all_ended=True)
        document, version = decode(data, registry.schema)
    except FileNotFoundError:
        return RegistrySnapshot(missing=True)
    except InvalidDocument as damage:
        return RegistrySnapshot(damage=str(damage))
    except (RegistryTooNew, StorageError) as error:
        if is_directory(registry.path):
            return RegistrySnapshot(damage="it is a directory")
        return RegistrySnapshot(unreadable=str(error))
    return RegistrySnapshot(document=document, version=version)


class _Cleanup(msgspec.Struct):
    by: str
    success: bool


class _Ended(msgspec.Struct):
    id: str
    status: str
    key: str | None
    deadline_at: str | None  # The old system's records lack these two.
    auto_cleanup_result: _Cleanup


class _Past(msgspec.Struct):
    """A task's registry in which all have ended here, with success; nothing else can be it."""

    schema_version: int
    agents: list[_Ended]


_READER = msgspec.json.Decoder(_Past)  # twenty times as fast as all that it passes over


def _past(data: bytes, version: int) -> Document | None:
    try:
        past = _READER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    over = (not is_active(each.status) and each.auto_cleanup_result.success for each in past.agents)
    if past.schema_version != version or not all(over):
        return None
    return {"schema_version": version, "agents": msgspec.to_builtins(past.agents)}
