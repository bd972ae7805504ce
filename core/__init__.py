"""What every part builds on, without I/O: model, rules, errors, settings, and how a service process lives."""
