"""Ricevuta: everything that is stored of a receipt."""

from flask import Blueprint, g, render_template

pages = Blueprint("receipt", __name__)


@pages.get("/ricevute/<id_pa>/<path:receipt_id>")
def receipt(id_pa: str, receipt_id: str) -> str:
    """Show a receipt."""
    g.scope.require(id_pa)
    return render_template("receipt.html")
