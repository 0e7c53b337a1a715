"""The report of an end."""

import pytest

from orchestrator_core import EndReport
from orchestrator_core.saga import Sagas, Unwind


def test_the_old_name_of_from_unwind_returns_the_same_report_and_warns(tmp_path):
    with Sagas(tmp_path, steps=[]).begin("s", []) as saga:
        report = saga.unwind(Unwind.rollback("never mind"))

    with pytest.warns(DeprecationWarning, match="from_unwind"):
        old = EndReport.of(report)

    assert EndReport.from_unwind(report) == old
