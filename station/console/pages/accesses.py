"""Accessi: who looked up whom."""

from flask import Blueprint, render_template

pages = Blueprint("accesses", __name__)


@pages.get("/accessi")
def accesses() -> str:
    """Show the page."""
    return render_template("accesses.html")
