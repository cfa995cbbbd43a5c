"""The receivers that docs/delivery-webhook.md shows, run as they are: each takes what is genuine alone."""

import os
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest
from process import free_port

from station import config
from station.deliver.webhook import WebhookClient, send_test

FOLDER = Path(__file__).parent.parent / "docs" / "receivers"
SECRET = "whsec_c3RhdGlvbi10ZXN0LXNlY3JldC0wMDAwMDAwMQ=="
OTHER = "whsec_c3RhdGlvbi10ZXN0LXNlY3JldC0wMDAwMDAwMg=="
COMMANDS = {
    "receiver.py": (sys.executable, "{file}", "{port}"),
    "receiver.js": ("node", "{file}", "{port}"),
    "receiver.php": ("php", "-S", "127.0.0.1:{port}", "{file}"),
}


@pytest.fixture(params=COMMANDS)
def receiver(request, tmp_path):
    """A running receiver: its URL, and the file with what it printed."""
    program, *arguments = COMMANDS[request.param]
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    port = free_port()
    arguments = [one.format(file=FOLDER / request.param, port=port) for one in arguments]
    printed = tmp_path / "printed"
    with printed.open("wb") as out:
        process = subprocess.Popen(
            [program, *arguments], env=os.environ | {"WEBHOOK_SECRET": SECRET}, stdout=out, cwd=tmp_path
        )
    url = f"http://127.0.0.1:{port}/hook"
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                httpx.post(url, content=b"")
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield url, printed
    finally:
        process.kill()
        process.wait()


def a_webhook(url, secret=SECRET, previous=None):
    values = {"name": "erp", "kind": "webhook", "url": url, "secret": secret, "previous_secret": previous}
    return config.Webhook.model_validate(values)


def test_receiver(receiver):
    """It takes what is signed by its secret, also while that is rotated, and refuses other signatures and old ones."""
    url, printed = receiver
    settings = config.Settings()
    assert send_test(settings, a_webhook(url)).status == 204
    assert send_test(settings, a_webhook(url, OTHER, SECRET)).status == 204
    assert send_test(settings, a_webhook(url, OTHER)).status == 401
    long_ago = WebhookClient(a_webhook(url), now=lambda: datetime.now(UTC) - timedelta(minutes=6))
    assert long_ago.send("evt_1", b"{}").status == 401
    long_ago.close()
    assert httpx.post(url, content=b"{}").status_code == 401
    assert printed.read_text().count("station.test evt_test_") == 2


def test_ten_lines():
    """The check of the signature is short enough to be read, and to be taken over."""
    for name in COMMANDS:
        lines = [line for line in (FOLDER / name).read_text().splitlines() if line.strip()]
        assert len(lines) < 35, name
