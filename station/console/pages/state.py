"""Stato: jobs, versions and certificates."""

from flask import Blueprint, render_template

pages = Blueprint("state", __name__)


@pages.get("/stato")
def state() -> str:
    """Show the page."""
    return render_template("state.html")
