"""The trading page: HTML, one style sheet and ES modules, without a framework and without a build."""
