"""
Presets: the agents that people run, with the flags and streams that their makers document.

Each preset is one module with one public function, which
:class:`~orchestrator_core.AgentSpec` has as well: ``AgentSpec.claude(prompt="…")``. The
function returns a spec like any other. The module's docstring names the published page of
every flag and the date on which it was read. Beside the function stands the parser of the
JSON lines that the tool writes: :mod:`.log_reader` applies it to an agent's log and
returns an :class:`~orchestrator_core.AgentResult`.

:data:`PROGRAMS` names the program of each preset and how it is installed.
"""

from __future__ import annotations

from orchestrator_core.model.preset_programs import PROGRAMS, Program

__all__ = ["PROGRAMS", "Program"]
