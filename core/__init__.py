"""Code that all packages import, without I/O: model, rules, errors, settings, and the life of a service process."""
