"""`station fdr` is killed twenty times in the middle of its walk."""

from pathlib import Path

import pytest
from fdr_job import FdrJob, kill_during_a_walk
from fdr_simulator import FdrSimulator


@pytest.mark.slow
def test_killed_twenty_times(database_url: str, tmp_path: Path) -> None:
    """No flow twice, none lost, on both databases."""
    with FdrSimulator.start(tmp_path) as fdr:
        kill_during_a_walk(FdrJob(fdr, database_url, tmp_path), 20)
