"""The core: what an order is, how it enters the log and how it gets matched."""
