"""model-config.yaml: read within bounds, checked, and interpreted as the server would."""
