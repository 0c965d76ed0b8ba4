"""A page to draw digits on: `python -m predict.demo`."""
