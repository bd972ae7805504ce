"""Ids that say where a page begins."""

import re

from core.errors import InvalidRequest, Violation
from core.model import SEQUENCE_PATTERN
from core.rules import printable
from core.settings import CARD_PATTERN

SEQUENCE = re.compile(SEQUENCE_PATTERN)
ORDER_ID_RULE = "must be an order_id, like pikachu-1001"
TRADE_ID_RULE = "must be a trade_id, like pikachu-t17"
BOTH_RULE = "must not be given together with before"


def parse_id(field: str, name: str, separator: str, rule: str) -> tuple[str, int]:
    """Splits an order_id or a trade_id into card and number.

    Raises:
        InvalidRequest: the text is no such id; the error names the field and the rule.
    """
    card, found, digits = name.rpartition(separator)
    if not found or not CARD_PATTERN.fullmatch(card) or not SEQUENCE.fullmatch(digits):
        raise InvalidRequest([Violation(field, f"invalid_{field}", rule, printable(name))])
    return card, int(digits)
