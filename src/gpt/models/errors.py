"""The seed's name of the error for an answered failure."""

from gpt.errors import ResponseError as SDKError

__all__ = ["SDKError"]
