"""Kept for scripts that import this name: the model is `core.model`."""

from core.model import CancelOrder, Order, PlaceOrder, Side, Status, TimeInForce, Trade

__all__ = ["CancelOrder", "Order", "PlaceOrder", "Side", "Status", "TimeInForce", "Trade"]
