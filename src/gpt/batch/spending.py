"""How much a job may still take. Arithmetic.

What is under way counts at what an answer before it took on average, so that the limit is passed by less than rows differ.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import Literal, TypeAlias

import msgspec

from gpt.batch.progress import Tally
from gpt.errors import GptError, InvalidRequestError

Limit: TypeAlias = Literal["max_cost", "max_tokens"]


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What a job may take in all its runs together: money, in the one currency that its answers cost, and tokens."""

    max_cost: Decimal | None = None
    max_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.max_cost is not None and not (self.max_cost.is_finite() and self.max_cost > 0):
            raise InvalidRequestError(f"max_cost: expected an amount above 0, got {self.max_cost}", param="max_cost")
        tokens = self.max_tokens
        if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
            raise InvalidRequestError(f"max_tokens: expected an int from 1, got {tokens!r}", param="max_tokens")

    @classmethod
    def of(cls, max_cost: Decimal | float | str | None, max_tokens: int | None) -> Spending:
        """The limits that a caller named. Raises InvalidRequestError."""
        try:
            cost = None if max_cost is None else Decimal(str(max_cost))
        except InvalidOperation:
            raise InvalidRequestError(f"max_cost: expected an amount above 0, got {max_cost!r}", param="max_cost") from None
        return cls(max_cost=cost, max_tokens=max_tokens)

    def allows(self, tally: Tally, under_way: int) -> bool | Limit:
        """Whether one more row may be asked: True; False, not before one that is under way has ended; or the limit reached.

        Until it is known what a row takes, one is asked at a time. Raises GptError where a limit could not be kept to.
        """
        reached = self.reached(tally, under_way)
        if reached is not None:
            return False if under_way else reached
        limited = self.max_tokens is not None or self.max_cost is not None
        return not (limited and under_way and not _taking(tally))

    def reached(self, tally: Tally, under_way: int) -> Limit | None:
        """The limit that is passed when one more row is asked beside those that are under way; None where none is.

        Raises GptError where answers do not tell what they took, or their cost is not known: then a limit could not be kept to.
        """
        if self.max_tokens is not None:
            if tally.without_usage:
                raise GptError(
                    "max_tokens: the server does not tell how many tokens an answer took, so that the limit could not be kept "
                    "to; leave it out, and limit rows (limit) or time (deadline)"
                )
            if not _fits(Decimal(tally.tokens), Decimal(self.max_tokens), tally, under_way):
                return "max_tokens"
        if self.max_cost is not None:
            if tally.without_price:
                raise GptError(
                    "max_cost: what an answer costs is not known here, so that the limit could not be kept to; give prices "
                    "for the model (prices=, --price), or limit tokens (max_tokens)"
                )
            costs = {currency: amount for currency, amount in tally.costs.items() if amount}
            if len(costs) > 1:
                raise GptError(f"max_cost: answers cost in several currencies ({', '.join(sorted(costs))})")
            if not _fits(sum(costs.values(), Decimal(0)), self.max_cost, tally, under_way):
                return "max_cost"
        return None

    def share(self, part: float) -> Spending:
        """A part of it, for one of several that have no driver."""
        tokens = None if self.max_tokens is None else max(1, int(self.max_tokens * part))
        return Spending(max_cost=None if self.max_cost is None else self.max_cost * Decimal(str(part)), max_tokens=tokens)


def _taking(tally: Tally) -> int:
    """Rows that tell what a row takes: those that were answered, and not from the cache."""
    return max(0, tally.answered - tally.from_cache)


def _fits(taken: Decimal, most: Decimal, tally: Tally, under_way: int) -> bool:
    rows = _taking(tally)
    mean = taken / rows if rows else Decimal(0)
    return taken < most and taken + mean * (under_way + 1) <= most
