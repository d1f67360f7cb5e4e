"""vitxai.datasets: see docs/architecture.md."""
