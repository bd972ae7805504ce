"""Kept for scripts that import this name: the order log is in `engine.order_log`."""

from engine.order_log import OrderLog

__all__ = ["OrderLog"]
