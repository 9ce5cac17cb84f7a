"""From requests to answers, with a loaded handler."""
