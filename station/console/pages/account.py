"""Signing in and out, by whatever the configuration names."""

from urllib.parse import urlencode

from flask import Blueprint, Request, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from station import config
from station.console import identity

pages = Blueprint("account", __name__)


def user(settings: config.Settings, asked: Request) -> identity.User | None:
    """Return the user who asks, `None` where the user has to sign in."""
    return identity.of_session()


def address_to_sign_in() -> str:
    """Return where a browser without a user is sent, to come back afterwards."""
    back = request.full_path.rstrip("?") if request.method == "GET" else "/"
    return url_for("account.sign_in") + "?" + urlencode({"per": back})


def form_targets(settings: config.Settings) -> str:
    """Return other origins to which a form may lead, for the content-security policy."""
    return ""


@pages.get("/accedi")
def sign_in() -> ResponseReturnValue:
    """Show the form, or send the browser to the identity provider."""
    return render_template("sign_in.html")


@pages.post("/accedi")
def sign_in_local() -> ResponseReturnValue:
    """Take the form with name and password."""
    return redirect("/")


@pages.post("/esci")
def sign_out() -> ResponseReturnValue:
    """End the session."""
    identity.sign_out()
    return redirect(url_for("account.signed_out"))


@pages.get("/uscita")
def signed_out() -> str:
    """Say that the session has ended."""
    return render_template("signed_out.html")
