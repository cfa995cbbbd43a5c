"""The demonstration: a station, a Nodo and a GPD on loopback, and everything that can happen to a receipt.

The station is the real one, run by its commands. Its peers are small and live here: `payments` (what was paid, and the
documents), `nodo` (pushes them), `platform` (pagoPA's REST services), `receiver` (an EC's own system), `run` (what
happens, step by step), `story` (the asynchronous payment, from the front end to the bank), `office` (the console).
"""

from station.demo.run import run

__all__ = ["run"]
