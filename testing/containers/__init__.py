"""Containers for real: an engine, the image, compose, and what is left of orders when containers are killed."""
