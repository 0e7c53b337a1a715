"""
The commands that :mod:`.tmux` sends to a server, as argument vectors of the tmux program.

No argument is interpreted by a shell, and each session is addressed by its exact name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from orchestrator_core.system.names import check_argv
from orchestrator_core.system.presence import Presence

if TYPE_CHECKING:
    from collections.abc import Sequence

OWNER_OPTION: Final = "@orchestrator_owner"
"""The tmux user option of a session that holds its owner."""

# A session's name has neither ":" nor a newline. Its owner may be set to any text by
# anybody, so it comes last: at worst it spoils its own line.
LISTING = "#{pid}:#{pane_id}:#{pane_pid}:#{session_name}:#{" + OWNER_OPTION + "}"

# A private server stays for a time after the end of its last session. A new server costs the
# next deployment 13 ms, and a session that is created just as the server exits needs another try.
STAY = ("set-option", "-s", "exit-empty", "off")
_LEAVE = "set-option -s exit-empty on"  #: Without sessions, at once; else with the last one.


def start_server(linger_s: float) -> tuple[str, ...]:
    """Return the command that starts a server which exits *linger_s* after its last session."""
    on_close = f"{' '.join(STAY)} ; run-shell -b -d {linger_s:g} -C '{_LEAVE}'"
    return (
        *("start-server", ";", *STAY, ";"),
        *("set-option", "-g", "history-limit", "200", ";"),
        *("set-hook", "-g", "session-closed", on_close, ";"),
        *leave_after(linger_s),
    )


def leave_after(linger_s: float) -> tuple[str, ...]:
    """Return the command by which a server exits in *linger_s*, or later with its last session."""
    return ("run-shell", "-b", "-d", f"{linger_s:g}", "-C", _LEAVE)


def new_session(name: str, owner: str, argv: Sequence[str]) -> tuple[str, ...]:
    """Return one tmux command that starts the session, sets its owner and prints it."""
    # A user's configuration may keep dead panes, or end sessions without a client.
    return (
        *("new-session", "-d", "-P", "-F", LISTING, "-s", name, "-c", "/", "-x200", "-y50"),
        *("-e", f"ORCHESTRATOR_COOKIE={owner}", "--", *_literal_argv(argv), ";"),
        *("set-option", "-t", f"={name}:", OWNER_OPTION, owner, ";"),
        *("set-option", "-t", f"={name}:", "destroy-unattached", "off", ";"),
        *("set-option", "-w", "-t", f"={name}:", "remain-on-exit", "off"),
    )


def kill_if(name: str, condition: str) -> tuple[str, ...]:
    """
    Return a tmux command that kills the session if *condition* holds, and prints the presence.

    The server runs both parts with no command of another client between them.
    """
    ours, foreign = Presence.OURS.value, Presence.FOREIGN.value
    return (
        *("if-shell", "-F", "-t", f"={name}:", condition),
        f"kill-session -t ={name} ; display-message -p {ours}",
        f"has-session -t ={name} ; display-message -p {foreign}",
    )


def _literal_argv(argv: Sequence[str]) -> list[str]:
    """Return *argv* such that tmux passes each element on unchanged, without a shell."""
    if len(check_argv(argv)) == 1:
        # tmux passes a single word to a shell; this shell only executes the program.
        argv = ["/bin/sh", "-c", 'exec "$0"', *argv]
    # A ";" at the end of an argument would end the tmux command.
    return [arg[:-1] + "\\;" if arg.endswith(";") else arg for arg in argv]
