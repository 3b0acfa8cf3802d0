"""Where Records rest: the spool of each worker, the shipper that empties it, and the ledger."""
