"""The docs as a site: pages that are made from the source, and the build that the API serves at /docs."""
