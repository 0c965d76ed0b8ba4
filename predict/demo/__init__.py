"""A page that classifies drawings and pictures: `python -m predict.demo`."""
