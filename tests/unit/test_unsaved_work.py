"""What an agent has done in its worktree is not removed, and no program of its making runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from orchestrator_core.exceptions import InvalidInput
from orchestrator_core.resources import GitWorktree, step_registry
from orchestrator_core.resources.worktree import GitWorktreeReceipt
from orchestrator_core.saga import Sagas, Unwind

DONE = Unwind.terminal("it is over")
PRECIOUS = "hours of work\n"


def git(where, *arguments, **how):
    author = ["-c", "user.name=A", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    command = ["git", *author, *arguments]
    return subprocess.check_output(command, cwd=where, text=True, **how).strip()


@pytest.fixture
def repository(tmp_path):
    """A repository whose agents' worktrees are in an ignored directory of it."""
    made = tmp_path / "repository"
    git(tmp_path, "init", "-q", str(made))
    (made / "file").write_text("one\n")
    (made / "other").write_text("one\n")
    (made / ".gitignore").write_text("/held\n*.o\n*.env\n/results/\n")
    git(made, "add", ".")
    git(made, "commit", "-q", "-m", "one")
    return made


@pytest.fixture
def hold(repository, tmp_path):
    """Return a function that takes a worktree, and returns its saga and its receipt."""

    begun = []

    def take(**how):
        step = GitWorktree(repository, **how)
        sagas = Sagas(tmp_path / "sagas", steps=step_registry.StepRegistry([]))
        begun.append(sagas.begin("s", [step], values={"held": str(repository / "held" / "s")}))
        begun[0].run()
        begun[0].commit()
        return begun[0], begun[0].receipt(GitWorktreeReceipt)

    yield take
    for saga in begun:
        saga.release()


def precious_files(place):
    return [path for path in place.rglob("precious") if path.read_text() == PRECIOUS]


# --- what keeps a worktree ----------------------------------------------------------------------


def without_git_file(tree):
    """Git then answers for the repository around the worktree, where nothing has changed."""
    (tree / ".git").unlink()
    (tree / "precious").write_text(PRECIOUS)


def with_a_repository_of_its_own(tree):
    (tree / ".git").unlink()
    git(tree, "init", "-q")
    (tree / "precious").write_text(PRECIOUS)
    git(tree, "add", "precious")
    git(tree, "commit", "-q", "-m", "mine")


def with_another_git_file(tree):
    """The other repository calls the worktree clean."""
    other = tree.parent / "other"
    git(tree.parent, "clone", "-q", str(tree.parents[2]), str(other))
    (tree / ".git").write_text(f"gitdir: {other / '.git'}\n")
    (tree / "precious").write_text(PRECIOUS)
    (other / ".git" / "info" / "exclude").write_text("precious\n")


def marked_as_skipped(tree):
    git(tree, "update-index", "--skip-worktree", "file")
    (tree / "file").write_text(PRECIOUS)
    (tree / "file").rename(tree / "precious")
    (tree / "precious").rename(tree / "file")


def marked_as_unchanged(tree):
    git(tree, "update-index", "--assume-unchanged", "file", "other")
    (tree / "file").unlink()
    (tree / "file").symlink_to("precious")


def locked(tree):
    git(tree, "worktree", "lock", "--reason", "look at it", str(tree))


def in_a_rebase(tree):
    """The rebase has stopped; its tree is clean."""
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    git(tree, "rebase", "-q", "-i", "HEAD~1", env={**os.environ, "GIT_SEQUENCE_EDITOR": "echo b>"})


def on_a_private_ref(tree):
    git(tree, "commit", "-q", "--allow-empty", "-m", "two")
    git(tree, "update-ref", "refs/worktree/mine", "HEAD")
    git(tree, "reset", "-q", "--hard", "HEAD~1")


def in_a_submodule(tree):
    """The submodule's repository is in the worktree itself."""
    git(tree, "init", "-q", "module")
    git(tree / "module", "commit", "-q", "--allow-empty", "-m", "one")
    git(tree, "add", "module", stderr=subprocess.DEVNULL)
    git(tree, "commit", "-q", "-m", "module")
    git(tree.parents[2], "merge", "-q", "--ff-only", "agent/s")
    (tree / "module" / "precious").write_text(PRECIOUS)


@pytest.mark.parametrize(
    ("work", "named"),
    [
        (without_git_file, ".git"),
        (with_a_repository_of_its_own, ".git"),
        (with_another_git_file, ".git"),
        (marked_as_skipped, "overlook: file"),
        (marked_as_unchanged, "overlook: file"),
        (locked, "locked"),
        (in_a_rebase, "unfinished rebase"),
        (on_a_private_ref, "commits on no branch"),
        (in_a_submodule, "submodules"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_work_that_git_status_does_not_show_keeps_the_worktree(hold, repository, work, named):
    saga, made = hold()
    work(Path(made.path))
    before = sorted(map(str, Path(made.path).rglob("*")))

    step = saga.unwind(DONE).steps[0]

    assert "left" == step.result
    assert made.path in step.detail["kept"]
    assert named in step.detail["kept"]
    assert before == sorted(map(str, Path(made.path).rglob("*")))
    assert made.entry.is_dir()
    assert git(repository, "rev-parse", "--verify", "refs/heads/agent/s")


def test_a_worktree_that_was_moved_is_kept_where_it_is(hold, tmp_path):
    """Git knows it there: neither its directory nor its entry is removed."""
    saga, made = hold()
    away = tmp_path / "away"
    git(made.path, "worktree", "move", made.path, str(away))
    (away / "precious").write_text(PRECIOUS)

    step = saga.unwind(DONE).steps[0]

    assert ("left", str(away)) == (step.result, step.detail["path"])
    assert f"moved to {away}" in step.detail["kept"]
    assert "?? precious" == git(away, "status", "--porcelain")
    assert "agent/s" == git(away, "branch", "--show-current")


def test_a_worktree_whose_directory_is_gone_is_forgotten_unless_the_repository_holds_work(
    hold, repository
):
    saga, made = hold()
    (Path(made.path) / "precious").write_text(PRECIOUS)
    git(made.path, "add", "precious")
    Path(made.path).rename(repository.parent / "away")

    step = saga.unwind(DONE).steps[0]

    assert "left" == step.result
    assert "its index" in step.detail["kept"]
    assert "precious" in git(repository, f"--git-dir={made.entry}", "ls-files")


def test_a_worktree_whose_directory_is_gone_and_held_nothing_is_removed(hold, repository):
    saga, made = hold()
    Path(made.path).rename(repository.parent / "away")

    assert "undone" == saga.unwind(DONE).steps[0].result

    assert not made.entry.exists()


def test_a_stash_is_reported_and_stays(hold, repository):
    """Stashes belong to the repository. The user has one as well, which is not the agent's."""
    (repository / "file").write_text("mine\n")
    git(repository, "stash")
    saga, made = hold()
    for message in ([], ["-m", "for later"]):
        (Path(made.path) / "file").write_text(PRECIOUS)
        git(made.path, "stash", "push", *message)

    step = saga.unwind(DONE).steps[0]

    assert "left" == step.result
    assert 2 == step.detail["kept"].count("stash@")
    assert "On agent/s: for later" in step.detail["kept"]
    assert "WIP on agent/s" in step.detail["kept"]
    assert 3 == len(git(repository, "stash", "list").splitlines())
    assert not Path(made.path).exists()


# --- ignored files --------------------------------------------------------------------------------


def test_ignored_files_that_the_step_names_are_work(hold):
    saga, made = hold(keep_ignored=["*.env", "results/"])
    tree = Path(made.path)
    (tree / "built.o").touch()
    (tree / "results").mkdir()
    (tree / "results" / "precious").write_text(PRECIOUS)

    step = saga.unwind(DONE).steps[0]

    assert "left" == step.result
    assert "results/precious" in step.detail["kept"]
    assert [tree / "results" / "precious"] == precious_files(tree)


def test_other_ignored_files_are_removed_and_the_report_names_them(hold):
    saga, made = hold(keep_ignored=["*.env", "results/"])
    (Path(made.path) / "built.o").touch()
    (Path(made.path) / "é.o").touch()

    step = saga.unwind(DONE).steps[0]

    assert ("undone", ["built.o", "é.o"]) == (step.result, step.detail["ignored"])
    assert not Path(made.path).exists()


def test_one_string_of_patterns_is_refused():
    with pytest.raises(InvalidInput, match="one string"):
        GitWorktree(keep_ignored="*.env")


# --- converted files ------------------------------------------------------------------------------


@pytest.mark.parametrize("work", [False, True], ids=["unchanged", "changed"])
def test_a_large_file_is_compared_with_its_pointer(hold, repository, work):
    """Git LFS stores a pointer, and its filter writes the file: git alone sees a change."""
    oid = hashlib.sha256(b"large\n").hexdigest()
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 6\n"
    (repository / "large.bin").write_text(pointer)
    git(repository, "add", "large.bin")
    (repository / ".gitattributes").write_text("*.bin filter=lfs\n")
    git(repository, "add", ".gitattributes")
    git(repository, "commit", "-q", "-m", "large")
    git(repository, "config", "filter.lfs.smudge", "cat >&2; echo large")
    git(repository, "config", "filter.lfs.clean", f"cat >&2; printf '{pointer}'")
    saga, made = hold()
    large = Path(made.path) / "large.bin"
    assert "large\n" == large.read_text()
    large.write_text("other\n" if work else "large\n")

    step = saga.unwind(DONE).steps[0]

    assert ("left" if work else "undone") == step.result
    assert large.exists() is work


# --- no program runs ------------------------------------------------------------------------------


@pytest.fixture
def program(tmp_path):
    """A program that leaves a mark when it runs."""
    made = tmp_path / "program"
    made.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\ncat\n")
    made.chmod(0o755)
    return made


def configured(where, program, *, attributes):
    """Let a git directory's configuration run *program* wherever git can run one."""
    keys = {
        "core.fsmonitor": str(program),
        "core.hooksPath": str(program.parent / "hooks"),
        "core.pager": str(program),
        "filter.mine.clean": str(program),
        "filter.mine.smudge": str(program),
        "filter.mine.required": "true",
        "filter.their=odd.name.process": str(program),
        "gpg.program": str(program),
        "log.showSignature": "true",
        "protocol.ext.allow": "always",
        "status.submoduleSummary": "true",
    }
    for key, value in keys.items():
        git("/", f"--git-dir={where}", "config", key, value)
    hooks = program.parent / "hooks"
    hooks.mkdir(exist_ok=True)
    for name in ("reference-transaction", "post-index-change", "post-checkout"):
        (hooks / name).unlink(missing_ok=True)
        (hooks / name).symlink_to(program)
    attributes.write_text("* filter=mine\nother filter=their=odd.name\n")


@pytest.mark.parametrize("work", [False, True], ids=["clean", "changed"])
def test_the_configuration_of_the_repository_runs_nothing(hold, repository, program, work):
    saga, made = hold()
    tree = Path(made.path)
    configured(repository / ".git", program, attributes=repository / ".git" / "info" / "attributes")
    if work:
        (tree / "file").write_text(PRECIOUS)
    for name in ("file", "other"):
        os.utime(tree / name, (1, 1))

    step = saga.unwind(DONE).steps[0]

    assert not program.with_name("ran").exists()
    assert ("left" if work else "undone") == step.result
    assert tree.exists() is work


@pytest.mark.parametrize("replaced", [".git", "commondir"])
def test_another_configuration_in_the_place_of_the_repositorys_runs_nothing(
    hold, repository, program, replaced
):
    """The agent lets its worktree, or the worktree's entry, lead to a repository of its own."""
    saga, made = hold()
    tree, evil = Path(made.path), repository.parent / "evil"
    git(repository.parent, "clone", "-q", str(repository), str(evil))
    configured(evil / ".git", program, attributes=tree / ".gitattributes")
    if replaced == ".git":
        (tree / ".git").write_text(f"gitdir: {evil / '.git'}\n")
    else:
        (made.entry / "commondir").write_text(f"{evil / '.git'}\n")
    (tree / "file").write_text("other\n")

    step = saga.unwind(DONE).steps[0]

    assert "left" == step.result
    assert not program.with_name("ran").exists()
