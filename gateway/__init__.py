"""The gateway: OpenAI's API in front of an inference server, with keys, limits and stored conversations."""

VERSION = "0.2.0"
