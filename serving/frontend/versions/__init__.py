"""Which versions of models there are, and which of them get the requests that name none: rules, without I/O."""
