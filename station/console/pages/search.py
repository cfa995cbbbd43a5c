"""Cerca: one box for whatever a clerk has in hand."""

from flask import Blueprint, render_template

pages = Blueprint("search", __name__)


@pages.get("/")
def search() -> str:
    """Show the page."""
    return render_template("search.html")
