"""Messages, records, taxonomies and readers."""
