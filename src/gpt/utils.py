"""The seed's retry settings, mapped onto the policy of `protocol/retry.py`."""

from __future__ import annotations

from dataclasses import dataclass

from gpt.errors import InvalidRequestError
from gpt.protocol.retry import Retry

__all__ = ["BackoffStrategy", "Retries", "RetryConfig"]


@dataclass
class BackoffStrategy:
    """How waits grow. The three times are in milliseconds; each wait is at most `exponent` times the last."""

    initial_interval: int
    max_interval: int
    exponent: float
    max_elapsed_time: int


@dataclass
class RetryConfig:
    """Whether and how to try again. `strategy` is "backoff", or "none" for never."""

    strategy: str
    backoff: BackoffStrategy | None = None
    retry_connection_errors: bool = False


@dataclass
class Retries:
    """A RetryConfig with the statuses that it is for, such as "429" or "5XX"."""

    config: RetryConfig
    status_codes: list[str]


def policy(config: RetryConfig) -> Retry:
    """The policy that a RetryConfig means: attempts until `max_elapsed_time` is over. Raises InvalidRequestError."""
    if config.strategy == "none":
        return Retry(attempts=1)
    if config.strategy != "backoff":
        raise InvalidRequestError(
            f'retry_config.strategy: expected "backoff" or "none", got {config.strategy!r}', param="retry_config.strategy"
        )
    backoff = config.backoff
    if backoff is None:
        return Retry(connection_errors=config.retry_connection_errors)
    return Retry(
        attempts=1_000_000,
        initial=backoff.initial_interval / 1000,
        throttled=backoff.initial_interval / 1000,
        maximum=backoff.max_interval / 1000,
        exponent=backoff.exponent,
        connection_errors=config.retry_connection_errors,
        total=backoff.max_elapsed_time / 1000,
    )
