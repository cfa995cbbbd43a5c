"""The plain page for what is wrong: without anything from the database, so that it is there when nothing else is."""

from flask import Response, render_template

PROVIDER = (
    "Il servizio di accesso non risponde",
    "Non è possibile verificare chi sei. Chi ha già effettuato l'accesso può continuare a lavorare: riprova più tardi.",
)


def page_of_error(status: int, title: str, text: str, *, again: bool = False) -> Response:
    """Return a plain page that says what is wrong. With `again` it leads to the sign-in."""
    page = render_template("error.html", title=title, text=text, status=status, again=again)
    response = Response(page, status)
    if status == 503:
        response.headers["Retry-After"] = "30"
    return response
