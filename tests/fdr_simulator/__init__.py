"""A simulator of the FdR API and of BizEvents, with their quirks and failures, made as `gpd_simulator` is.

It runs as a process of its own, on the loopback address, with the standard library alone, and imports nothing of the
station:

    with FdrSimulator.start(tmp_path, {"generate": {"org": "77777777777", "flows": 20, "payments": 50}}) as fdr:
        ...call fdr.fdr_url with the key "fdr-key", fdr.biz_url with "biz-key"...
        fdr.fault(endpoint="payments", times=3, status=503)
        assert fdr.stats()["by_status"] == {...}

`flows` holds what is published, `service` answers; the rest is `gpd_simulator`'s. A scenario is a JSON object, all
parts optional; `load` adds parts later:

- `settings`: see `service.Settings`
- `keys`, `biz_keys`: key to `"*"`, a list of organisations, or `{orgs, denied}`
- `flows`: `{org, fdr, psp, revision, published, flow_date, payments}` and, where they differ from what is usual,
  `regulation`, `receiver` (`{id, organizationId, organizationName}`), `sender` (fields on top), `disabled` (its PSP:
  400 FDR-2001), `extra` (fields on top of the answer), `lost` (so many of its payments are not listed). A payment:
  `{iuv, iur, amount}` (euro as text) and `id_transfer`, `status`, `date`
- `generate`: one or a list of `{org, flows, payments, first, days, psp, seed}`: so many flows of so many payments, over
  the last days; flow n has payment `make_payment(org, n, m)`
- `receipts`: what BizEvents has: `{iur, ecs, body}`, or `{org, n, seed, ...}` as for `make_receipt`, with more `ecs`
- `faults`: see `gpd_simulator.faults.Fault`; its `iuv` is the flow's name or the IUR
- `publish_while_paging`: `{after, flows, remove}`: once `after` more lists were answered (`remove`: names)
- `down`: a fault for every call

Whatever speaks HTTP can steer it by JSON under `/_control/`, as it can `gpd_simulator`; there is no `pay`, and `remove`
takes `{org, fdr}`. Its statistics count calls by key and endpoint (`fdr-key/flows`).
"""

from .flows import biz_body, make_flow, make_payment
from .process import FdrSimulator

__all__ = ["FdrSimulator", "biz_body", "make_flow", "make_payment"]
