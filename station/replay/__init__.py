"""The use case: documents go through `intake.accept` again, or receipts are read again from their stored documents.

In here: `documents` (refused requests and files), `sources` (finding documents in files), `archives` and `unpack` (zip,
tar and compressed files), `stored` (receipts that are stored already), `conflict` (how a refused request differs from
the stored receipt). Replaying is idempotent: if it was stopped halfway, run it again.
"""

from station.replay.conflict import differences_from_stored
from station.replay.documents import Replay, ReplayItem, Verdict
from station.replay.sources import STDIN
from station.replay.stored import Reading, Reread, StoredItem
from station.replay.unpack import UnpackLimits

__all__ = [
    "STDIN",
    "Reading",
    "Replay",
    "ReplayItem",
    "Reread",
    "StoredItem",
    "UnpackLimits",
    "Verdict",
    "differences_from_stored",
]
