"""One batch on its way through the hooks: requests, inputs, outputs, and failures of single requests."""
