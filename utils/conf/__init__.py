"""conf.yaml and the command line: what may be set, what it decides, and how it is read."""
