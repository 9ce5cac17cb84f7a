"""Sources of a build's options besides the command line: a project file, a folder, an older archive."""
