"""One batch on its way through the hooks: requests, inputs, outputs, and the failures of single ones."""
