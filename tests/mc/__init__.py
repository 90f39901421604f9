"""Monte-Carlo passes: adapters, audits, predictions and their summaries."""
