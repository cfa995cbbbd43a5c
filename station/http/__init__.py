"""What serves HTTP: the gunicorn worker, its request reader, TLS, who may send, health and metrics."""
