"""The command line: `PYTHONPATH=tests python -m fdr_simulator --port 0 --print-port --scenario FILE`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from gpd_simulator.__main__ import main

from fdr_simulator.service import FdrService

main(FdrService(), "fdr_simulator", "Simulates the FdR API and BizEvents.")
