"""The web console: what is served, how it does, and a request to try, in a browser."""
