"""From a model's folder to a published repository; `inference/publish.py` is the order of the steps."""
