"""Da controllare: what a person has to decide."""

from flask import Blueprint, render_template

pages = Blueprint("attention", __name__)


@pages.get("/da-controllare")
def attention() -> str:
    """Show the page."""
    return render_template("attention.html")
