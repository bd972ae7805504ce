"""Tests: quick ones without servers, the oracle and scenarios on the real server (marker `server`)."""
