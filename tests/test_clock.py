"""The clock is set while a receipt is worked on."""

from datetime import UTC, datetime, timedelta

import pytest
from build import a_request, an_envelope

from station import config, contract, intake, store
from station.intake import Intake, Origin, Result
from station.receipt import Source


@pytest.mark.parametrize("days", [-40, 40, 4000])
def test_set(database_url, monkeypatch, days):
    """Whatever the journal then says of the time it took, the receipt is stored."""
    engine = store.connect(database_url)
    shifted = datetime.now(UTC) - timedelta(days=days)

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return shifted.astimezone(tz)

    monkeypatch.setattr(intake, "datetime", Clock)  # when it arrived; the journal looks at the clock afterwards
    document = contract.parse(an_envelope(a_request()), None)
    outcome = Intake(engine, config.Settings()).accept(
        document, contract.request_element(document.root), Origin(Source.PUSH)
    )
    assert outcome.result is Result.STORED
    engine.dispose()
