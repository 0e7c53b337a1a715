"""Snapshots of registries: one read without a lock, which repairs nothing."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import attrs
import msgspec

from orchestrator_core.exceptions import RegistryTooNew, StorageError
from orchestrator_core.model.status import is_active
from orchestrator_core.registry.document import InvalidDocument
from orchestrator_core.system import durable
from orchestrator_core.system.names import is_id

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.registry.document import Document
    from orchestrator_core.registry.registry import Registry


@attrs.frozen(kw_only=True)
class RegistrySnapshot:
    """The content of a registry's file. Without a document, one of the last three says why."""

    document: Document | None = None
    version: int = 0  #: The version that the document was written in; 0 is the old system's.
    all_ended: bool = False  #: All its agents have ended here, with success.
    missing: bool = False
    damage: str = ""  #: Why it cannot be used.
    unreadable: str = ""  #: Why it could not be read: its content is unknown.

    @functools.cached_property
    def records(self) -> dict[str, Mapping[str, Any]]:
        """A task's records whose id is valid, by id."""
        return {
            record["id"]: record
            for record in (self.document or {}).get("agents", ())
            if is_id(record.get("id"))
        }


class SnapshotCache:
    """Summary snapshots of a root's tasks. A task whose agents have all ended is read once."""

    def __init__(self) -> None:
        self._ended: dict[str, tuple[durable.Fingerprint | None, RegistrySnapshot]] = {}

    def read_all(self, registries: Mapping[str, Registry]) -> dict[str, RegistrySnapshot]:
        """Return a snapshot of each of a root's task registries, by task id."""
        for task_id in self._ended.keys() - registries.keys():
            self._ended.pop(task_id, None)
        return {task_id: self._read(task_id, registry) for task_id, registry in registries.items()}

    def _read(self, task_id: str, registry: Registry) -> RegistrySnapshot:
        # Before the read: the file may be replaced meanwhile.
        fingerprint = durable.fingerprint_at(registry.path)
        cached = self._ended.get(task_id)
        if cached is not None and fingerprint is not None and cached[0] == fingerprint:
            return cached[1]
        snapshot = read_snapshot(registry, summary_only=True)
        self._ended.pop(task_id, None)
        if snapshot.all_ended:
            self._ended[task_id] = fingerprint, snapshot
        return snapshot


def read_snapshot(registry: Registry, *, summary_only: bool = False) -> RegistrySnapshot:
    """
    Return the content of a registry's file.

    With *summary_only*, a task whose agents have all ended with success is read faster. A
    record then has only the fields of :class:`_EndedAgent`.
    """
    try:
        if summary_only:
            ended = _decode_if_all_ended(durable.read(registry.path), registry.schema.version)
            if ended is not None:
                return ended
        document, _, version = registry.load()
    except FileNotFoundError:
        return RegistrySnapshot(missing=True)
    except InvalidDocument as damage:
        return RegistrySnapshot(damage=str(damage))
    except (RegistryTooNew, StorageError) as error:
        return RegistrySnapshot(unreadable=str(error))
    return RegistrySnapshot(document=document, version=version)


class _Cleanup(msgspec.Struct):
    by: str
    success: bool


class _EndedAgent(msgspec.Struct):
    id: str
    status: str
    key: str | None
    deadline_at: str | None  # The old system's records lack these two.
    auto_cleanup_result: _Cleanup


class _EndedRegistry(msgspec.Struct):
    """A task's registry, of whose agents each has a cleanup result. No other document fits."""

    schema_version: int
    agents: list[_EndedAgent]


_DECODER = msgspec.json.Decoder(_EndedRegistry)  # Skipping fields makes it 20 times as fast.


def _decode_if_all_ended(data: bytes, version: int) -> RegistrySnapshot | None:
    try:
        registry = _DECODER.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if registry.schema_version != version or not all(
        not is_active(agent.status) and agent.auto_cleanup_result.success
        for agent in registry.agents
    ):
        return None
    document = {"schema_version": version, "agents": msgspec.to_builtins(registry.agents)}
    return RegistrySnapshot(document=document, version=version, all_ended=True)
