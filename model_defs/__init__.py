"""Model definitions: one `nn.Module` a file, which needs only torch and is copied into an archive."""
