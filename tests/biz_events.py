"""The JSON with which BizEvents answers for a receipt: it says less than the receipt, its numbers were floats."""

import json
from typing import Any

from build import Request

_ADDRESS = ("streetName", "civicNumber", "postalCode", "city", "stateProvinceRegion", "country")


def a_biz_event(request: Request, **over: Any) -> bytes:
    """What BizEvents says of a receipt; `over` replaces fields of its JSON, `None` leaves them out."""
    receipt = request.receipt

    def subject(told: dict[str, Any]) -> dict[str, Any]:
        return {
            **told["uniqueIdentifier"],
            "fullName": told["fullName"],
            **{name: told[name] for name in _ADDRESS if name in told},
            **({"email": told["e-mail"]} if "e-mail" in told else {}),
        }

    def transfer(told: dict[str, Any]) -> dict[str, Any]:
        names = ("fiscalCodePA", "remittanceInformation", "transferCategory")
        return {
            "idTransfer": int(told["idTransfer"]),
            "transferAmount": float(told["transferAmount"]),
            **{name: told[name] for name in names},
            "iban": told.get("IBAN"),
            "mbdAttachment": None,
        }

    texts = (
        "receiptId", "noticeNumber", "fiscalCode", "creditorReferenceId", "description", "companyName", "officeName",
        "idPSP", "pspFiscalCode", "pspPartitaIVA", "idChannel", "channelDescription", "paymentMethod",
        "applicationDate", "transferDate",
    )  # fmt: skip
    body = {
        **{name: receipt[name] for name in texts if name in receipt},
        "outcome": "OK",
        "paymentAmount": float(receipt["paymentAmount"]),
        "fee": float(receipt.get("fee", 0)),
        "pspCompanyName": receipt["PSPCompanyName"],
        "debtor": subject(receipt["debtor"]),
        "payer": subject(receipt["payer"]) if "payer" in receipt else None,
        "transferList": [transfer(one) for one in receipt["transferList"]["transfer"]],
        "paymentDateTime": receipt.get("paymentDateTime", "2026-11-20")[:10],
        **over,
    }
    return json.dumps({name: value for name, value in body.items() if value is not None}).encode()
