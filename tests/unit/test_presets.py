"""Presets: each tool's command line, with the flags that its maker documents."""

from __future__ import annotations

import subprocess
import sys

import attrs
import pytest

from orchestrator_core import AgentSpec
from orchestrator_core.cli import commands
from orchestrator_core.cli.arguments import parser
from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.model.spec import PRESETS
from orchestrator_core.operations.doctor import software
from orchestrator_core.operations.doctor.check import Environment, Verdict
from orchestrator_core.presets import PROGRAMS
from orchestrator_core.presets.options import SpecOptions


def line(preset, **how):
    return " ".join(getattr(AgentSpec, preset)(prompt="do it", **how).command)


CLAUDE = "claude -p --output-format stream-json --verbose"
GEMINI = "gemini --output-format stream-json --prompt={prompt}"


@pytest.mark.parametrize(
    ("preset", "how", "expected"),
    [
        ("claude", {}, CLAUDE),
        ("claude", {"model": "opus"}, f"{CLAUDE} --model opus"),
        ("claude", {"permission_mode": "plan"}, f"{CLAUDE} --permission-mode plan"),
        ("claude", {"resume": "5f1"}, f"{CLAUDE} --resume 5f1"),
        ("claude", {"arguments": ["--add-dir", "-x"]}, f"{CLAUDE} --add-dir -x"),
        ("codex", {}, "codex exec --json -"),
        ("codex", {"model": "gpt-5"}, "codex exec --json --model gpt-5 -"),
        ("codex", {"sandbox": "read-only"}, "codex exec --json --sandbox read-only -"),
        ("codex", {"skip_git_repo_check": True}, "codex exec --json --skip-git-repo-check -"),
        ("codex", {"resume": "0199"}, "codex exec --json resume 0199 -"),
        ("codex", {"arguments": ["-i", "a.png"]}, "codex exec -i a.png --json -"),
        ("gemini", {}, GEMINI),
        ("gemini", {"stdin": True}, "gemini --output-format stream-json"),
        ("gemini", {"model": "flash"}, f"{GEMINI} --model flash"),
        ("gemini", {"approval_mode": "auto_edit"}, f"{GEMINI} --approval-mode auto_edit"),
        ("gemini", {"sandbox": True}, f"{GEMINI} --sandbox"),
        ("gemini", {"resume": "latest"}, f"{GEMINI} --resume latest"),
        ("gemini", {"arguments": ["--skip-trust"]}, f"{GEMINI} --skip-trust"),
        ("shell", {}, "sh {prompt_file}"),
        ("shell", {"arguments": ["-x", "two"]}, "sh {prompt_file} -x two"),
        ("shell", {"program": "bash"}, "bash {prompt_file}"),
    ],
)
def test_each_option_becomes_the_documented_arguments(preset, how, expected):
    """Each preset's module names the maker's pages."""
    assert expected == line(preset, **how)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_spec_names_the_preset_of_its_stream(preset):
    """The result is read with that preset. The preset's name is the default of the agent's type."""
    spec = getattr(AgentSpec, preset)(prompt="do it")

    assert (preset, preset, "do it") == (spec.preset, spec.type, spec.prompt)
    # The shell reads the script from its file; Gemini CLI gets the prompt as an argument.
    assert (preset in {"claude", "codex"}) is spec.stdin


@pytest.mark.parametrize(
    ("prompt", "is_argument"),
    [
        ("-x --yolo", True),
        ("{task_id} {prompt}", True),
        ("ü" * 65_530, True),
        ("ü" * 65_536, False),
        ("a\0b", False),
    ],
)
def test_geminis_prompt_is_one_argument_whatever_it_is_up_to_the_kernels_limit(prompt, is_argument):
    """Beyond, it is on standard input, for which Gemini CLI waits half a second only."""
    spec = AgentSpec.gemini(prompt=prompt)
    argv = spec.argv({"task_id": "t", "prompt": prompt, "prompt_file": "p"})

    assert is_argument is not spec.stdin
    assert is_argument is (f"--prompt={prompt}" in argv)
    if is_argument:
        assert 0 == subprocess.run(["/bin/true", *argv], check=False).returncode


@pytest.mark.parametrize("prompt", ["x" * (1 << 20), "a\0b"])
def test_a_prompt_that_no_argument_can_hold_is_refused_before_anything_is_taken(prompt):
    with pytest.raises(InvalidInput, match="the prompt cannot be an argument"):
        AgentSpec(type="a", prompt=prompt, command=["true", "--do={prompt}"])


BYPASSES = [
    {"permission_mode": "bypassPermissions"},
    {"arguments": ["--dangerously-skip-permissions"]},
    {"arguments": ["--permission-mode", "bypassPermissions"]},
]


@pytest.mark.parametrize("how", BYPASSES)
def test_root_learns_before_the_start_that_claude_refuses_to_bypass_permissions(monkeypatch, how):
    """In a container that confines the agent, root sets a variable, for the agent or for itself."""
    monkeypatch.delenv("IS_SANDBOX", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 0)
    with pytest.raises(InvalidInput, match="to root") as refusal:
        AgentSpec.claude(prompt="p", **how)

    assert "another user" in refusal.value.hint
    assert "IS_SANDBOX=1" in refusal.value.hint
    assert AgentSpec.claude(prompt="p", env={"IS_SANDBOX": "1"}, **how)
    monkeypatch.setenv("IS_SANDBOX", "1")
    assert AgentSpec.claude(prompt="p", **how)
    with pytest.raises(InvalidInput, match="to root"):
        AgentSpec.claude(prompt="p", env={"IS_SANDBOX": "0"}, **how)


@pytest.mark.parametrize("how", BYPASSES)
def test_an_ordinary_user_may_bypass_permissions(monkeypatch, how):
    monkeypatch.setattr("os.getuid", lambda: 1000)

    assert AgentSpec.claude(prompt="p", **how)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_takes_every_option_of_a_spec(preset):
    """A deadline, for example, does not need a hand-written spec."""
    own = {"type", "prompt", "command", "stdin", "preset"}
    taken = {field.name for field in attrs.fields(AgentSpec)} - own
    given = {"cwd": "/", "env": {"A": "b"}, "parent": "p-1", "key": "k"}
    given |= {"deadline_s": 5.0, "linger_s": 7.0, "silent_after_s": 6.0}

    spec = getattr(AgentSpec, preset)(prompt="do it", type="other", **given)

    assert taken == set(SpecOptions.__annotations__)
    assert {**given, "type": "other"} == {name: getattr(spec, name) for name in [*given, "type"]}


@pytest.mark.parametrize("value", ["", "-", "--dangerously-skip-permissions"])
@pytest.mark.parametrize(
    ("preset", "option"),
    [
        ("claude", "model"),
        ("claude", "permission_mode"),
        ("claude", "resume"),
        ("codex", "model"),
        ("codex", "sandbox"),
        ("codex", "resume"),
        ("gemini", "model"),
        ("gemini", "approval_mode"),
        ("gemini", "resume"),
    ],
)
def test_a_value_that_looks_like_a_flag_is_refused(preset, option, value):
    """A caller that may choose the model cannot choose the permissions with it."""
    with pytest.raises(InvalidInput, match="must not be empty or start with a dash"):
        line(preset, **{option: value})


def test_an_unknown_preset_is_refused():
    """No parser could read the agent's result."""
    with pytest.raises(InvalidInput, match="is no preset"):
        AgentSpec(type="a", prompt="do it", command=["true"], preset="hal")


def test_presets_are_imported_when_they_are_used():
    """A process that only deploys imports no stream parser either."""
    program = (
        "import sys, orchestrator_core.model.spec, orchestrator_core.orchestrator\n"
        "print([n for n in sys.modules if '.presets' in n])"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "[]" == loaded.stdout.strip()


# --- their programs ----------------------------------------------------------------------------


def on_path(place, *names):
    for name in names:
        (place / name).write_text("#!/bin/sh\n")
        (place / name).chmod(0o755)
    return {"PATH": str(place)}


@pytest.mark.parametrize("preset", PROGRAMS)
def test_a_missing_program_is_refused_with_a_remedy(preset, tmp_path):
    """The hint has the command that installs the program. For another command, the hint has
    the directories that were searched."""
    spec = getattr(AgentSpec, preset)(prompt="do it", env={"PATH": str(tmp_path)})

    with pytest.raises(InvalidInput) as refused:
        spec.program()
    assert PROGRAMS[preset].install in refused.value.hint

    with pytest.raises(InvalidInput) as refused:
        attrs.evolve(spec, command=["other"]).program()
    assert PROGRAMS[preset].install not in refused.value.hint


def test_the_doctor_lists_the_installed_programs(tmp_path):
    """A missing program is no failure. The remedy has the command that installs the program."""
    env = on_path(tmp_path, "claude", "gemini")

    answer = software.agent_programs(Environment(None, "", "", env, 1.0))

    assert Verdict.OK is answer.verdict
    assert f"claude at {tmp_path}/claude, gemini at {tmp_path}/gemini, no codex" == answer.found
    assert f"for codex: {PROGRAMS['codex'].install}" == answer.remedy


def test_the_doctor_has_no_remedy_when_all_programs_are_installed(tmp_path):
    env = on_path(tmp_path, *PROGRAMS)

    assert "" == software.agent_programs(Environment(None, "", "", env, 1.0)).remedy


# --- on the command line -----------------------------------------------------------------------

NEW = ("deploy", "--new-task", "t", "--type", "a", "--prompt", "do it")


def spec_of(*arguments):
    return commands._spec(parser().parse_args([*NEW, *arguments]))


def test_the_command_line_takes_a_preset_instead_of_a_command():
    """The words after the dashes are the preset's further arguments."""
    spec = spec_of("--preset", "claude", "--model", "opus", "--", "--add-dir", "../lib")

    assert f"{CLAUDE} --model opus --add-dir ../lib" == " ".join(spec.command)
    assert ("a", "claude") == (spec.type, spec.preset)


def test_the_command_line_takes_a_command_without_a_preset():
    """The words after the dashes are the argv."""
    assert ("sleep", "1") == spec_of("--", "sleep", "1").command


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "no command for the agent"),
        (("--model", "opus", "--", "claude"), "--model is given without --preset"),
        (("--preset", "shell", "--model", "opus"), "no model"),
    ],
)
def test_the_command_line_refuses_arguments_that_make_no_agent(arguments, complaint):
    """The message names what is missing or superfluous."""
    with pytest.raises(InvalidInput, match=complaint):
        spec_of(*arguments)
