"""A simulator of the Nodo as a sender of receipts, and the checker that compares its ledger with the database.

It runs as a process of its own and imports nothing of the station:

    with NodoSimulator.start(tmp_path, [server.url], seed=1, rate=50) as nodo:
        ...kill, stop and freeze whatever there is...
        nodo.finish()                       # no new payments; returns when every copy is final or given up
    problems = check(nodo.ledger, database_url)

`payments` makes payments and the copies of their receipts, `wire` sends one copy and reads the answer, `sender` keeps
copies on their way as the Nodo does, `ledger` is what it writes down, `process` starts and stops it for a test,
`checker` compares.

As the Nodo does: the receipt of a payment goes to several ECs and stations, in the same `receipt` element; an answer is
waited for 15 s; OK and KO are final; a timeout, a broken connection, an HTTP error, a SOAP fault and an answer that is
not valid make it send the copy again, 48 times at most, with pauses (an hour there, a second here). And as senders do
now and then: the connection is given up in the midst of a request, or before its answer is read.

By hand: `python -m tests.nodo_simulator --url http://127.0.0.1:8080/paForNode --ledger FILE --seed 1 --payments 100`.
"""

from .checker import Report, check
from .ledger import Ledger, read
from .process import NodoSimulator

__all__ = ["Ledger", "NodoSimulator", "Report", "check", "read"]
