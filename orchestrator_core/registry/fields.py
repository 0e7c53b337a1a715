"""The fields of registries by how they may change: for a merge of several versions."""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# --- of an agent's record ---------------------------------------------------------------------

#: Never change after the record is first written.
IMMUTABLE = _names("id type tmux_session started_at prompt key deadline_at tracked_files")

#: Exist only after the agent's end.
TERMINAL = _names(
    "completed_at end_reason exit_code exit_signal terminated_at termination_reason "
    "auto_cleanup_result auto_cleanup_timestamp auto_cleanup_error"
)

RECORD = IMMUTABLE | TERMINAL | _names("parent depth status progress message last_update")

# --- of a document ----------------------------------------------------------------------------

#: The fields of entries, and the counters that are derived from them.
TASK_CONTENT = _names("agents agent_hierarchy total_spawned active_count completed_count")
GLOBAL_CONTENT = _names(
    "tasks agents ended past_tasks total_tasks active_tasks total_agents_spawned active_agents"
)

#: Describe one copy of a document.
PER_COPY = _names("schema_version damaged")

#: Occur only at the top level of a document.
TOP_LEVEL = (
    TASK_CONTENT
    | GLOBAL_CONTENT
    | PER_COPY
    | _names(
        "task_description workspace workspace_base client_cwd priority "
        "max_agents max_depth max_concurrent"
    )
)
