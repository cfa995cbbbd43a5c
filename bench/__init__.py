"""How fast the station is, measured as an operator would run it. `python -m bench --help` tells what there is."""
