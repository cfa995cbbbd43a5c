"""The simulator as a test holds it: a process of its own, and its control endpoints as methods."""

import subprocess
from pathlib import Path
from typing import Any

from gpd_simulator.process import GpdSimulator

from .service import BIZ_BASE, FDR_BASE


class FdrSimulator(GpdSimulator):
    """A running simulator; use `start`, and `stop` or a `with` block."""

    package = Path(__file__).parent

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        super().__init__(process, port)
        self.fdr_url = f"{self.base_url}{FDR_BASE}"
        self.biz_url = f"{self.base_url}{BIZ_BASE}"

    def publish_while_paging(self, after: int, **order: Any) -> None:
        """Once `after` more lists were answered: `flows` are published, those named in `remove` go."""
        self.load(publish_while_paging={"after": after, **order})
