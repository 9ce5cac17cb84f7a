"""Where a build's options come from when nobody types them: a project file, a folder, an older archive."""
