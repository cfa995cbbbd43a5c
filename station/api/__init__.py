"""The feed: an HTTP API that readers ask for receipts in the order of delivery. `station api` serves it."""
