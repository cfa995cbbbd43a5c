"""Consegne: how receipts reach the EC's own systems."""

from flask import Blueprint, render_template

pages = Blueprint("deliveries", __name__)


@pages.get("/consegne")
def destinations() -> str:
    """Show the page."""
    return render_template("deliveries.html")
