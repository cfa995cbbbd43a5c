"""How fast the station is, measured as an operator would run it. Each module has a `--help`; `make` lists targets."""

import sys
from pathlib import Path

# The builder of receipts and the starter of processes belong to the tests, which are no package.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
