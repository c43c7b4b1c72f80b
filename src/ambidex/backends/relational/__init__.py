"""What SQLite and PostgreSQL share: ports written once as SQL statements over a small executor; no I/O of its own."""
