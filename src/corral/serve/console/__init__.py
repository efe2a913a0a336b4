"""The console: server-rendered pages to watch, search, review and try decisions, and to edit policies."""
