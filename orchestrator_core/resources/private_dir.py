"""A saga's private directory: the place for files that must not outlive the saga."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from orchestrator_core.exceptions import InvalidInput, ReceiptRefused, StorageError
from orchestrator_core.saga.verification import naming_id
from orchestrator_core.system import durable, paths, tree
from orchestrator_core.system.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator_core.saga import Context

_NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")


def check_name(_step: object, _attribute: object, name: str) -> None:
    """
    Refuse a name that cannot be both a step's and a placeholder's; empty is allowed.

    Raises:
        InvalidInput: The name is refused.
    """
    if name and _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"{name!r:.60} cannot be a step's name",
            hint="use 1 to 40 of a-z, 0-9 and _, with a letter first",
        )


@attrs.frozen(kw_only=True)
class PrivateDirOptions:
    """
    The options of every step that keeps something in the saga's private directory.

    Attributes:
        name: Needed by the second step of a type in one deployment; names its placeholders.
        directory: The parent of the private directory; None for a deployment's own place.
    """

    name: str = attrs.field(default="", validator=check_name)
    directory: str | os.PathLike[str] | None = None

    def saga_dir(self, ctx: Context) -> Path:
        """
        Return the saga's private directory. Creates nothing.

        Its name contains the saga's id, so no other saga has it.

        Raises:
            InvalidInput: Neither *directory* nor a deployment defines the place.
        """
        if self.directory is not None:
            owner = "_".join(filter(None, ("oc", str(ctx.values.get("root_id", "")), ctx.saga_id)))
            return paths.absolute("the directory", self.directory, expand_user=True) / owner
        if "held" not in ctx.values:
            raise InvalidInput(
                "outside of a deployment the step has no directory", hint="give one: directory=…"
            )
        return Path(ctx.values["held"])

    def verify(self, receipt: Any, saga_id: str, labels: Mapping[str, Any]) -> Any:  # noqa: ANN401 - as below
        """
        Return the receipt, whose path must lie in the saga's private directory.

        Raises:
            ReceiptRefused: The path lies elsewhere.
        """
        check_place(receipt.path, naming_id(saga_id, labels))
        return receipt

    def probe(self, receipt: Any) -> Presence:  # noqa: ANN401 - a receipt with a path
        """Return whether the receipt's path exists; no other saga has this path."""
        return Presence.OURS if durable.exists(receipt.path) else Presence.ABSENT


def check_place(path: str, owner: str) -> None:
    """
    Check that *path* lies in the private directory of the saga *owner*, which has its id as name.

    The owner of the directory can use it afterwards.

    Raises:
        ReceiptRefused: The path lies elsewhere, or a symlink leads there.
    """
    place = Path(path).parent
    is_named = re.fullmatch(rf"(?:oc_(?:[A-Za-z0-9]+_)?)?{re.escape(owner)}", place.name)
    if not (is_named and os.path.isabs(path) and os.path.normpath(path) == path):  # noqa: PTH117 - a string
        raise ReceiptRefused(f"{path!r:.200} is not in a private directory of {owner!r}")
    make_usable(place)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if not stat.S_ISDIR(os.lstat(place).st_mode):
            raise ReceiptRefused(f"{str(place)!r:.200} is not a directory, and is not followed")


def make_private(directory: Path) -> None:
    """
    Create *directory*, unless it is this user's own and closed to others already.

    Raises:
        StorageError: The name belongs to a symlink, a file, another user, or an open directory.
    """
    durable.make_directory(directory)
    if directory.lstat().st_mode & 0o077:
        raise StorageError(f"{directory} is open to others", hint=f"chmod 700 {directory}")


def is_directory(path: str | os.PathLike[str]) -> bool:
    """
    Return whether *path* is a directory; a symlink to one is not.

    Raises:
        OSError: The answer is unknown.
    """
    try:
        return stat.S_ISDIR(os.lstat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def make_usable(place: Path) -> None:
    """
    Let the owner use the private directory *place* again, whatever mode an agent gave it.

    Raises:
        OSError: It has another owner, or the answer is unknown.
    """
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        try:
            tree.make_writable(place)
        except PermissionError:
            if place.parent.name != "held":
                raise
            tree.make_writable(place.parent)
            tree.make_writable(place)


def remove(path: Path) -> int | None:
    """
    Remove what is at *path* in a private directory, durably; return its size, None if nothing was.

    An agent may have put anything there: a directory for a file, a symlink for a directory.

    Raises:
        OSError: It cannot be removed.
    """
    make_usable(path.parent)
    try:
        return tree.remove_tree(path)
    except FileNotFoundError:
        return None


def remove_if_empty(directory: Path) -> None:
    """Remove *directory*, durably, unless it contains something."""
    with contextlib.suppress(OSError, StorageError):
        directory.rmdir()
        durable.fsync_directory(directory.parent)
