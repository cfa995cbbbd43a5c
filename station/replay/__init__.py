"""The use case: documents are sent once more through `intake.accept`, or receipts are read again from their documents.

In here: `documents` (refused requests and files), `sources` (what stands in files and archives), `stored` (receipts
that are stored already), `conflict` (how a refused one differs from the stored one). Replaying is idempotent: what was
stopped halfway is run again.
"""

from station.replay.conflict import differences_from_stored
from station.replay.documents import Item, Replay, Verdict
from station.replay.sources import STDIN, Limits
from station.replay.stored import Reading, Reread, Selection, StoredItem

__all__ = [
    "STDIN",
    "Item",
    "Limits",
    "Reading",
    "Replay",
    "Reread",
    "Selection",
    "StoredItem",
    "Verdict",
    "differences_from_stored",
]
