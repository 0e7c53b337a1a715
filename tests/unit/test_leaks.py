"""What the plugin's ``no_leaks`` takes for a leftover."""

from __future__ import annotations

from orchestrator_core.testing import leaks


def test_the_registries_own_files_are_no_leftover(orchestrator):
    """Writers that met have staged a version beside the registry; it stays for the next one."""
    task = orchestrator.root / orchestrator.create_task("t").id
    for name in (".AGENT_REGISTRY.json.next-1", "AGENT_REGISTRY.json.damaged-1"):
        (task / name).touch(mode=0o600)
    assert [] == leaks(orchestrator)

    (task / "agent_prompt_a.txt").touch(mode=0o600)
    assert [f"file {task.name}/agent_prompt_a.txt"] == leaks(orchestrator)
