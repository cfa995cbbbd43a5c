"""Accrediti: what pagoPA credited, and what is missing."""

from flask import Blueprint, render_template

pages = Blueprint("credited", __name__)


@pages.get("/accrediti")
def flows() -> str:
    """Show the page."""
    return render_template("credited.html")
