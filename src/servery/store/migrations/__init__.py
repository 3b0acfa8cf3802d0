"""The schemas of the ledger and of the state as sequences of changes, run when a database is opened."""
