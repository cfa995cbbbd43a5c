"""Incassi: totals by account."""

from flask import Blueprint, render_template

pages = Blueprint("takings", __name__)


@pages.get("/incassi")
def takings() -> str:
    """Show the page."""
    return render_template("takings.html")
