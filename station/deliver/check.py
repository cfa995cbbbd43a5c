"""What is wrong with a destination as this machine sees it: a folder that cannot be written, an address not to call."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from urllib.parse import urlsplit

from station import config
from station.deliver import address


def problems(
    settings: config.Settings, *, offline: bool = False, resolve: address.Resolve = address.resolve
) -> Iterator[str]:
    """Yield what would keep `station deliver` from serving a destination. `offline`: ask no DNS."""
    for destination in settings.destination:
        problem = None
        if isinstance(destination, config.Folder):
            problem = folder_problem(destination)
        elif isinstance(destination, config.Webhook):
            problem = address_problem(destination, offline=offline, resolve=resolve)
        if problem:
            yield f"destination {destination.name}: {problem}"


def address_problem(webhook: config.Webhook, *, offline: bool, resolve: address.Resolve) -> str | None:
    """Return why the host of a webhook would not be called; `None` if it would."""
    parts = urlsplit(webhook.url)
    host = parts.hostname or ""
    loopback = parts.scheme == "http"
    is_address = ":" in host or host.replace(".", "").isdecimal()
    if offline and not is_address:
        return None
    try:
        addresses = resolve(host, parts.port or 443)
    except (OSError, UnicodeError):
        return f"the host {host} has no address in the DNS"
    if any(address.is_allowed(one, webhook.private_addresses, loopback=loopback) for one in addresses):
        return None
    return (
        f"{host} is {', '.join(addresses[:3])}, no public address: it is not called unless private_addresses has its "
        "network"
    )


def folder_problem(folder: config.Folder) -> str | None:
    """Return why files cannot be written into a folder, or its command cannot be run; `None` if they can.

    Write and remove a file: rights, a full disk and a read-only mount show only then.
    """
    place = Path(folder.path)
    if not place.is_dir():
        return f"{folder.path} is not a folder, or not one that this user may see"
    try:
        with NamedTemporaryFile(dir=place, prefix=".station-test-") as file:
            file.write(b"test")
            file.flush()
    except OSError as error:
        return f"{folder.path} cannot be written to ({error.strerror})"
    if folder.after and shutil.which(folder.after[0]) is None:
        return f"the command of `after`, {folder.after[0]}, is not there or may not be run"
    return None
