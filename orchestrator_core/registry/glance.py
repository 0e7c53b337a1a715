"""A glance at a registry: what is there, in one read, without a lock, and nothing is mended."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import attrs

from orchestrator_core import _files
from orchestrator_core.exceptions import RegistryTooNew, StorageError
from orchestrator_core.registry.document import Damage, decode

if TYPE_CHECKING:
    from orchestrator_core.registry.document import Document
    from orchestrator_core.registry.store import Registry


@attrs.frozen(kw_only=True)
class Glance:
    """What a registry's file held. Without a document, one of the other three says why."""

    document: Document | None = None
    version: int = 0  #: In which the document was written; 0 is the old system's.
    missing: bool = False
    damage: str = ""  #: Why it cannot be used.
    refused: str = ""  #: Why it could not be read: what it holds is unknown.


def glance(registry: Registry) -> Glance:
    """Look at a registry's file."""
    try:
        document, version = decode(_files.read(registry.path), registry.kind)
    except FileNotFoundError:
        return Glance(missing=True)
    except Damage as damage:
        return Glance(damage=str(damage))
    except (RegistryTooNew, StorageError) as error:
        if _is_directory(registry):
            return Glance(damage="it is a directory")
        return Glance(refused=str(error))
    return Glance(document=document, version=version)


def _is_directory(registry: Registry) -> bool:
    try:
        return stat.S_ISDIR(os.lstat(registry.path).st_mode)
    except OSError:
        return False
