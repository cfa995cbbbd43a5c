"""`station` with the clock of `hooks.py`: seconds in the file `clock` of the current folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import hooks

from station.cli import main

hooks.post_worker_init(None)
main()
