"""Tests of deploy/: manifests, chart, template, container files, and the validators of them."""
