"""A CSV file for an Italian spreadsheet program, as an answer."""

import io
from collections.abc import Iterable, Mapping
from typing import Any

from flask import Response

from station.export import CsvWriter


def csv_file(name: str, titles: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> Response:
    """Return a file of these rows; `titles` are its columns, by the rows' names. `name` is plain ASCII."""
    sink = io.BytesIO()
    writer = CsvWriter(sink, list(titles), titles=list(titles.values()), italian=True)
    for row in rows:  # one after the other: a hundred thousand at once were 160 MB
        writer.write([dict(row)])
    writer.close()
    headers = {"Content-Disposition": f'attachment; filename="{name}.csv"'}
    return Response(sink.getvalue(), content_type="text/csv; charset=utf-8", headers=headers)
