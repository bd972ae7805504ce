"""What operators see: metrics, the journal of requests, traces, and the definition of panels and alerts."""
