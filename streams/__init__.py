"""Live market data: streams of books, trades, own orders, prices and candles."""
