"""The exchange below its doors: orders, market data, authentication and readiness. It knows no transport."""
