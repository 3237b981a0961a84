"""Predictions along a stream of events: where windows end, what models show, files and videos."""
