"""
What a new program must not inherit from the environment of the process that starts it.

Most variables configure a user's programs: they are inherited. Others are true for one
process only. They identify it, or lead to what its parent gave it: a repository in the middle
of a commit, a socket of its service manager, an open descriptor, its own terminal. In another
process they are wrong, and programs act on them: Claude Code does not start below another
one, git commits to another branch, a Node program reads from a descriptor that is not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The variables that lead git to one repository: ``git rev-parse --local-env-vars`` of all
#: versions, and those that a hook of a push gets.
GIT_REPOSITORY = frozenset(
    {
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT"),
        *("GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE"),
        *("GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NAMESPACE"),
        *("GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_QUARANTINE_PATH"),
        *("GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE"),
    }
)

#: Those of them that lead to other files than those of the directory in which git runs.
GIT_PLACES = frozenset(
    {
        *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_INDEX_FILE"),
        *("GIT_NAMESPACE", "GIT_OBJECT_DIRECTORY", "GIT_QUARANTINE_PATH", "GIT_WORK_TREE"),
    }
)

#: The window of a terminal multiplexer: its commands would act on the windows of the deployer.
TERMINAL = frozenset(
    {
        *("TMUX", "TMUX_PANE", "STY", "WINDOW", "WINDOWID", "TERM_SESSION_ID", "ITERM_SESSION_ID"),
        *("ZELLIJ", "ZELLIJ_PANE_ID", "ZELLIJ_SESSION_NAME", "KITTY_LISTEN_ON", "KITTY_WINDOW_ID"),
        *("WEZTERM_PANE", "WEZTERM_UNIX_SOCKET"),
    }
)

#: The coding agent, or the editor, in which the deployer runs.
CODING_AGENT = frozenset(
    {
        *("CLAUDECODE", "CLAUDE_CODE_ENTRYPOINT", "CLAUDE_CODE_SESSION_ID"),
        *("CLAUDE_CODE_CHILD_SESSION", "CLAUDE_CODE_SSE_PORT", "CLAUDE_ENV_FILE"),
        *("CODEX_CI", "CODEX_INTERNAL_ORIGINATOR_OVERRIDE", "CODEX_THREAD_ID"),
        *("GEMINI_CLI", "GEMINI_CLI_NO_RELAUNCH", "GEMINI_CLI_IDE_SERVER_PORT"),
        *("OPENCODE", "OPENCODE_PID", "OPENCODE_SERVER", "COPILOT_CLI", "CURSOR_AGENT"),
        *("CURSOR_TRACE_ID", "AI_AGENT"),
        *("VSCODE_PID", "VSCODE_IPC_HOOK", "VSCODE_IPC_HOOK_CLI"),
    }
)

#: The service, the job or the test that the deployer is, for its manager.
SERVICE = frozenset(
    {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "INVOCATION_ID", "JOURNAL_STREAM"),
        *("LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "LISTEN_PIDFDID", "FDSTORE", "MAINPID"),
        *("MANAGERPID", "MANAGERPIDFDID", "SYSTEMD_EXEC_PID"),
        *("MEMORY_PRESSURE_WATCH", "MEMORY_PRESSURE_WRITE"),
        *("UPSTART_FDS", "UPSTART_JOB", "UPSTART_INSTANCE"),
        *("SUPERVISOR_ENABLED", "SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME"),
        *("XPC_SERVICE_NAME", "DBUS_STARTER_ADDRESS", "DBUS_STARTER_BUS_TYPE"),
        *("GIO_LAUNCHED_DESKTOP_FILE", "GIO_LAUNCHED_DESKTOP_FILE_PID"),
        *("DESKTOP_STARTUP_ID", "XDG_ACTIVATION_TOKEN"),
        *("PYTEST_CURRENT_TEST", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"),
        *("NODE_CHANNEL_FD", "NODE_CHANNEL_SERIALIZATION_MODE", "NODE_UNIQUE_ID"),
        *("NODE_APP_INSTANCE", "pm_id", "npm_command", "npm_config_local_prefix", "INIT_CWD"),
        *("__PYVENV_LAUNCHER__", "_", "OLDPWD"),
    }
)

#: All of them: a program gets one only if its own specification sets it.
NOT_INHERITED = GIT_REPOSITORY | TERMINAL | CODING_AGENT | SERVICE

#: The script and the package for which npm or npx runs the deployer.
_PREFIXES = ("npm_lifecycle_", "npm_package_", "PM2_")


def inherited(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of *env* that a new program may have as well."""
    return {
        name: value
        for name, value in env.items()
        if name not in NOT_INHERITED and not name.startswith(_PREFIXES)
    }
