"""The owner's settings file: its values apply, misspelled keys and unsafe modes are refused."""

from __future__ import annotations

import pytest

from orchestrator_core.exceptions import InvalidInput, StorageError
from orchestrator_core.model import settings


def write(root, text: str, mode: int = 0o600):
    path = root / settings.NAME
    path.write_text(text)
    path.chmod(mode)
    return path


def test_a_root_without_the_file_has_the_defaults(tmp_path):
    assert settings.Settings() == settings.read(tmp_path)
    assert 7.0 == settings.read(tmp_path).retention.days


def test_a_value_in_the_file_applies_and_the_other_defaults_stay(tmp_path):
    write(tmp_path, '[retention]\nfiles = 100\n[alerts]\ncommand = ["/bin/mail", "me"]\n')
    settings.approve(tmp_path)

    found = settings.read(tmp_path)

    assert 100 == found.retention.files
    assert 7.0 == found.retention.days
    assert ("/bin/mail", "me") == found.alerts.command


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[retenshun]\ndays = 1\n", "retenshun"),
        ("[retention]\ndayz = 1\n", "dayz"),
        ('[retention]\ndays = "a week"\n', "days"),
        ("retention = 7\n", "retention"),
        ("[retention\n", "orchestrator.toml"),
    ],
)
def test_an_unknown_or_invalid_setting_is_refused_by_name(tmp_path, text, named):
    write(tmp_path, text)

    with pytest.raises(InvalidInput, match=named):
        settings.read(tmp_path)


def test_a_file_that_others_can_write_is_refused_because_it_names_commands(tmp_path):
    write(tmp_path, "", mode=0o666)

    with pytest.raises(StorageError, match="written by others"):
        settings.read(tmp_path)


def test_a_symlink_is_not_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("")
    (tmp_path / settings.NAME).symlink_to(tmp_path / "elsewhere")

    with pytest.raises(StorageError, match="symlink"):
        settings.read(tmp_path)
