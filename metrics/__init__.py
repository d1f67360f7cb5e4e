"""vitxai.metrics: see docs/architecture.md."""
