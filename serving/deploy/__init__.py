"""What a cluster is told to serve archives: documents in YAML for Kubernetes and for KServe."""
