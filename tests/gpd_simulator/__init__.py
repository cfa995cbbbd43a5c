"""A simulator of the GPD receipts API and of GPD-Core's list of debt positions, with their quirks and failures.

It runs as a process of its own, on the loopback address, with the standard library alone, and imports nothing of the
station:

    with GpdSimulator.start(tmp_path, {"generate": {"org": "77777777777", "count": 10_000}}) as gpd:
        ...call gpd.receipts_url with the key "receipts-key", gpd.core_url with "core-key"...
        gpd.fault(endpoint="receipt", times=3, status=503)
        assert gpd.stats()["by_status"] == {...}

`receipts` makes the documents, `ledger` lists them, `gateway` counts and limits, `faults` says what goes wrong,
`service` answers, `server` writes it to the wire, `process` starts and stops it for a test.

A scenario is a JSON object, all parts optional; `load` adds parts later:

- `settings`: see `service.Settings`
- `keys`, `core_keys`: key to `"*"`, a list of organisations, or `{orgs, segregation_codes, denied}`
- `receipts`: `{org, n, seed}` names a generated receipt; beside them `iuv`, `receipt_id`, `payment_date_time` (null:
  the document has none, and no list shows it), `debtor`, `version`, `start`, `end`, `broker`, `station`,
  `segregation`, `date_zone`, `status`, `xml` (the document as text), `hidden` (takes its place in the page, but is not
  shown), `faulty` (its debt position: each list with it, and the receipt, is a 500), `unpaid` (true or `{calls,
  seconds, listed}`: 422 until then, and shown in no list unless `listed`)
- `generate`: one or a list of `{org, count, seed, from, to, version, first, without, hidden_every, hidden_range,
  unpaid_every, unpaid, date_zone, receipts, positions}`: `make_receipt(org, n, seed, start=from, end=to, ...)` for so
  many n
- `positions`: `{org, n, seed}`, and `iupd`, `iuv`, `nav`, `amount` (cents), `id_receipt`, `payment_date`, `status`
- `faults`: see `faults.Fault`
- `insert_while_paging`: `{after, org, receipts, generate, remove}`
- `down`: a fault for every call

Whatever speaks HTTP can steer it by JSON under `/_control/`; `GpdSimulator` has a method for each: POST `load` and
`reset` (a scenario), `faults`, `down` (a fault), `up`, `pay` and `remove` (`{org, iuv}`); GET `stats`, `log`, `faults`;
DELETE `stats`, `faults`, `faults/NAME`. By hand: `python -m tests.gpd_simulator --port 8099 --scenario FILE`.
"""

from .process import GpdSimulator
from .receipts import make_position, make_receipt, soap_envelope

__all__ = ["GpdSimulator", "make_position", "make_receipt", "soap_envelope"]
